//! How a tensor's numbers are written in a file, and how they become numbers.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::nf4::Nf4Parts;
use crate::architecture::StoredDtype;

/// Numbers decoded by one task: 64 Ki are large enough to hide its cost, and whole blocks of every format.
const DECODE_CHUNK: usize = 1 << 16;

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
    match Encoding::of_ggml(format) {
        Encoding::Plain(dtype) => plain(bytes, dtype, &mut values),
        _ => blocks(bytes, format, &mut values),
    }
    values
}

/// A tensor's numbers, converted; the error is the flat index of the first one that is not finite.
pub(super) fn decode<T: Clone + Default + Send>(
    place: &TensorLocation,
    bytes: &[u8],
    convert: impl Fn(f32) -> T + Sync,
) -> Result<Vec<T>, usize> {
    let shift = if place.adjustment == Adjustment::MinusOne { -1.0 } else { 0.0 };
    let read = |bytes: &[u8], out: &mut [f32]| match &place.encoding {
        Encoding::Plain(dtype) => plain(bytes, *dtype, out),
        Encoding::Blocks(format) => blocks(bytes, *format, out),
        // They have readers of their own.
        Encoding::Nf4(_) | Encoding::Other(_) => out.fill(f32::NAN),
    };
    let chunk_bytes = match &place.encoding {
        Encoding::Plain(dtype) => DECODE_CHUNK * dtype.dtype().size_in_bytes(),
        Encoding::Blocks(format) => DECODE_CHUNK / format.block_size() * format.type_size(),
        Encoding::Nf4(_) | Encoding::Other(_) => return Err(0),
    };
    let mut values = vec![T::default(); place.element_count()];
    let first_bad = values
        .par_chunks_mut(DECODE_CHUNK)
        .zip(bytes.par_chunks(chunk_bytes))
        .enumerate()
        .filter_map(|(chunk, (values, bytes))| {
            let mut numbers = vec![0.0; values.len()];
            read(bytes, &mut numbers);
            let mut bad = None;
            for (index, (value, number)) in values.iter_mut().zip(numbers).enumerate() {
                if !number.is_finite() && bad.is_none() {
                    bad = Some(chunk * DECODE_CHUNK + index);
                }
                *value = convert(if shift == 0.0 { number } else { number + shift });
            }
            bad
        })
        .min();
    match (first_bad, place.adjustment) {
        (Some(bad), _) => Err(bad),
        (None, Adjustment::UnpairRows { heads }) => {
            Ok(unpaired(&values, heads, place.shape[1..].iter().product()))
        }
        (None, _) => Ok(values),
    }
}

/// Rows 2i and 2i + 1 of each head, `width` numbers each, as its rows i and i + d/2.
fn unpaired<T: Clone>(values: &[T], heads: usize, width: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(values.len() / heads) {
        for half in 0..2 {
            let rows = head.chunks_exact(width).skip(half).step_by(2);
            rows.for_each(|row| out.extend_from_slice(row));
        }
    }
    out
}

fn plain(bytes: &[u8], dtype: StoredDtype, out: &mut [f32]) {
    let width = dtype.dtype().size_in_bytes();
    for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(width)) {
        *value = match (dtype, bytes) {
            (StoredDtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (StoredDtype::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            (StoredDtype::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            _ => f32::NAN,
        };
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
