//! The numbers of a tensor, looked through where they stand in the file: what a load would refuse, without the memory of one.

use rayon::prelude::*;

use super::encoding::decode_part;
use super::finite::first_not_finite;
use super::read::WeightFiles;
use super::{Encoding, TensorLocation};
use crate::architecture::TensorSpec;
use crate::error::ModelError;

/// Numbers that a task looks at: whole blocks of every format.
const CHUNK: usize = 1 << 18;

/// How the numbers of a tensor that was looked through are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredNumbers {
    /// One by one, or in blocks that are decoded when they are read.
    Dense,
    /// In four bits that are computed with as they are.
    FourBits,
}

impl WeightFiles {
    /// Looks through the tensor of `spec`.
    ///
    /// Errors: as [`WeightFiles::get`].
    pub(crate) fn look_through(&self, spec: &TensorSpec) -> Result<StoredNumbers, ModelError> {
        let place = self.checked_place(spec)?;
        if let Encoding::Nf4(_) = place.encoding {
            return self.nf4_at(place).map(|_| StoredNumbers::FourBits);
        }
        self.stored_dtype_at(place)?;
        let bad = first_bad(place, self.bytes(place));
        self.read_out(place, &(0..place.element_count()), bad.map_or(Ok(()), Err))?;
        Ok(StoredNumbers::Dense)
    }
}

/// The flat index of the first number that is not finite.
fn first_bad(place: &TensorLocation, bytes: &[u8]) -> Option<usize> {
    match &place.encoding {
        Encoding::Plain(dtype) => {
            let dtype = dtype.dtype();
            let chunks = bytes.par_chunks(CHUNK * dtype.size_in_bytes()).enumerate();
            let bad = chunks.filter_map(|(chunk, bytes)| {
                first_not_finite(bytes, dtype).map(|index| chunk * CHUNK + index)
            });
            bad.min()
        }
        Encoding::Blocks(format) => {
            let chunks = bytes.par_chunks(CHUNK / format.block_size() * format.type_size()).enumerate();
            let bad = chunks.filter_map(|(chunk, bytes)| {
                let mut numbers = vec![0f32; bytes.len() / format.type_size() * format.block_size()];
                decode_part(place, bytes, &mut numbers, |x| x).map(|index| chunk * CHUNK + index)
            });
            bad.min()
        }
        // They have readers of their own.
        Encoding::Nf4(_) | Encoding::Other(_) => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::architecture::{ParameterKind, StoredDtype};
    use crate::weights::safetensors;

    /// What is refused, and with which words, is what a read refuses.
    #[test]
    fn what_a_read_would_refuse_is_refused_in_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let count = 2 * CHUNK + 77;
        let spec = TensorSpec { name: "x".to_owned(), shape: vec![count], kind: ParameterKind::Matrix };
        let mut numbers: Vec<f32> = (0..count).map(|index| (index as f32).cos()).collect();
        for stored in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
            for bad in [None, Some(0), Some(CHUNK - 1), Some(CHUNK), Some(count - 1)] {
                let before = bad.map(|bad| std::mem::replace(&mut numbers[bad], f32::NAN));
                let path = folder.path().join("x.safetensors");
                let tensor = Tensor::from_slice(&numbers, count, &Device::Cpu).unwrap();
                safetensors::write(&path, &[("x", &tensor)], stored).unwrap();
                let files = WeightFiles::open_file(&path).unwrap();
                let read = files.get(&spec, DType::F32, &Device::Cpu).map(drop).map_err(|e| e.to_string());
                let looked = files.look_through(&spec).map_err(|e| e.to_string());
                assert_eq!(looked.clone().map(drop), read);
                match bad {
                    None => assert_eq!(looked, Ok(StoredNumbers::Dense)),
                    Some(bad) => assert!(looked.unwrap_err().contains(&format!("at flat index {bad}"))),
                }
                let other = TensorSpec { shape: vec![1, count], ..spec.clone() };
                assert!(files.look_through(&other).unwrap_err().to_string().contains("has shape"));
                if let (Some(bad), Some(before)) = (bad, before) {
                    numbers[bad] = before;
                }
            }
        }
    }
}
