//! Weights from files to a GPU without a detour: threads read pieces of the files into pinned memory, from which the GPU copies
//! them to where they are computed with, while others are read. Numbers that are not stored as they are computed with are decoded by the
//! threads that read them. What the whole of a tensor is needed for (NF4, rows that change places) is left to `WeightFiles::get`.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use candle_core::{DType, Device, Tensor};

use super::finite::first_not_finite;
use super::pipeline::stream;
use super::read::{WeightFiles, not_finite};
use super::streamed::StreamedTensor;
use crate::architecture::TensorSpec;
use crate::error::ModelError;
use crate::gpu::{DeviceMark, Gpu, GpuMechanism, StagingBuffer, address, bytes_of};

/// Bytes of a piece: enough for a copy to run at the bus's rate, and whole blocks of every format.
const PIECE: usize = 1 << 20;

/// Bytes that a thread reads and then looks through: a quarter of the smallest second-level cache of a server's core, so that they are
/// still there.
const STRIDE: usize = 1 << 18;

/// Buffers in all, and those of them that may be on their way to the GPU.
const BUFFERS: usize = 16;
const UNDER_WAY: usize = 8;

/// Threads that read at most where nothing is decoded: four copy out of the page cache as fast as a PCIe bus takes it.
const MOST_READERS: usize = 4;

/// Tensors that are to be brought to a GPU.
pub(crate) struct StagedWeights<'f> {
    files: &'f WeightFiles,
    gpu: Gpu,
    dtype: DType,
    sources: Vec<SourceFile>,
    tensors: Vec<StagedTensor<'f>>,
    pieces: Vec<StagedPiece>,
}

struct SourceFile {
    path: PathBuf,
    file: File,
}

/// A tensor, and which of the files it is in.
struct StagedTensor<'f> {
    stored: StreamedTensor<'f>,
    source: usize,
}

/// Some bytes of a tensor as it is computed with, and their address on the GPU.
struct StagedPiece {
    tensor: usize,
    /// In the tensor.
    first: usize,
    length: usize,
    to: u64,
}

/// Why a piece did not arrive.
enum LoadTrouble {
    /// Of which file.
    Read(usize, std::io::Error),
    Device(candle_core::Error),
}

impl<'f> StagedWeights<'f> {
    /// Of these files, for a GPU; `None` for a device whose memory is the host's, or where tensors are to come one by one.
    pub(crate) fn new(
        files: &'f WeightFiles,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Self>, ModelError> {
        let Some(gpu) = Gpu::at(device)? else { return Ok(None) };
        if GpuMechanism::StagedLoading.is_left_out() {
            return Ok(None);
        }
        let is_known = matches!(dtype, DType::BF16 | DType::F16 | DType::F32);
        let (sources, tensors, pieces) = (Vec::new(), Vec::new(), Vec::new());
        let fresh = Self { files, gpu, dtype, sources, tensors, pieces };
        Ok((is_known && cfg!(target_endian = "little")).then_some(fresh))
    }

    /// Whether the tensor of `spec` can be brought piece by piece. Errors: it is missing or of another shape.
    pub(crate) fn takes(&self, spec: &TensorSpec) -> Result<bool, ModelError> {
        Ok(self.files.streamed(spec, self.dtype)?.is_some())
    }

    /// Memory for some tensors, one below the other, that [`StagedWeights::load`] writes.
    pub(crate) fn room(&self, shape: &[usize]) -> Result<Tensor, ModelError> {
        Ok(self.gpu.unwritten(shape, self.dtype)?)
    }

    /// Plans the tensor of `spec`, which [`StagedWeights::takes`], for the rows `room`.
    pub(crate) fn add(&mut self, spec: &TensorSpec, room: &Tensor) -> Result<(), ModelError> {
        let Some(stored) = self.files.streamed(spec, self.dtype)? else {
            return Err(candle_core::Error::Msg(format!("{} is not stored in pieces", spec.name)).into());
        };
        let (path, file_bytes) = (stored.path, stored.map.len());
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
        let bytes = bytes_of(room);
        self.tensors.push(StagedTensor { stored, source });
        for first in (0..bytes).step_by(PIECE) {
            self.pieces.push(StagedPiece {
                tensor,
                first,
                length: PIECE.min(bytes - first),
                to: to + first as u64,
            });
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
        let found_bad = |piece: &StagedPiece, index: usize| {
            let found = (piece.tensor, piece.first / dtype.size_in_bytes() + index);
            let mut bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
            *bad = Some(bad.map_or(found, |before| before.min(found)));
        };
        let read = |piece: &StagedPiece, bytes: &mut [u8]| {
            let (StagedTensor { stored, source }, room) =
                (&tensors[piece.tensor], &mut bytes[..piece.length]);
            if !stored.is_plain {
                let bad = stored.decode(piece.first / dtype.size_in_bytes(), room, dtype);
                bad.into_iter().for_each(|index| found_bad(piece, index));
                return Ok(());
            }
            let offset = stored.bytes().start + piece.first;
            for (stride, bytes) in room.chunks_mut(STRIDE).enumerate() {
                let first = stride * STRIDE;
                read_at(&sources[*source].file, bytes, (offset + first) as u64)
                    .map_err(|error| LoadTrouble::Read(*source, error))?;
                let bad = first_not_finite(bytes, dtype);
                bad.into_iter().for_each(|index| found_bad(piece, first / dtype.size_in_bytes() + index));
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
        // The thread that hands pieces to the GPU waits for most of the time.
        let most_readers =
            if tensors.iter().all(|tensor| tensor.stored.is_plain) { MOST_READERS } else { BUFFERS };
        let readers = thread::available_parallelism().map_or(1, |cores| cores.get().min(most_readers));
        let outcome = stream(&pieces, buffers, readers, read, sink);
        // Also after an error: the GPU still reads them.
        let arrived = under_way.iter().try_for_each(|(mark, _)| mark.wait());
        outcome.map_err(|trouble| match trouble {
            LoadTrouble::Read(source, error) => ModelError::io(&sources[source].path, error),
            LoadTrouble::Device(error) => error.into(),
        })?;
        arrived?;
        match bad.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((tensor, index)) => {
                let stored = &tensors[tensor].stored;
                Err(not_finite(stored.path, &stored.place.stored_name, index))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{Result, bail};

    use super::*;
    use crate::architecture::{ParameterKind, StoredDtype};
    use crate::gpu::{Captured, Gemm, Launch, Launcher, PageLocker, emulate};
    use crate::weights::safetensors;

    /// A device of the host's memory.
    struct CopyingDevice;

    impl PageLocker for CopyingDevice {}

    impl Launcher for CopyingDevice {
        fn launch(&self, launch: &Launch) -> Result<()> {
            bail!("no {} here", launch.kernel)
        }

        fn gemm(&self, _: &Gemm) -> Result<()> {
            bail!("no product here")
        }

        fn begin_capture(&self) -> Result<()> {
            bail!("nothing is recorded")
        }

        fn end_capture(&self) -> Result<Box<dyn Captured>> {
            bail!("nothing is recorded")
        }
    }

    /// Numbers of three pieces in f32, two in bf16.
    const COUNT: usize = 2 * (PIECE / 4) + 1000;

    fn staged(path: &std::path::Path, dtype: DType) -> std::result::Result<Tensor, ModelError> {
        let files = WeightFiles::open_file(path)?;
        let spec = TensorSpec { name: "x".to_owned(), shape: vec![COUNT], kind: ParameterKind::Matrix };
        let _device = emulate(Arc::new(CopyingDevice));
        let mut weights = StagedWeights::new(&files, dtype, &Device::Cpu)?.unwrap();
        assert!(weights.takes(&spec)?);
        let room = weights.room(&spec.shape)?;
        weights.add(&spec, &room)?;
        weights.load()?;
        Ok(room)
    }

    #[test]
    fn numbers_arrive_as_they_are_computed_with_however_they_are_stored() {
        let folder = tempfile::tempdir().unwrap();
        let mut numbers: Vec<f32> = (0..COUNT).map(|index| (index as f32).sin()).collect();
        for stored in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
            for bad in [None, Some(3), Some(COUNT - 1), Some(PIECE / 4 + STRIDE / 4)] {
                let path = folder.path().join(format!("{}.safetensors", stored.safetensors_name()));
                let before = bad.map(|bad| std::mem::replace(&mut numbers[bad], f32::INFINITY));
                let tensor = Tensor::from_slice(&numbers, COUNT, &Device::Cpu).unwrap();
                safetensors::write(&path, &[("x", &tensor)], stored).unwrap();
                for dtype in [DType::F32, DType::BF16] {
                    match bad {
                        None => {
                            let want = tensor.to_dtype(stored.dtype()).unwrap().to_dtype(DType::F32).unwrap();
                            let want = want.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
                            let found = staged(&path, dtype).unwrap().to_dtype(DType::F32).unwrap();
                            assert!(found.to_vec1::<f32>().unwrap() == want.to_vec1::<f32>().unwrap());
                        }
                        Some(bad) => {
                            let error = staged(&path, dtype).unwrap_err().to_string();
                            let words = format!("tensor x holds a NaN or an infinity at flat index {bad}");
                            assert!(error.contains(&words), "{error}");
                        }
                    }
                }
                if let (Some(bad), Some(before)) = (bad, before) {
                    numbers[bad] = before;
                }
            }
        }
    }
}
