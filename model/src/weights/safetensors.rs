//! The safetensors format: the one writer, and a reader that streams.
//!
//! A checkpoint of an 8B model has 32 GB of weights and as much optimizer state: a file is streamed from and into the tensors,
//! piece by piece, and never held a second time in memory. The layout is 8 bytes of header length, a JSON header padded
//! to 8 bytes, then the numbers, little-endian. Foreign files are read by [`super::WeightFiles`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, Metadata};
use candle_core::{DType, Device, Tensor};
use selfplay_records::{WriteError, atomic};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Stored;
use crate::architecture::StoredDtype;
use crate::cpu::storage::with_slice_mut;
use crate::error::ModelError;

/// Numbers converted at a time while writing.
const WRITE_CHUNK: usize = 1 << 20;
/// Numbers converted at a time while reading.
const READ_CHUNK: usize = 1 << 16;

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

/// What goes through it is hashed.
struct Hashing<'a, T> {
    inner: T,
    hash: &'a mut Sha256,
}

impl<T: Write> Write for Hashing<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<'_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hash.update(&bytes[..read]);
        Ok(read)
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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

/// A tensor and the name that it has in a file.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// f32 or u8, contiguous. A handle: cloning a tensor does not copy its values.
    pub tensor: Tensor,
}

/// A file of tensors of f32 and u8 that [`write()`] wrote, opened for reading.
pub struct TensorFile {
    path: PathBuf,
    reader: BufReader<File>,
    /// By place in the file.
    entries: Vec<Entry>,
    /// Of what was read so far.
    hash: Sha256,
    /// Of the whole file, where it is known.
    expected: Option<String>,
}

/// What the header says of a tensor.
struct Entry {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
}

impl TensorFile {
    /// Reads the header. `sha256` is what [`write()`] returned: what was read is held against it at the end.
    ///
    /// # Errors
    /// An absent file, a damaged header, a file cut short or of another length, a tensor that is neither f32
    /// nor u8.
    pub fn open(path: &Path, sha256: Option<&str>) -> Result<Self, ModelError> {
        let io = |source| ModelError::io(path, source);
        let damaged = |problem| ModelError::Damaged { path: path.to_owned(), problem };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut hash = Sha256::new();
        let mut reader = Hashing { inner: &mut file, hash: &mut hash };
        let mut length = [0u8; 8];
        reader.read_exact(&mut length).map_err(|e| damaged(format!("no header: {e}")))?;
        let length = u64::from_le_bytes(length);
        if length > size.saturating_sub(8) {
            return Err(damaged(format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = vec![0u8; length as usize];
        reader.read_exact(&mut header).map_err(|e| damaged(format!("header cut short: {e}")))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| {
            let what = if e.is_data() { "an entry of the header is wrong" } else { "header is not JSON" };
            damaged(format!("{what}: {e}"))
        })?;
        let mut entries = Vec::new();
        for name in metadata.offset_keys() {
            let info = metadata.info(&name).map(|info| (info.dtype, info.shape.clone()));
            let (dtype, shape) = match info {
                Some((Dtype::F32, shape)) => (DType::F32, shape),
                Some((Dtype::U8, shape)) => (DType::U8, shape),
                _ => return Err(damaged(format!("entry {name:?} is not a whole tensor of f32 or u8"))),
            };
            entries.push(Entry { name, shape, dtype });
        }
        let promised = 8 + length + metadata.data_len() as u64;
        if promised != size {
            return Err(damaged(format!("{size} bytes, the header promises {promised}")));
        }
        let expected = sha256.map(str::to_owned);
        Ok(Self { path: path.to_owned(), reader: file, entries, hash, expected })
    }

    /// Overwrites the given tensors of f32 in place; names and shapes must be exactly the file's.
    ///
    /// # Errors
    /// A tensor that only one side has or whose shapes or types differ; a failed read.
    pub fn read_into(mut self, tensors: &[NamedTensor]) -> Result<(), ModelError> {
        let by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|n| (n.name.as_str(), &n.tensor)).collect();
        if let Some(absent) =
            by_name.keys().find(|name| !self.entries.iter().any(|entry| entry.name == **name))
        {
            return Err(self.damaged(format!("no tensor {absent:?}, which the model has")));
        }
        for Entry { name, shape, dtype } in std::mem::take(&mut self.entries) {
            let Some(tensor) = by_name.get(name.as_str()) else {
                return Err(self.damaged(format!("tensor {name:?}, which the model lacks")));
            };
            if dtype != DType::F32 {
                return Err(self.damaged(format!("tensor {name:?} of {dtype:?}, the model's is f32")));
            }
            if tensor.dims() != shape.as_slice() {
                let dims = tensor.dims();
                return Err(
                    self.damaged(format!("tensor {name:?} of shape {shape:?}, the model's is {dims:?}"))
                );
            }
            if tensor.device().is_cpu() {
                with_slice_mut::<f32, _>(tensor, |values| self.fill(values))??;
            } else {
                let values = self.values(tensor.elem_count())?;
                tensor.slice_set(&Tensor::from_vec(values, tensor.shape(), tensor.device())?, 0, 0)?;
            }
        }
        self.check_hash()
    }

    /// The tensors, in the file's order, on `device`.
    ///
    /// # Errors
    /// A failed read; out of memory on the device.
    pub fn read_all(mut self, device: &Device) -> Result<Vec<NamedTensor>, ModelError> {
        let mut tensors = Vec::with_capacity(self.entries.len());
        for Entry { name, shape, dtype } in std::mem::take(&mut self.entries) {
            let count = shape.iter().product();
            let tensor = match dtype {
                DType::U8 => Tensor::from_vec(self.bytes(count)?, shape, device)?,
                _ => Tensor::from_vec(self.values(count)?, shape, device)?,
            };
            tensors.push(NamedTensor { name, tensor });
        }
        self.check_hash()?;
        Ok(tensors)
    }

    /// Whether a tensor is left to read by [`TensorFile::read_next`].
    pub fn has_next(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The next tensor in the file's order, on the host.
    ///
    /// # Errors
    /// None is left; a failed read.
    pub fn read_next(&mut self) -> Result<NamedTensor, ModelError> {
        if self.entries.is_empty() {
            return Err(self.damaged("has fewer tensors than the model".to_owned()));
        }
        let Entry { name, shape, dtype } = self.entries.remove(0);
        let count = shape.iter().product();
        let tensor = match dtype {
            DType::U8 => Tensor::from_vec(self.bytes(count)?, shape, &Device::Cpu)?,
            _ => Tensor::from_vec(self.values(count)?, shape, &Device::Cpu)?,
        };
        Ok(NamedTensor { name, tensor })
    }

    /// Holds what was read against the hash, when all tensors were.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn finish(self) -> Result<(), ModelError> {
        self.check_hash()
    }

    /// The tensors lie one behind the other to the file's end, so that by now every byte was read.
    fn check_hash(self) -> Result<(), ModelError> {
        let found = hex(self.hash);
        if self.expected.as_ref().is_none_or(|expected| *expected == found) {
            return Ok(());
        }
        let problem = "is damaged: its sha256 is not the one that was written down with it".to_owned();
        Err(ModelError::Damaged { path: self.path, problem })
    }

    fn values(&mut self, count: usize) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0f32; count];
        self.fill(&mut values)?;
        Ok(values)
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0u8; count];
        Hashing { inner: &mut self.reader, hash: &mut self.hash }
            .read_exact(&mut bytes)
            .map_err(|source| ModelError::io(&self.path, source))?;
        Ok(bytes)
    }

    /// Fills `values` with the numbers that come next.
    fn fill(&mut self, values: &mut [f32]) -> Result<(), ModelError> {
        let mut bytes = vec![0u8; 4 * READ_CHUNK.min(values.len().max(1))];
        for chunk in values.chunks_mut(READ_CHUNK) {
            let bytes = &mut bytes[..4 * chunk.len()];
            Hashing { inner: &mut self.reader, hash: &mut self.hash }
                .read_exact(bytes)
                .map_err(|source| ModelError::io(&self.path, source))?;
            for (value, four) in chunk.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
        Ok(())
    }

    fn damaged(&self, problem: String) -> ModelError {
        ModelError::Damaged { path: self.path.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_named(path: &Path, tensors: &[NamedTensor]) -> String {
        let pairs: Vec<_> = tensors.iter().map(|n| (n.name.as_str(), &n.tensor)).collect();
        write(path, &pairs, StoredDtype::F32).unwrap()
    }

    fn named(name: &str, values: &[f32], shape: &[usize]) -> NamedTensor {
        NamedTensor {
            name: name.into(),
            tensor: Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap(),
        }
    }

    #[test]
    fn what_is_written_comes_back_bit_for_bit_and_safetensors_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let tensors =
            [named("b", &[1.0, -0.0, f32::MIN_POSITIVE / 8.0, 3.4e38], &[2, 2]), named("a", &[0.1], &[1])];
        let hash = write_named(&path, &tensors);
        let bytes = std::fs::read(&path).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("b").unwrap().shape(), [2, 2]);
        assert_eq!(theirs.tensor("a").unwrap().data(), 0.1f32.to_le_bytes());
        let into = [named("a", &[9.0], &[1]), named("b", &[9.0; 4], &[2, 2])];
        TensorFile::open(&path, Some(&hash)).unwrap().read_into(&into).unwrap();
        let bits = |t: &Tensor| -> Vec<u32> {
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(&into[1].tensor), bits(&tensors[0].tensor));
        let all = TensorFile::open(&path, Some(&hash)).unwrap().read_all(&Device::Cpu).unwrap();
        assert_eq!((all[0].name.as_str(), all[0].tensor.dims()), ("b", &[2usize, 2][..]));
    }

    #[test]
    fn bytes_are_stored_as_they_are_beside_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let bytes = Tensor::from_vec(vec![0u8, 127, 128, 255, 3], 5, &Device::Cpu).unwrap();
        let tensors = [NamedTensor { name: "codes".into(), tensor: bytes }, named("a", &[0.5, 2.0], &[2])];
        let hash = write_named(&path, &tensors);
        let stored = std::fs::read(&path).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&stored).unwrap();
        assert_eq!(theirs.tensor("codes").unwrap().data(), [0, 127, 128, 255, 3]);
        let all = TensorFile::open(&path, Some(&hash)).unwrap().read_all(&Device::Cpu).unwrap();
        assert_eq!(all[0].tensor.to_vec1::<u8>().unwrap(), [0, 127, 128, 255, 3]);
        assert_eq!(all[1].tensor.to_vec1::<f32>().unwrap(), [0.5, 2.0]);
        let into = [named("codes", &[0.0; 5], &[5]), named("a", &[9.0; 2], &[2])];
        let refused = TensorFile::open(&path, None).unwrap().read_into(&into).unwrap_err().to_string();
        assert!(refused.contains("\"codes\" of U8"), "{refused}");
    }

    #[test]
    fn damage_and_misfits_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        write_named(&path, &[named("a", &[1.0, 2.0], &[2])]);
        let read = |into: &[NamedTensor]| {
            TensorFile::open(&path, None).and_then(|f| f.read_into(into)).unwrap_err().to_string()
        };
        assert!(read(&[named("a", &[0.0], &[1])]).contains("shape"));
        assert!(read(&[named("c", &[0.0], &[1])]).contains("\"c\""));
        assert!(read(&[]).contains("lacks"));
        let bytes = std::fs::read(&path).unwrap();
        atomic::write_bytes(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(read(&[]).contains("promises"));
        let mut absurd = bytes.clone();
        absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        atomic::write_bytes(&path, &absurd).unwrap();
        assert!(read(&[]).contains("header of"));
        let text = |from: &str, to: &str| {
            let header = String::from_utf8_lossy(&bytes[8..bytes.len() - 8]).replace(from, to);
            let length = (header.len() as u64).to_le_bytes();
            let parts = [&length[..], header.as_bytes(), &bytes[bytes.len() - 8..]].concat();
            atomic::write_bytes(&path, &parts).unwrap();
            read(&[])
        };
        assert!(text("\"__metadata__\"", "__metadata__").contains("not JSON"));
        assert!(text("[0,8]", "[0,9]").contains("header is wrong"));
        assert!(text("[2]", "[4611686018427387904,2]").contains("header is wrong"));
        assert!(text("\"F32\",\"shape\":[2]", "\"F64\",\"shape\":[1]").contains("not a whole tensor of f32"));
    }

    /// Byte for byte what the format's reference writer makes of the same tensors, but for its order of entries.
    #[test]
    fn the_bytes_are_fixed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        write_named(&path, &[named("b", &[1.0, -2.0], &[1, 2]), named("a", &[0.5], &[1])]);
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
        let padded = format!("{header:<width$}", width = header.len().next_multiple_of(8));
        let mut want = (padded.len() as u64).to_le_bytes().to_vec();
        want.extend(padded.as_bytes());
        want.extend([1.0f32, -2.0, 0.5].iter().flat_map(|x| x.to_le_bytes()));
        assert_eq!(std::fs::read(&path).unwrap(), want);
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let hash = write_named(&path, &[named("a", &[1.0, 2.0], &[2]), named("b", &[0.5], &[1])]);
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            atomic::write_bytes(&path, &flipped).unwrap();
            let read = |file: TensorFile| file.read_all(&Device::Cpu);
            let error =
                TensorFile::open(&path, Some(&hash)).and_then(read).expect_err(&format!("byte {place}"));
            assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
        }
    }
}
