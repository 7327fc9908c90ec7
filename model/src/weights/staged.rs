//! Weights from files to a GPU without a detour: threads read pieces of the files into pinned memory, from which the GPU copies
//! them to where they are computed with, while others are read. Only for numbers that are stored as they are computed with; what
//! must be decoded is decoded on the host (`WeightFiles::get`).

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::pipeline::stream;
use super::plain::PlainTensor;
use super::read::{WeightFiles, not_finite};
use crate::architecture::TensorSpec;
use crate::error::ModelError;
use crate::gpu::{DeviceMark, Gpu, StagingBuffer, address};

/// Bytes of a piece: what a thread reads and looks through while it is in the processor's cache, and enough for a copy to run at
/// the bus's rate.
const PIECE: usize = 1 << 20;

/// Buffers in all, and those of them that may be on their way to the GPU.
const BUFFERS: usize = 16;
const UNDER_WAY: usize = 8;

/// Threads that read: four copy out of the page cache as fast as a PCIe bus takes it.
const READERS: usize = 4;

/// Tensors that are to be brought to a GPU.
pub(crate) struct StagedWeights<'f> {
    files: &'f WeightFiles,
    gpu: Gpu,
    dtype: DType,
    sources: Vec<SourceFile>,
    /// Stored names, and the tensors' files.
    tensors: Vec<(String, usize)>,
    pieces: Vec<StagedPiece>,
}

struct SourceFile {
    path: PathBuf,
    file: File,
}

/// Some bytes of a tensor, and their address on the GPU.
struct StagedPiece {
    tensor: usize,
    /// In the tensor.
    first: usize,
    /// In the file.
    offset: u64,
    length: usize,
    to: u64,
}

/// Why a piece did not arrive.
enum LoadTrouble {
    Read(usize, std::io::Error),
    Device(candle_core::Error),
}

impl<'f> StagedWeights<'f> {
    /// Of these files, for a GPU; `None` for a device whose memory is the host's.
    pub(crate) fn new(
        files: &'f WeightFiles,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Self>, ModelError> {
        let Some(gpu) = Gpu::at(device)? else { return Ok(None) };
        let is_known = matches!(dtype, DType::BF16 | DType::F16 | DType::F32);
        let (sources, tensors, pieces) = (Vec::new(), Vec::new(), Vec::new());
        let fresh = Self { files, gpu, dtype, sources, tensors, pieces };
        Ok((is_known && cfg!(target_endian = "little")).then_some(fresh))
    }

    /// Whether the tensor of `spec` can be brought as it is stored. Errors: it is missing or of another shape.
    pub(crate) fn takes(&self, spec: &TensorSpec) -> Result<bool, ModelError> {
        Ok(self.files.plain(spec, self.dtype)?.is_some())
    }

    /// Memory for some tensors, one below the other, that [`StagedWeights::load`] writes.
    pub(crate) fn room(&self, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.gpu.unwritten(shape, self.dtype)?)
    }

    /// Plans the tensor of `spec`, which [`StagedWeights::takes`], for the rows `room`.
    pub(crate) fn add(&mut self, spec: &TensorSpec, room: &Tensor) -> Result<(), ModelError> {
        let plain = self.files.plain(spec, self.dtype)?;
        let Some(PlainTensor { path, file_bytes, stored_name, bytes }) = plain else {
            return Err(
                candle_core::Error::Msg(format!("{} is not stored as {:?}", spec.name, self.dtype)).into()
            );
        };
        let source = match self.sources.iter().position(|source| source.path == path) {
            Some(source) => source,
            None => {
                let file = selfplay_records::open_regular(path).map_err(|e| ModelError::io(path, e))?;
                let length = file.metadata().map_err(|e| ModelError::io(path, e))?.len();
                if length != file_bytes as u64 {
                    let what =
                        format!("it had {file_bytes} bytes when its header was read, and has {length} now");
                    return Err(ModelError::input(path, what, "let nobody write it meanwhile"));
                }
                self.sources.push(SourceFile { path: path.to_path_buf(), file });
                self.sources.len() - 1
            }
        };
        let (tensor, to) = (self.tensors.len(), address(room)?);
        self.tensors.push((stored_name.to_owned(), source));
        for first in (0..bytes.len()).step_by(PIECE) {
            let length = PIECE.min(bytes.len() - first);
            let (offset, to) = ((bytes.start + first) as u64, to + first as u64);
            self.pieces.push(StagedPiece { tensor, first, offset, length, to });
        }
        Ok(())
    }

    /// Brings all that was planned, and waits until it is there.
    ///
    /// # Errors
    /// A failed read, a number that is not finite, the error of the device.
    pub(crate) fn load(self) -> Result<(), ModelError> {
        let Self { gpu, dtype, sources, tensors, pieces, .. } = self;
        let size = pieces.iter().map(|piece| piece.length).max().unwrap_or(0);
        if size == 0 {
            return Ok(());
        }
        let count = BUFFERS.min(pieces.len() + 1);
        let buffers = (0..count).map(|_| gpu.staging(size)).collect::<candle_core::Result<Vec<_>>>()?;
        // The first number that is not finite, by its piece: later pieces may be read earlier.
        let bad = Mutex::new(None::<(usize, usize)>);
        let read = |piece: &StagedPiece, bytes: &mut [u8]| {
            let bytes = &mut bytes[..piece.length];
            let SourceFile { file, .. } = &sources[tensors[piece.tensor].1];
            read_at(file, bytes, piece.offset).map_err(|error| LoadTrouble::Read(piece.tensor, error))?;
            if let Some(index) = first_not_finite(bytes, dtype) {
                let found = (piece.tensor, piece.first / dtype.size_in_bytes() + index);
                let mut bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
                *bad = Some(bad.map_or(found, |before| before.min(found)));
            }
            Ok(())
        };
        let mut under_way: VecDeque<(Box<dyn DeviceMark>, StagingBuffer)> = VecDeque::new();
        let most = UNDER_WAY.min(count - 1).max(1);
        let sink = |piece: &StagedPiece, buffer: StagingBuffer, free: &dyn Fn(StagingBuffer)| {
            gpu.copy_in(&buffer, 0..piece.length, piece.to).map_err(LoadTrouble::Device)?;
            under_way.push_back((gpu.mark().map_err(LoadTrouble::Device)?, buffer));
            while under_way.len() >= most
                && let Some((mark, buffer)) = under_way.pop_front()
            {
                mark.wait().map_err(LoadTrouble::Device)?;
                free(buffer);
            }
            Ok(())
        };
        let outcome = stream(&pieces, buffers, READERS, read, sink);
        // Also after an error: the GPU still reads them.
        let arrived = under_way.iter().try_for_each(|(mark, _)| mark.wait());
        outcome.map_err(|trouble| match trouble {
            LoadTrouble::Read(tensor, error) => ModelError::io(&sources[tensors[tensor].1].path, error),
            LoadTrouble::Device(error) => error.into(),
        })?;
        arrived?;
        match bad.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((tensor, index)) => {
                let (stored_name, source) = &tensors[tensor];
                Err(not_finite(&sources[*source].path, stored_name, index))
            }
            None => Ok(()),
        }
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    static ALONE: Mutex<()> = Mutex::new(());
    // A handle has one place, whoever reads.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut file = file;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(bytes)
}

/// The place of the first NaN or infinity among numbers of `dtype`: those whose exponent has all its bits.
fn first_not_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    /// Numbers that are looked at together, without a branch among them.
    const TOGETHER: usize = 256;
    fn first<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool + Copy) -> Option<usize> {
        let numbers = bytes.as_chunks::<N>().0;
        let blocks = numbers.chunks(TOGETHER).enumerate();
        let any = |block: &[[u8; N]]| block.iter().fold(false, |any, &number| any | is_bad(number));
        for (place, block) in blocks {
            if any(block) {
                return block.iter().position(|&number| is_bad(number)).map(|at| place * TOGETHER + at);
            }
        }
        None
    }
    let all_ones = |mask: u16| move |number| u16::from_le_bytes(number) & mask == mask;
    match dtype {
        DType::BF16 => first(bytes, all_ones(0x7F80)),
        DType::F16 => first(bytes, all_ones(0x7C00)),
        _ => first(bytes, |number| u32::from_le_bytes(number) & 0x7F80_0000 == 0x7F80_0000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_found_where_they_are() {
        let mut numbers: Vec<half::bf16> =
            (0..5000).map(|i| half::bf16::from_f32(i as f32 - 2500.0)).collect();
        let bytes = |numbers: &[half::bf16]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        numbers[7] = half::bf16::MAX;
        assert_eq!(first_not_finite(&bytes(&numbers), DType::BF16), None);
        for (place, bad) in
            [(4999, half::bf16::NAN), (1023, half::bf16::NEG_INFINITY), (0, half::bf16::INFINITY)]
        {
            numbers[place] = bad;
            assert_eq!(first_not_finite(&bytes(&numbers), DType::BF16), Some(place));
        }
        for (dtype, bad, good) in [
            (DType::F32, f32::NAN.to_le_bytes().to_vec(), f32::MAX.to_le_bytes().to_vec()),
            (DType::F16, half::f16::NAN.to_le_bytes().to_vec(), half::f16::MAX.to_le_bytes().to_vec()),
        ] {
            assert_eq!(first_not_finite(&[good.clone(), good.clone()].concat(), dtype), None);
            assert_eq!(first_not_finite(&[good, bad].concat(), dtype), Some(1));
        }
    }
}
