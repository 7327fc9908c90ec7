//! The reader of files that [`super::write()`] wrote.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, Metadata};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::hashing::{Hashing, hex};
use crate::cpu::storage::with_slice_mut;
use crate::error::ModelError;

/// Numbers converted at a time while reading.
const READ_CHUNK: usize = 1 << 16;

/// A tensor and the name that it has in a file.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// f32 or u8, contiguous. A handle: cloning a tensor does not copy its values.
    pub tensor: Tensor,
}

/// A file of tensors of f32 and u8 that [`super::write()`] wrote, opened for reading.
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
    /// Reads the header. `sha256` is what [`super::write()`] returned: what was read is held against it at the end.
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
