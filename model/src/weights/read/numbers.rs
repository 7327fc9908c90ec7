//! A tensor's numbers out of its file: all of them, or a range of them without the rest.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::super::encoding::{decode_into, part_bytes};
use super::super::{Encoding, TensorLocation, release};
use super::{WeightFiles, not_finite};
use crate::architecture::TensorSpec;
use crate::cpu::storage::{unwritten_tensor, with_slice_mut};
use crate::error::ModelError;

impl WeightFiles {
    /// The tensor of `spec` as `dtype` (f32, f64, bf16 or f16) on `device`.
    ///
    /// Errors: it is missing, of another shape, stored in a format other than f32, bf16 and f16, or holds a number
    /// that is not finite.
    pub fn get(&self, spec: &TensorSpec, dtype: DType, device: &Device) -> Result<Tensor, ModelError> {
        let place = self.checked_place(spec)?;
        if let Encoding::Nf4(_) = place.encoding {
            let matrix = self.nf4_at(place)?;
            return Ok(matrix.dense(dtype)?.reshape(spec.shape.as_slice())?.to_device(device)?);
        }
        let numbers = self.numbers(place, 0..place.element_count(), dtype)?;
        Ok(numbers.reshape(spec.shape.as_slice())?.to_device(device)?)
    }

    /// Some numbers of the tensor of `spec`, in the order of memory, flat, in memory of their own: as `dtype` on `device`. Nothing else of
    /// the file is read, unless the numbers do not stand by themselves in it (four bits, rows that change places): then the whole
    /// tensor is, and is in the host's memory for a moment.
    ///
    /// Errors: as [`WeightFiles::get`] of these numbers; a range that the tensor does not have.
    pub fn get_range(
        &self,
        spec: &TensorSpec,
        numbers: Range<usize>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, ModelError> {
        let place = self.checked_place(spec)?;
        let count = place.element_count();
        if numbers.start > numbers.end || numbers.end > count {
            return Err(ModelError::value(
                format!("{} has {count} numbers, not {numbers:?}", spec.name),
                "this is a fault of selfplay: report it",
            ));
        }
        if place.has_part(&numbers) {
            return Ok(self.numbers(place, numbers, dtype)?.to_device(device)?);
        }
        let whole = self.get(spec, dtype, &Device::Cpu)?.flatten_all()?;
        Ok(whole.narrow(0, numbers.start, numbers.len())?.force_contiguous()?.to_device(device)?)
    }

    /// Reads the tensor of `spec` into memory of f32 or f64 on the host.
    ///
    /// Errors: as [`WeightFiles::get`]; it is stored in the blocks of NF4.
    pub(crate) fn read_into(&self, spec: &TensorSpec, room: &Tensor) -> Result<(), ModelError> {
        let place = self.checked_place(spec)?;
        self.read_numbers(place, 0..place.element_count(), room)
    }

    /// Numbers of a tensor, flat, on the host.
    fn numbers(
        &self,
        place: &TensorLocation,
        numbers: Range<usize>,
        dtype: DType,
    ) -> Result<Tensor, ModelError> {
        let count = numbers.len();
        match dtype {
            DType::F32 | DType::F64 => {
                let room = unwritten_tensor(count, dtype)?;
                self.read_numbers(place, numbers, &room)?;
                Ok(room)
            }
            DType::BF16 => {
                let values = self.decoded(place, numbers, half::bf16::from_f32)?;
                Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
            }
            DType::F16 => {
                let values = self.decoded(place, numbers, half::f16::from_f32)?;
                Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
            }
            other => Err(ModelError::value(
                format!("weights cannot be computed in {other:?}"),
                "use f32, f64, bf16 or f16",
            )),
        }
    }

    /// Reads as many numbers as `room` has, of f32 or f64.
    fn read_numbers(
        &self,
        place: &TensorLocation,
        numbers: Range<usize>,
        room: &Tensor,
    ) -> Result<(), ModelError> {
        let bytes = self.stored_bytes(place, &numbers)?;
        let read = match room.dtype() {
            DType::F64 => with_slice_mut(room, |values| decode_into(place, bytes, values, f64::from))?,
            _ => with_slice_mut(room, |values: &mut [f32]| decode_into(place, bytes, values, |x| x))?,
        };
        self.read_out(place, &numbers, read)
    }

    /// Numbers of a tensor, converted.
    fn decoded<T: Copy + Default + Send>(
        &self,
        place: &TensorLocation,
        numbers: Range<usize>,
        convert: impl Fn(f32) -> T + Sync,
    ) -> Result<Vec<T>, ModelError> {
        let bytes = self.stored_bytes(place, &numbers)?;
        let mut values = vec![T::default(); numbers.len()];
        let read = decode_into(place, bytes, &mut values, convert);
        self.read_out(place, &numbers, read)?;
        Ok(values)
    }

    /// Where numbers of a tensor stand, which can be read. Errors: its format is none of f32, bf16 and f16.
    fn stored_bytes(&self, place: &TensorLocation, numbers: &Range<usize>) -> Result<&[u8], ModelError> {
        self.stored_dtype_at(place)?;
        Ok(self.shards[place.shard].map.get(part_bytes(place, numbers.clone())).unwrap_or(&[]))
    }

    /// Lets go of the pages of numbers that were read, and names the one that is not finite.
    pub(in crate::weights) fn read_out(
        &self,
        place: &TensorLocation,
        numbers: &Range<usize>,
        read: Result<(), usize>,
    ) -> Result<(), ModelError> {
        let shard = &self.shards[place.shard];
        read.map_err(|index| not_finite(&shard.path, &place.stored_name, numbers.start + index))?;
        release(&shard.map, &part_bytes(place, numbers.clone()));
        Ok(())
    }
}
