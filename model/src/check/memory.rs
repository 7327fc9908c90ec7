//! What moves numbers between a GPU's memory and the host's, and what memory comes and goes, each by itself: the very bits that
//! were sent arrive, in the order of the work around them.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::{CheckTarget, MechanismReport, distance, exact, noise};
use crate::architecture::{ParameterKind, StoredDtype, TensorSpec};
use crate::gpu::{
    CopyStart, Gpu, GrowingTensor, LateReads, LockedTensor, StagingBuffer, copy_to_device, copy_to_host,
    host_copies,
};
use crate::ops::elementwise::{add_assign, scale_assign, sum};
use crate::weights::{StagedWeights, WeightFiles, safetensors};

fn gpu_of(target: &CheckTarget) -> Result<Gpu> {
    match Gpu::at(target.device())? {
        Some(gpu) => Ok(gpu),
        None => bail!("there is no GPU"),
    }
}

/// So many numbers on a GPU, fewer on an emulator, which runs every thread for itself.
fn count(device: &Device, on_gpu: usize) -> usize {
    if device.is_cpu() { on_gpu >> 8 } else { on_gpu }
}

/// Several page-locked buffers are on their way to a GPU and back at a time, copy after copy over the same memory.
///
/// # Errors
/// What the device says; a difference is no error.
pub fn compare_staging(target: &CheckTarget) -> Result<MechanismReport> {
    const WORDS: usize = (1 << 18) + 3;
    const BUFFERS: usize = 6;
    target.run(|| {
        let gpu = gpu_of(target)?;
        let word = |buffer: usize, place: usize| (place * BUFFERS + buffer) as u32 ^ 0x9e37_79b9;
        let room = || (0..BUFFERS).map(|_| gpu.staging(4 * WORDS)).collect::<Result<Vec<StagingBuffer>>>();
        let (mut there, mut back) = (room()?, room()?);
        let tensor = gpu.unwritten(WORDS, DType::U32)?;
        for (number, buffer) in there.iter_mut().enumerate() {
            let words = &mut buffer.words_mut()[..WORDS];
            words.iter_mut().enumerate().for_each(|(place, at)| *at = word(number, place));
        }
        for (from, to) in there.iter().zip(&mut back) {
            gpu.copy_in(from, 0..4 * WORDS, crate::gpu::address(&tensor)?)?;
            gpu.copy_out(&tensor, to)?;
        }
        // Also after an error the buffers are still on their way.
        gpu.mark()?.wait()?;
        let wrong = |(number, buffer): (usize, &StagingBuffer)| {
            let words = buffer.words()[..WORDS].iter().enumerate();
            words.filter(|&(place, &found)| found != word(number, place)).count()
        };
        let wrong: usize = back.iter().enumerate().map(wrong).sum();
        let locked = there.iter().chain(&back).filter(|buffer| buffer.is_locked()).count();
        let remark =
            (locked < 2 * BUFFERS).then(|| format!("{locked} of {} buffers are page-locked", 2 * BUFFERS));
        Ok(MechanismReport { found: vec![exact("words there and back", DType::U32, wrong as f64)], remark })
    })
}

/// Copies beside the work, ordered against it on either side.
///
/// # Errors
/// As [`compare_staging`].
pub fn compare_copies(target: &CheckTarget) -> Result<MechanismReport> {
    const ROUNDS: usize = 6;
    target.run(|| {
        let device = target.device();
        let copies = host_copies(device)?;
        let numbers = count(device, 1 << 20);
        let start = noise(&[numbers], 3)?;
        let host = |values: Tensor| LockedTensor::new(&*copies, values);
        let (mut down, mut up) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            down.push(host(Tensor::zeros(numbers, DType::F32, &Device::Cpu)?)?);
            up.push(host(noise(&[numbers], 10 + round as u64)?)?);
        }
        let (x, y) = (start.to_device(device)?.copy()?, Tensor::zeros(numbers, DType::F32, device)?);
        let mut marks = Vec::new();
        for (down, up) in down.iter().zip(&up) {
            // Powers of two: exact.
            scale_assign(&x, 0.5)?;
            let leaves = copy_to_host(&*copies, &x, down.tensor(), CopyStart::AfterWork)?;
            let comes = copy_to_device(&*copies, up.tensor(), &y, CopyStart::AfterWork)?;
            // What comes is read, and what leaves is written, when the copies are done.
            comes.device_waits()?;
            leaves.device_waits()?;
            add_assign(&x, &y)?;
            marks.extend([leaves, comes]);
        }
        marks.iter().try_for_each(|mark| mark.wait())?;
        copies.finish()?;
        let (mut want, mut found) = (start, Vec::new());
        for (round, (down, up)) in down.iter().zip(&up).enumerate() {
            want = (want * 0.5)?;
            let apart = distance(down.tensor(), &want)?;
            found.push(exact(format!("what left in round {round}"), DType::F32, apart));
            want = (&want + up.tensor())?;
        }
        found.push(exact("what came in all rounds", DType::F32, distance(&x, &want)?));
        // One that begins at once, of what is there.
        device.synchronize()?;
        copy_to_device(&*copies, up[0].tensor(), &y, CopyStart::Now)?.wait()?;
        found.push(exact("what came at once", DType::F32, distance(&y, up[0].tensor())?));
        let remark = (!down.iter().chain(&up).all(LockedTensor::is_locked))
            .then(|| "not all of the host's tensors are page-locked".to_owned());
        Ok(MechanismReport { found, remark })
    })
}

/// Numbers that are read when the GPU has been given more to do, each as it was when its read began.
///
/// # Errors
/// As [`compare_staging`].
pub fn compare_late_reads(target: &CheckTarget) -> Result<MechanismReport> {
    const ROUNDS: usize = 5;
    target.run(|| {
        let numbers = count(target.device(), 1 << 16);
        let mut want = noise(&[numbers], 4)?;
        let x = want.to_device(target.device())?.copy()?;
        let (mut reads, mut begun, mut found) = (LateReads::default(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Powers of two: exact.
            scale_assign(&x, 0.5)?;
            begun.push(reads.start(&x)?);
        }
        for (round, read) in begun.into_iter().enumerate() {
            want = (want * 0.5)?;
            let got = Tensor::from_vec(reads.finish(read)?, numbers, &Device::Cpu)?;
            found.push(exact(format!("what was read of round {round}"), DType::F32, distance(&got, &want)?));
        }
        Ok(MechanismReport { found, remark: None })
    })
}

/// A tensor that grows where it stands, gives its memory back and grows again.
///
/// # Errors
/// As [`compare_staging`].
pub fn compare_growing(target: &CheckTarget) -> Result<MechanismReport> {
    const MOST: usize = 300;
    target.run(|| {
        let device = target.device();
        if !GrowingTensor::is_supported(device)? {
            return Ok(MechanismReport::absent("this driver maps no memory to addresses, or it is left out"));
        }
        // 64 KiB to a row of a GPU: a driver's piece is some tens of rows.
        let columns = count(device, 1 << 14);
        let mut growing = GrowingTensor::new(MOST, &[columns], DType::F32, device)?;
        let address = crate::gpu::address(growing.tensor())?;
        let (mut rows, mut found) = (0, Vec::new());
        let mut want = Tensor::zeros((0, columns), DType::F32, &Device::Cpu)?;
        let mut grow = |growing: &mut GrowingTensor, to: usize, rows: &mut usize, want: &mut Tensor| {
            if !growing.grow_to(to)? {
                bail!("no memory for {to} rows of {columns} numbers")
            }
            // The new rows hold zeros, the old ones what they held.
            let fresh = Tensor::zeros((to - *rows, columns), DType::F32, &Device::Cpu)?;
            *want = if *rows == 0 { fresh } else { Tensor::cat(&[&*want, &fresh], 0)? };
            *rows = to;
            let whole = growing.tensor().narrow(0, 0, to)?;
            // A copy to the host would take all addresses, also those without memory.
            let zeros = Tensor::zeros((to, columns), DType::F32, device)?;
            let apart = |want: &Tensor| distance(&sum(&whole, &zeros)?, want);
            found.push(exact(format!("{to} rows, grown"), DType::F32, apart(want)?));
            let more = noise(&[to, columns], to as u64)?;
            add_assign(&whole, &more.to_device(device)?)?;
            *want = (&*want + more)?;
            found.push(exact(format!("{to} rows, written"), DType::F32, apart(want)?));
            Ok::<_, candle_core::Error>(())
        };
        for to in [1, 40, 300] {
            grow(&mut growing, to, &mut rows, &mut want)?;
        }
        if !device.is_cpu() {
            growing.shrink_to(0)?;
            (rows, want) = (0, Tensor::zeros((0, columns), DType::F32, &Device::Cpu)?);
            grow(&mut growing, 100, &mut rows, &mut want)?;
        }
        let moved = f64::from(u8::from(crate::gpu::address(growing.tensor())? != address));
        found.push(exact("its address", DType::F32, moved));
        let remark = Some(format!("pieces of {} rows", growing.piece_rows()));
        Ok(MechanismReport { found, remark })
    })
}

/// Weights from a file in `folder`, which exists, piece by piece.
///
/// # Errors
/// As [`compare_staging`]; a failed write.
pub fn compare_loading(target: &CheckTarget, folder: &Path) -> Result<MechanismReport> {
    /// Five pieces in f32, the last one short.
    const NUMBERS: usize = (1 << 20) + 5;
    let fault = |error: crate::ModelError| candle_core::Error::Msg(error.to_string());
    let mut report = MechanismReport::default();
    let numbers = noise(&[NUMBERS], 7)?;
    for stored in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
        let path = folder.join(format!("{}.safetensors", stored.safetensors_name()));
        safetensors::write(&path, &[("x", &numbers)], stored)
            .map_err(|error| fault(crate::ModelError::io(&path, error.source)))?;
        let files = WeightFiles::open_file(&path).map_err(fault)?;
        let spec = TensorSpec { name: "x".to_owned(), shape: vec![NUMBERS], kind: ParameterKind::Matrix };
        for dtype in [DType::F32, DType::BF16] {
            let loaded = target.run(|| {
                let Some(mut weights) = StagedWeights::new(&files, dtype, target.device())? else {
                    return Ok(None);
                };
                let room = weights.room(&spec.shape)?;
                weights.add(&spec, &room)?;
                weights.load()?;
                Ok::<_, crate::ModelError>(Some(room))
            });
            let Some(room) = loaded.map_err(fault)? else {
                return Ok(MechanismReport::absent("weights come tensor by tensor"));
            };
            let want = numbers.to_dtype(stored.dtype())?.to_dtype(DType::F32)?.to_dtype(dtype)?;
            let apart = distance(&room, &want)?;
            report.found.push(exact(format!("numbers stored as {stored:?}"), dtype, apart));
        }
    }
    Ok(report)
}

/// Moments on the device's clock around work: in order, and no longer than the host waited.
///
/// # Errors
/// As [`compare_staging`].
pub fn compare_times(target: &CheckTarget) -> Result<MechanismReport> {
    target.run(|| {
        let gpu = gpu_of(target)?;
        let x = noise(&[count(target.device(), 1 << 20)], 5)?.to_device(target.device())?.copy()?;
        scale_assign(&x, 1.0)?;
        gpu.mark()?.wait()?;
        let host = Instant::now();
        let mut marks = vec![gpu.mark()?];
        for _ in 0..4 {
            (0..8).try_for_each(|_| scale_assign(&x, 1.0))?;
            marks.push(gpu.mark()?);
        }
        marks[4].wait()?;
        let host = host.elapsed().as_secs_f64();
        let all_came = marks.iter().all(|mark| mark.has_come());
        let whole = marks[0].seconds_until(&*marks[4])?;
        let parts = marks.windows(2).map(|pair| pair[0].seconds_until(&*pair[1]));
        let parts = parts.collect::<Result<Vec<f64>>>()?;
        let sum: f64 = parts.iter().sum();
        let checks = [
            ("moments have come", all_came),
            ("work takes time", parts.iter().all(|&part| part > 0.0)),
            // A clock of half a microsecond.
            ("parts make up the whole", (sum - whole).abs() <= 0.05 * whole + 1e-5),
            ("the device's time is within the host's", whole <= host + 1e-3),
        ];
        let found = checks.map(|(name, holds)| exact(name, DType::F32, f64::from(u8::from(!holds))));
        Ok(MechanismReport { found: found.into(), remark: None })
    })
}
