//! The one writer of the format.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Tensor};
use selfplay_records::{WriteError, atomic};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::Stored;
use super::hashing::{Hashing, hex};
use crate::architecture::StoredDtype;

/// Numbers converted at a time while writing.
const WRITE_CHUNK: usize = 1 << 20;

/// Writes the tensors in the order given, every number as `format`; those of u8 as they are. Returns the file's SHA-256.
///
/// # Errors
/// A failed write, or a device that does not give its numbers.
pub fn write(path: &Path, tensors: &[(&str, &Tensor)], format: StoredDtype) -> Result<String, WriteError> {
    let stored: Vec<(&str, Stored<'_>)> =
        tensors.iter().map(|(name, tensor)| (*name, Stored::from(*tensor))).collect();
    write_stored(path, &stored, format)
}

/// As [`write()`], of tensors some of which are made when their turn comes.
///
/// # Errors
/// As [`write()`]; what making one says.
pub fn write_stored(
    path: &Path,
    tensors: &[(&str, Stored<'_>)],
    format: StoredDtype,
) -> Result<String, WriteError> {
    let header = header(tensors, format);
    let mut hash = Sha256::new();
    atomic::write(path, |file: &mut dyn Write| {
        let out = &mut Hashing { inner: file, hash: &mut hash };
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|(_, stored)| {
            let dtype = if stored.is_bytes() { DType::U8 } else { format.dtype() };
            write_tensor(out, &stored.tensor().map_err(io::Error::other)?, dtype)
        })
    })?;
    Ok(hex(hash))
}

fn header(tensors: &[(&str, Stored<'_>)], format: StoredDtype) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for (name, tensor) in tensors {
        let (dtype, size) = match tensor.is_bytes() {
            true => ("U8", 1),
            false => (format.safetensors_name(), format.dtype().size_in_bytes()),
        };
        let end = offset + tensor.elem_count() * size;
        let info = json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [offset, end] });
        header.insert((*name).to_owned(), info);
        offset = end;
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    // The numbers begin at a multiple of eight, so that readers can map them in place.
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

fn write_tensor(out: &mut dyn Write, tensor: &Tensor, dtype: DType) -> io::Result<()> {
    let flat = tensor.flatten_all().map_err(io::Error::other)?;
    let count = flat.elem_count();
    let mut bytes = Vec::new();
    for start in (0..count).step_by(WRITE_CHUNK) {
        let numbers = start..count.min(start + WRITE_CHUNK);
        fill_bytes(&mut bytes, &flat, numbers, dtype).map_err(io::Error::other)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Fills `bytes` with some of the numbers of `flat`, converted to `dtype`.
fn fill_bytes(
    bytes: &mut Vec<u8>,
    flat: &Tensor,
    numbers: Range<usize>,
    dtype: DType,
) -> candle_core::Result<()> {
    // Where the dtype stays, a view would bring the whole tensor from the device for each piece.
    let piece = flat.narrow(0, numbers.start, numbers.len())?.force_contiguous()?.to_dtype(dtype)?;
    bytes.clear();
    match dtype {
        DType::BF16 => bytes.extend(piece.to_vec1::<half::bf16>()?.iter().flat_map(|x| x.to_le_bytes())),
        DType::F16 => bytes.extend(piece.to_vec1::<half::f16>()?.iter().flat_map(|x| x.to_le_bytes())),
        DType::U8 => bytes.extend(piece.to_vec1::<u8>()?),
        _ => bytes.extend(piece.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes())),
    }
    Ok(())
}
