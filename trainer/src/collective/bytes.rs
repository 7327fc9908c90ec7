//! Tensors as bytes, for libraries that know no tensors: in the machine's own order.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};
use selfplay_model::cpu::storage::with_bytes_mut;

/// Runs `work` over the bytes of a contiguous tensor's numbers, in place: in the tensor's own memory on a CPU, through a copy in
/// the host's memory elsewhere.
pub(super) fn on_bytes<R>(tensor: &Tensor, work: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
    if tensor.device().is_cpu() {
        return with_bytes_mut(tensor, work);
    }
    let copy = tensor.flatten_all()?.force_contiguous()?.to_device(&Device::Cpu)?;
    let result = with_bytes_mut(&copy, work)?;
    tensor.flatten_all()?.slice_set(&copy.to_device(tensor.device())?, 0, 0)?;
    Ok(result)
}

/// The bytes of each range of numbers that are `width` bytes wide; the ranges lie one behind the other from 0.
pub(super) fn split<'a>(
    mut bytes: &'a mut [u8],
    ranges: &[Range<usize>],
    width: usize,
) -> Result<Vec<&'a mut [u8]>> {
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let Some((part, rest)) = bytes.split_at_mut_checked(width * range.len()) else {
            bail!("ranges of more numbers than the tensor has")
        };
        parts.push(part);
        bytes = rest;
    }
    Ok(parts)
}

/// sum ← sum + term, number by number, as candle adds tensors of the dtype.
pub(super) fn add_bytes(dtype: DType, sum: &mut [u8], term: &[u8]) -> Result<()> {
    match dtype {
        DType::F32 => add(sum, term, |a, b| (f32::from_ne_bytes(a) + f32::from_ne_bytes(b)).to_ne_bytes()),
        DType::F64 => add(sum, term, |a, b| (f64::from_ne_bytes(a) + f64::from_ne_bytes(b)).to_ne_bytes()),
        DType::BF16 => add(sum, term, |a, b| (bf16::from_ne_bytes(a) + bf16::from_ne_bytes(b)).to_ne_bytes()),
        DType::F16 => add(sum, term, |a, b| (f16::from_ne_bytes(a) + f16::from_ne_bytes(b)).to_ne_bytes()),
        other => bail!("tensors of {other:?} are not summed over ranks"),
    }
    Ok(())
}

fn add<const N: usize>(sum: &mut [u8], term: &[u8], plus: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    for (sum, term) in sum.as_chunks_mut::<N>().0.iter_mut().zip(term.as_chunks::<N>().0) {
        *sum = plus(*sum, *term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_the_bits_of_candles_in_every_dtype() {
        let values: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37 - 5.0) * 1.01f32.powi(i)).collect();
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let whole = Tensor::new(&values[..], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let (a, b) = (whole.narrow(0, 3, 12).unwrap(), whole.narrow(0, 20, 12).unwrap());
            let want = (&a + &b).unwrap();
            let term = on_bytes(&b, |bytes| bytes.to_vec()).unwrap();
            on_bytes(&a, |sum| add_bytes(dtype, sum, &term)).unwrap().unwrap();
            let as_f64 = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(as_f64(&a), as_f64(&want));
            // Nothing else has moved.
            assert_eq!(
                as_f64(&whole)[15..],
                as_f64(&Tensor::new(&values[15..], &Device::Cpu).unwrap().to_dtype(dtype).unwrap())[..]
            );
        }
        let bytes = Tensor::new(&[1u8, 2, 3], &Device::Cpu).unwrap();
        on_bytes(&bytes, |bytes| bytes.reverse()).unwrap();
        assert_eq!(bytes.to_vec1::<u8>().unwrap(), [3, 2, 1]);
        assert!(add_bytes(DType::U8, &mut [], &[]).is_err());
    }

    #[test]
    fn ranges_are_split_by_their_width() {
        let mut bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        let parts = split(&mut bytes, &[0..2, 2..2, 2..5], 2).unwrap();
        assert_eq!(parts, [&[0, 1, 2, 3][..], &[], &[4, 5, 6, 7, 8, 9]]);
        assert!(split(&mut bytes, &[0..2, 2..6], 2).is_err());
    }
}
