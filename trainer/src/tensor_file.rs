//! Named f32 tensors in a safetensors file, written and read piece by piece.
//!
//! A checkpoint of an 8B model has 32 GB of weights and as much optimizer state: the file is streamed from and
//! into the tensors, and never held a second time in memory. The layout is safetensors': 8 bytes of
//! header length, a JSON header padded to 8 bytes, then the data, little-endian.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use candle_core::{DType, Device, Shape, Tensor};
use selfplay_model::kernels::storage::{with_slice, with_slice_mut};
use selfplay_records::atomic;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Values converted at once.
const CHUNK: usize = 64 * 1024;

/// A tensor and the name that it has in a file.
#[derive(Clone, Debug)]
pub(crate) struct NamedTensor {
    pub(crate) name: String,
    /// f32, contiguous. A handle: cloning a tensor does not copy its values.
    pub(crate) tensor: Tensor,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Writes the tensors in the order given.
pub(crate) fn write_tensors(path: &Path, tensors: &[NamedTensor]) -> Result<(), TrainError> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut offset = 0u64;
    for named in tensors {
        let end = offset + 4 * named.tensor.elem_count() as u64;
        let entry =
            Entry { dtype: "F32".into(), shape: named.tensor.dims().to_vec(), data_offsets: [offset, end] };
        let entry = serde_json::to_value(entry).map_err(|e| TrainError::io(path)(e.into()))?;
        header.insert(named.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| TrainError::io(path)(e.into()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(atomic::write(path, |w: &mut dyn Write| {
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(&header)?;
        let mut bytes = Vec::with_capacity(4 * CHUNK);
        for named in tensors {
            let host = host_f32(&named.tensor).map_err(std::io::Error::other)?;
            with_slice::<f32, _>(&host, |values| {
                for chunk in values.chunks(CHUNK) {
                    bytes.clear();
                    bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
                    w.write_all(&bytes)?;
                }
                Ok::<(), std::io::Error>(())
            })
            .map_err(std::io::Error::other)??;
        }
        Ok(())
    })?)
}

/// The tensor as contiguous f32 on the host; a handle to the same memory where it is that already.
fn host_f32(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()
}

/// A tensor file opened for reading.
pub(crate) struct TensorFile {
    path: std::path::PathBuf,
    reader: BufReader<File>,
    /// By place in the file.
    entries: Vec<(String, Entry)>,
}

impl TensorFile {
    /// Reads the header.
    pub(crate) fn open(path: &Path) -> Result<Self, TrainError> {
        let file = File::open(path).map_err(TrainError::io(path))?;
        let size = file.metadata().map_err(TrainError::io(path))?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut length = [0u8; 8];
        let broken = |problem: String| TrainError::Checkpoint { path: path.to_owned(), problem };
        reader.read_exact(&mut length).map_err(|e| broken(format!("no header: {e}")))?;
        let length = u64::from_le_bytes(length);
        if length > size.saturating_sub(8) {
            return Err(broken(format!("a header of {length} bytes in a file of {size}")));
        }
        let mut header = vec![0u8; length as usize];
        reader.read_exact(&mut header).map_err(|e| broken(format!("header cut short: {e}")))?;
        let parsed: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| broken(format!("header is not JSON: {e}")))?;
        let mut entries = Vec::new();
        for (name, value) in parsed {
            if name == "__metadata__" {
                continue;
            }
            let entry: Entry = serde_json::from_value(value)
                .map_err(|e| broken(format!("entry {name:?} of the header: {e}")))?;
            entries.push((name, entry));
        }
        entries.sort_by_key(|(_, entry)| entry.data_offsets[0]);
        let mut expected = 0;
        for (name, entry) in &entries {
            let bytes = 4 * entry.shape.iter().product::<usize>() as u64;
            if entry.dtype != "F32" || entry.data_offsets != [expected, expected + bytes] {
                return Err(broken(format!("entry {name:?} is not a whole f32 tensor")));
            }
            expected += bytes;
        }
        if 8 + length + expected != size {
            return Err(broken(format!("{size} bytes, the header promises {}", 8 + length + expected)));
        }
        Ok(Self { path: path.to_owned(), reader, entries })
    }

    /// Overwrites the given tensors in place; names and shapes must be exactly the file's.
    pub(crate) fn read_into(mut self, tensors: &[NamedTensor]) -> Result<(), TrainError> {
        let by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|n| (n.name.as_str(), &n.tensor)).collect();
        let entries = std::mem::take(&mut self.entries);
        if let Some(absent) = by_name.keys().find(|name| !entries.iter().any(|(have, _)| have == *name)) {
            return Err(self.broken(format!("no tensor {absent:?}, which the model has")));
        }
        for (name, entry) in &entries {
            let Some(tensor) = by_name.get(name.as_str()) else {
                return Err(self.broken(format!("tensor {name:?}, which the model lacks")));
            };
            if tensor.dims() != entry.shape.as_slice() {
                return Err(self.broken(format!(
                    "tensor {name:?} of shape {:?}, the model's is {:?}",
                    entry.shape,
                    tensor.dims()
                )));
            }
            let reader = &mut self.reader;
            if tensor.device().is_cpu() {
                with_slice_mut::<f32, _>(tensor, |values| fill(reader, values))?
                    .map_err(TrainError::io(&self.path))?;
            } else {
                let mut values = vec![0f32; tensor.elem_count()];
                fill(reader, &mut values).map_err(TrainError::io(&self.path))?;
                tensor.slice_set(&Tensor::from_vec(values, tensor.shape(), tensor.device())?, 0, 0)?;
            }
        }
        Ok(())
    }

    /// The tensors, in the file's order, on `device`.
    pub(crate) fn read_all(mut self, device: &Device) -> Result<Vec<NamedTensor>, TrainError> {
        let entries = std::mem::take(&mut self.entries);
        let mut tensors = Vec::with_capacity(entries.len());
        for (name, entry) in entries {
            let shape = Shape::from(entry.shape);
            let mut values = vec![0f32; shape.elem_count()];
            fill(&mut self.reader, &mut values).map_err(TrainError::io(&self.path))?;
            tensors.push(NamedTensor { name, tensor: Tensor::from_vec(values, shape, device)? });
        }
        Ok(tensors)
    }

    fn broken(&self, problem: String) -> TrainError {
        TrainError::Checkpoint { path: self.path.clone(), problem }
    }
}

/// Fills `values` from the reader.
fn fill(reader: &mut impl Read, values: &mut [f32]) -> std::io::Result<()> {
    let mut bytes = vec![0u8; 4 * CHUNK.min(values.len().max(1))];
    for chunk in values.chunks_mut(CHUNK) {
        let bytes = &mut bytes[..4 * chunk.len()];
        reader.read_exact(bytes)?;
        for (value, four) in chunk.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        write_tensors(&path, &tensors).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("b").unwrap().shape(), [2, 2]);
        assert_eq!(theirs.tensor("a").unwrap().data(), 0.1f32.to_le_bytes());
        let into = [named("a", &[9.0], &[1]), named("b", &[9.0; 4], &[2, 2])];
        TensorFile::open(&path).unwrap().read_into(&into).unwrap();
        let bits = |t: &Tensor| -> Vec<u32> {
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(&into[1].tensor), bits(&tensors[0].tensor));
        let all = TensorFile::open(&path).unwrap().read_all(&Device::Cpu).unwrap();
        assert_eq!((all[0].name.as_str(), all[0].tensor.dims()), ("b", &[2usize, 2][..]));
    }

    #[test]
    fn damage_and_misfits_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        write_tensors(&path, &[named("a", &[1.0, 2.0], &[2])]).unwrap();
        let read = |into: &[NamedTensor]| {
            TensorFile::open(&path).and_then(|f| f.read_into(into)).unwrap_err().to_string()
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
    }
}
