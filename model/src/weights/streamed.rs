//! A tensor in a file whose numbers can be read piece by piece, in whatever order.

use std::ops::Range;
use std::path::Path;

use candle_core::DType;
use memmap2::Mmap;

use super::encoding::{TensorLocation, decode_part, part_bytes};
use super::mapped::release;

/// Where it is.
#[derive(Clone, Copy)]
pub(super) struct StreamedTensor<'f> {
    pub(super) path: &'f Path,
    pub(super) map: &'f Mmap,
    pub(super) place: &'f TensorLocation,
    /// Its bytes are those that are computed with.
    pub(super) is_plain: bool,
}

impl StreamedTensor<'_> {
    /// Its bytes in the file.
    pub(super) fn bytes(&self) -> Range<usize> {
        self.place.bytes.clone()
    }

    /// Decodes its numbers from `first` on, as many as `room` has of `dtype` (bf16, f16, else f32), to their little-endian bytes there; the
    /// index of the first one among them that is not finite.
    pub(super) fn decode(&self, first: usize, room: &mut [u8], dtype: DType) -> Option<usize> {
        let bytes = part_bytes(self.place, first..first + room.len() / dtype.size_in_bytes());
        let part = self.map.get(bytes.clone()).unwrap_or(&[]);
        let bad = match dtype {
            DType::BF16 => decode_part(self.place, part, room.as_chunks_mut().0, |number| {
                half::bf16::from_f32(number).to_le_bytes()
            }),
            DType::F16 => decode_part(self.place, part, room.as_chunks_mut().0, |number| {
                half::f16::from_f32(number).to_le_bytes()
            }),
            _ => decode_part(self.place, part, room.as_chunks_mut().0, f32::to_le_bytes),
        };
        release(self.map, &bytes);
        bad
    }
}
