//! How a tensor's numbers are written in a file, and how they become numbers.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::nf4::Nf4Parts;
use crate::architecture::StoredDtype;

/// Numbers decoded by one task: 64 Ki are large enough to hide its cost, and whole blocks of every format.
const DECODE_CHUNK: usize = 1 << 16;
/// Numbers that are looked at together, without a branch among them.
const TOGETHER: usize = 256;

/// Where a tensor is in its file, and how its numbers are written there.
#[derive(Clone, Debug)]
pub(crate) struct TensorLocation {
    /// Which of a model's files.
    pub shard: usize,
    /// The name in the file, prefixes and all.
    pub stored_name: String,
    /// Its shape, outputs first.
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// Its bytes in the file, whose length was held against shape and encoding.
    pub bytes: Range<usize>,
    /// What its numbers need to be those of a folder in Hugging Face's layout.
    pub adjustment: Adjustment,
}

/// How numbers are written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Encoding {
    /// One by one.
    Plain(StoredDtype),
    /// In the blocks of a GGUF.
    Blocks(GgmlDType),
    /// In the blocks of bitsandbytes' NF4, whose scales are other tensors of the file.
    Nf4(Box<Nf4Parts>),
    /// In a format that weights are not stored in, by its name.
    Other(String),
}

/// How a container's numbers differ from a folder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adjustment {
    None,
    /// 1 was added.
    MinusOne,
    /// Rows 2i and 2i + 1 of a head are what a folder has as rows i and i + d/2.
    UnpairRows {
        heads: usize,
    },
}

impl TensorLocation {
    /// How many numbers it has.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether some of its numbers can be read without the others: they stand in the file one after the other, and begin and end
    /// with a block where they stand in blocks.
    pub(super) fn has_part(&self, numbers: &Range<usize>) -> bool {
        let block = match &self.encoding {
            Encoding::Plain(_) => 1,
            Encoding::Blocks(format) => format.block_size(),
            Encoding::Nf4(_) | Encoding::Other(_) => return false,
        };
        !matches!(self.adjustment, Adjustment::UnpairRows { .. })
            && [numbers.start, numbers.end].iter().all(|border| border.is_multiple_of(block))
    }
}

impl Encoding {
    /// The encoding of a GGUF's format.
    pub fn of_ggml(format: GgmlDType) -> Self {
        match format {
            GgmlDType::F32 => Self::Plain(StoredDtype::F32),
            GgmlDType::F16 => Self::Plain(StoredDtype::F16),
            GgmlDType::BF16 => Self::Plain(StoredDtype::Bf16),
            blocks => Self::Blocks(blocks),
        }
    }

    /// The format that numbers of this encoding are written in, computed in on a GPU: bf16 for blocks; `None` where they
    /// cannot be read.
    pub fn written_as(&self) -> Option<StoredDtype> {
        match self {
            Self::Plain(dtype) => Some(*dtype),
            Self::Blocks(_) => Some(StoredDtype::Bf16),
            Self::Nf4(parts) => Some(parts.dtype),
            Self::Other(_) => None,
        }
    }
}

/// The numbers of a GGUF's tensor, finite or not.
pub(crate) fn decode_ggml(bytes: &[u8], format: GgmlDType) -> Vec<f32> {
    let count = bytes.len() / format.type_size() * format.block_size();
    let mut values = vec![0.0; count];
    decode_chunk(&Encoding::of_ggml(format), bytes, &mut values, &|x| x);
    values
}

/// Writes a tensor's numbers, converted, to `values`, which has room for just these; the error is the flat index of the first one that is
/// not finite.
pub(super) fn decode_into<T: Copy + Default + Send>(
    place: &TensorLocation,
    bytes: &[u8],
    values: &mut [T],
    convert: impl Fn(f32) -> T + Sync,
) -> Result<(), usize> {
    match place.adjustment {
        Adjustment::None => decode_chunks(&place.encoding, bytes, values, &convert),
        Adjustment::MinusOne => decode_chunks(&place.encoding, bytes, values, &|x| convert(x - 1.0)),
        Adjustment::UnpairRows { heads } => {
            let mut paired = vec![T::default(); values.len()];
            decode_chunks(&place.encoding, bytes, &mut paired, &convert)?;
            unpair(&paired, values, heads, place.shape[1..].iter().product());
            Ok(())
        }
    }
}

/// The bytes in the file of some of a tensor's numbers; they begin and end with a block, where numbers stand in blocks.
pub(super) fn part_bytes(place: &TensorLocation, numbers: Range<usize>) -> Range<usize> {
    let at = |number: usize| match &place.encoding {
        Encoding::Plain(dtype) => number * dtype.dtype().size_in_bytes(),
        Encoding::Blocks(format) => number / format.block_size() * format.type_size(),
        Encoding::Nf4(_) | Encoding::Other(_) => 0,
    };
    place.bytes.start + at(numbers.start)..place.bytes.start + at(numbers.end)
}

/// Writes some of a tensor's numbers, converted, whose bytes are [`part_bytes`]; its rows must stand as a folder has them. The index of the
/// first one among them that is not finite.
pub(super) fn decode_part<T>(
    place: &TensorLocation,
    bytes: &[u8],
    values: &mut [T],
    convert: impl Fn(f32) -> T,
) -> Option<usize> {
    match place.adjustment {
        Adjustment::MinusOne => decode_chunk(&place.encoding, bytes, values, &|x| convert(x - 1.0)),
        Adjustment::None | Adjustment::UnpairRows { .. } => {
            decode_chunk(&place.encoding, bytes, values, &convert)
        }
    }
}

/// Chunk by chunk, by all threads.
fn decode_chunks<T: Send>(
    encoding: &Encoding,
    bytes: &[u8],
    values: &mut [T],
    convert: &(impl Fn(f32) -> T + Sync),
) -> Result<(), usize> {
    let chunk_bytes = match encoding {
        Encoding::Plain(dtype) => DECODE_CHUNK * dtype.dtype().size_in_bytes(),
        Encoding::Blocks(format) => DECODE_CHUNK / format.block_size() * format.type_size(),
        // They have readers of their own.
        Encoding::Nf4(_) | Encoding::Other(_) => return Err(0),
    };
    let chunks = values.par_chunks_mut(DECODE_CHUNK).zip(bytes.par_chunks(chunk_bytes)).enumerate();
    let bad = chunks.filter_map(|(chunk, (values, bytes))| {
        decode_chunk(encoding, bytes, values, convert).map(|index| chunk * DECODE_CHUNK + index)
    });
    bad.min().map_or(Ok(()), Err)
}

/// Writes all numbers; the index of the first one that is not finite.
fn decode_chunk<T>(
    encoding: &Encoding,
    bytes: &[u8],
    values: &mut [T],
    convert: &impl Fn(f32) -> T,
) -> Option<usize> {
    match encoding {
        Encoding::Plain(StoredDtype::F32) => {
            convert_all(bytes.as_chunks::<4>().0, values, f32::from_le_bytes, convert)
        }
        // The upper half of the same number in f32.
        Encoding::Plain(StoredDtype::Bf16) => {
            let read = |number| f32::from_bits(u32::from(u16::from_le_bytes(number)) << 16);
            convert_all(bytes.as_chunks::<2>().0, values, read, convert)
        }
        Encoding::Plain(StoredDtype::F16) => {
            let (mut halves, mut numbers) = ([half::f16::ZERO; TOGETHER], [0.0; TOGETHER]);
            let mut first = None;
            let blocks = values.chunks_mut(TOGETHER).zip(bytes.chunks(2 * TOGETHER)).enumerate();
            for (block, (values, bytes)) in blocks {
                for (half, number) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = half::f16::from_le_bytes(*number);
                }
                halves.convert_to_f32_slice(&mut numbers);
                let bad = convert_all(&numbers, values, |number| number, convert);
                first = first.or(bad.map(|index| block * TOGETHER + index));
            }
            first
        }
        Encoding::Blocks(format) => {
            let mut numbers = vec![0.0; values.len()];
            blocks(bytes, *format, &mut numbers);
            convert_all(&numbers, values, |number| number, convert)
        }
        Encoding::Nf4(_) | Encoding::Other(_) => Some(0),
    }
}

/// Reads, checks and converts numbers in one pass; the index of the first one that is not finite.
fn convert_all<N: Copy, T>(
    numbers: &[N],
    values: &mut [T],
    read: impl Fn(N) -> f32,
    convert: &impl Fn(f32) -> T,
) -> Option<usize> {
    let mut first = None;
    let blocks = values.chunks_mut(TOGETHER).zip(numbers.chunks(TOGETHER)).enumerate();
    for (block, (values, numbers)) in blocks {
        let mut bad = 0;
        for (value, &number) in values.iter_mut().zip(numbers) {
            let number = read(number);
            // No `bool`, for which vectors are narrowed number by number.
            bad |= u32::from(!number.is_finite());
            *value = convert(number);
        }
        if bad != 0 && first.is_none() {
            let at = numbers[..values.len().min(numbers.len())].iter().position(|&n| !read(n).is_finite());
            first = at.map(|at| block * TOGETHER + at);
        }
    }
    first
}

/// Rows 2i and 2i + 1 of each head, `width` numbers each, as its rows i and i + d/2.
fn unpair<T: Copy>(paired: &[T], values: &mut [T], heads: usize, width: usize) {
    let size = paired.len() / heads;
    for (head, values) in paired.chunks_exact(size).zip(values.chunks_exact_mut(size)) {
        let rows = head.chunks_exact(width);
        let unpaired = rows.clone().step_by(2).chain(rows.skip(1).step_by(2));
        for (row, to) in unpaired.zip(values.chunks_exact_mut(width)) {
            to.copy_from_slice(row);
        }
    }
}

/// Whole blocks, as candle reads them.
fn blocks(bytes: &[u8], format: GgmlDType, out: &mut [f32]) {
    // Two bytes are a block's alignment: tensors of a GGUF begin at multiples of 8, and so do their chunks.
    if !bytes.len().is_multiple_of(format.type_size()) || bytes.as_ptr().align_offset(2) != 0 {
        return out.fill(f32::NAN);
    }
    let count = bytes.len() / format.type_size() * format.block_size();
    match format.from_data(Cow::Borrowed(bytes)).dequantize(count) {
        Ok(CpuStorage::F32(numbers)) if numbers.len() == out.len() => out.copy_from_slice(&numbers),
        _ => out.fill(f32::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dtype: StoredDtype, count: usize, adjustment: Adjustment, shape: &[usize]) -> TensorLocation {
        let encoding = Encoding::Plain(dtype);
        let bytes = 0..count * dtype.dtype().size_in_bytes();
        TensorLocation { shard: 0, stored_name: "x".into(), shape: shape.into(), encoding, bytes, adjustment }
    }

    /// Every number of 16 bits, over and over, with its number in f32 by the crate `half`.
    fn every_number(dtype: StoredDtype, count: usize) -> (Vec<u8>, Vec<f32>) {
        let number = |bits: u16| match dtype {
            StoredDtype::Bf16 => half::bf16::from_bits(bits).to_f32(),
            _ => half::f16::from_bits(bits).to_f32(),
        };
        let finite: Vec<u16> = (0..=u16::MAX).filter(|&bits| number(bits).is_finite()).collect();
        let bits: Vec<u16> = finite.iter().copied().cycle().take(count).collect();
        (bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(), bits.into_iter().map(number).collect())
    }

    #[test]
    fn numbers_of_16_bits_are_read_as_they_are_and_the_first_bad_one_is_named() {
        let count = 3 * DECODE_CHUNK + 77;
        for (dtype, bad) in [(StoredDtype::Bf16, 0xFF80u16), (StoredDtype::F16, 0x7C01)] {
            let place = of(dtype, count, Adjustment::None, &[count]);
            let (mut bytes, want) = every_number(dtype, count);
            let mut values = vec![0f32; count];
            decode_into(&place, &bytes, &mut values, |x| x).unwrap();
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&values) == bits(&want));
            for at in [count - 1, DECODE_CHUNK, DECODE_CHUNK - 1, 300, 0] {
                bytes[2 * at..2 * at + 2].copy_from_slice(&bad.to_le_bytes());
                assert_eq!(decode_into(&place, &bytes, &mut values, |x| x), Err(at));
            }
        }
    }

    #[test]
    fn what_a_container_changes_is_changed_back() {
        let bytes: Vec<u8> = (0..24).flat_map(|n| (n as f32).to_le_bytes()).collect();
        let mut values = [0f64; 24];
        let minus_one = of(StoredDtype::F32, 24, Adjustment::MinusOne, &[24]);
        decode_into(&minus_one, &bytes, &mut values, f64::from).unwrap();
        assert_eq!(values[..3], [-1.0, 0.0, 1.0]);
        // Two heads of six rows of two numbers.
        let unpair = of(StoredDtype::F32, 24, Adjustment::UnpairRows { heads: 2 }, &[12, 2]);
        decode_into(&unpair, &bytes, &mut values, f64::from).unwrap();
        let rows = |first: u32| [0, 2, 4, 1, 3, 5].map(move |row| f64::from(first + 2 * row));
        let firsts: Vec<f64> = values.iter().copied().step_by(2).collect();
        assert_eq!(firsts, [rows(0), rows(12)].concat());
    }
}
