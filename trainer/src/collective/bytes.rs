//! Tensors as bytes, for libraries that know no tensors: in the machine's own order.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};
use selfplay_model::cpu::storage::{with_bytes_mut, with_slice, with_slice_mut};

/// Appends the bytes of a tensor's numbers, wherever it is.
pub(super) fn bytes_of(tensor: &Tensor, bytes: &mut Vec<u8>) -> Result<()> {
    let flat = tensor.flatten_all()?;
    // Of a view on a device, the view alone.
    let flat =
        if flat.device().is_cpu() { flat } else { flat.force_contiguous()?.to_device(&Device::Cpu)? };
    match flat.dtype() {
        DType::F32 => with_slice(&flat, |numbers: &[f32]| append(bytes, numbers, |x| x.to_ne_bytes()))?,
        DType::F64 => with_slice(&flat, |numbers: &[f64]| append(bytes, numbers, |x| x.to_ne_bytes()))?,
        DType::BF16 => append(bytes, &flat.to_vec1::<bf16>()?, |x| x.to_ne_bytes()),
        DType::F16 => append(bytes, &flat.to_vec1::<f16>()?, |x| x.to_ne_bytes()),
        DType::U8 => bytes.extend(flat.to_vec1::<u8>()?),
        other => bail!("tensors of {other:?} do not travel between ranks"),
    }
    Ok(())
}

/// Writes the bytes of as many numbers into a tensor, wherever it is.
pub(super) fn put_bytes(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
    let flat = tensor.flatten_all()?;
    if bytes.len() != flat.elem_count() * flat.dtype().size_in_bytes() {
        bail!("{} bytes for {} numbers of {:?}", bytes.len(), flat.elem_count(), flat.dtype())
    }
    match (flat.dtype(), flat.device()) {
        (DType::F32, Device::Cpu) => {
            with_slice_mut(&flat, |room: &mut [f32]| fill(room, bytes, f32::from_ne_bytes))
        }
        (DType::F64, Device::Cpu) => {
            with_slice_mut(&flat, |room: &mut [f64]| fill(room, bytes, f64::from_ne_bytes))
        }
        (DType::U8, Device::Cpu) => with_bytes_mut(&flat, |room| room.copy_from_slice(bytes)),
        (dtype, device) => flat.slice_set(&tensor_of(dtype, bytes)?.to_device(device)?, 0, 0),
    }
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

fn tensor_of(dtype: DType, bytes: &[u8]) -> Result<Tensor> {
    let device = &Device::Cpu;
    match dtype {
        DType::F32 => Tensor::new(numbers(bytes, f32::from_ne_bytes), device),
        DType::F64 => Tensor::new(numbers(bytes, f64::from_ne_bytes), device),
        DType::BF16 => Tensor::new(numbers(bytes, bf16::from_ne_bytes), device),
        DType::F16 => Tensor::new(numbers(bytes, f16::from_ne_bytes), device),
        DType::U8 => Tensor::new(bytes, device),
        other => bail!("tensors of {other:?} do not travel between ranks"),
    }
}

fn append<T: Copy, const N: usize>(bytes: &mut Vec<u8>, numbers: &[T], to: impl Fn(T) -> [u8; N]) {
    let first = bytes.len();
    bytes.resize(first + N * numbers.len(), 0);
    for (room, &number) in bytes[first..].chunks_exact_mut(N).zip(numbers) {
        room.copy_from_slice(&to(number));
    }
}

fn fill<T, const N: usize>(room: &mut [T], bytes: &[u8], from: impl Fn([u8; N]) -> T) {
    for (number, bytes) in room.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *number = from(*bytes);
    }
}

fn numbers<T, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect()
}

fn add<const N: usize>(sum: &mut [u8], term: &[u8], plus: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    for (sum, term) in sum.as_chunks_mut::<N>().0.iter_mut().zip(term.as_chunks::<N>().0) {
        *sum = plus(*sum, *term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is put is what was taken, and sums have the bits of candle's.
    #[test]
    fn bytes_are_the_numbers_in_every_dtype() {
        let values: Vec<f32> = (0..40).map(|i| (i as f32 * 0.37 - 5.0) * 1.01f32.powi(i)).collect();
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U8] {
            let whole =
                Tensor::new(&values[..], &Device::Cpu).unwrap().abs().unwrap().to_dtype(dtype).unwrap();
            let (a, b) = (whole.narrow(0, 3, 12).unwrap(), whole.narrow(0, 20, 12).unwrap());
            let mut bytes = vec![7];
            bytes_of(&a, &mut bytes).unwrap();
            assert_eq!(bytes.len(), 1 + 12 * dtype.size_in_bytes());
            let copy = whole.zeros_like().unwrap();
            put_bytes(&copy.narrow(0, 5, 12).unwrap(), &bytes[1..]).unwrap();
            let as_f64 = |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(as_f64(&copy)[5..17], as_f64(&a)[..]);
            assert!(put_bytes(&copy, &bytes[1..]).is_err());
            if dtype == DType::U8 {
                assert!(add_bytes(dtype, &mut [], &[]).is_err());
                continue;
            }
            let mut sum = bytes[1..].to_vec();
            let mut term = Vec::new();
            bytes_of(&b, &mut term).unwrap();
            add_bytes(dtype, &mut sum, &term).unwrap();
            put_bytes(&copy.narrow(0, 0, 12).unwrap(), &sum).unwrap();
            assert_eq!(as_f64(&copy)[..12], as_f64(&(a + b).unwrap())[..]);
        }
    }
}
