//! Where the time of some work goes, operation by operation: `selfplay bench --profile`.
//!
//! Every operation of `ops/`, every product and the optimizer's passes say what they are and what they cost at least
//! ([`operation`]). While a thread records ([`crate::gpu::start_profile`]), a GPU's launches and products stand between two events of the device
//! each, so that their times are the device's own, and what is between them is a gap; a CPU's operations are timed whole.
//! While nothing is recorded, an operation pays for one look at a thread's variable.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Result, Tensor};

use crate::gpu::launcher::{DeviceMark, Launcher};

/// What an operation costs at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OperationCost {
    /// Bytes: inputs read once, outputs written once.
    pub bytes: f64,
    /// Operations of products; 0 where memory alone counts.
    pub flops: f64,
}

impl OperationCost {
    /// Of an operation that reads or writes each of these tensors once.
    pub fn moving(tensors: &[&Tensor]) -> Self {
        Self { bytes: tensors.iter().map(|tensor| bytes(tensor)).sum(), flops: 0.0 }
    }

    /// Of a product \[m, k]·\[k, n] over operands of `width` bytes a number.
    pub fn product(m: usize, n: usize, k: usize, width: usize) -> Self {
        let (m, n, k) = (m as f64, n as f64, k as f64);
        Self { bytes: (m * k + k * n + m * n) * width as f64, flops: 2.0 * m * n * k }
    }
}

fn bytes(tensor: &Tensor) -> f64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as f64
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// From the first to the last, on the device's clock.
    pub seconds: f64,
    /// By stage and operation, in the order of their first calls.
    pub rows: Vec<ProfileRow>,
}

impl Profile {
    /// Seconds in which an operation ran.
    pub fn busy(&self) -> f64 {
        self.rows.iter().map(|row| row.seconds).sum()
    }
}

/// One operation of a stage.
#[derive(Clone, Debug)]
pub struct ProfileRow {
    /// `forward`, `recomputation`, `backward` and the like; empty outside of all.
    pub stage: &'static str,
    /// Its name.
    pub operation: String,
    /// How often it was called.
    pub calls: usize,
    /// Seconds of all calls.
    pub seconds: f64,
    /// What all calls cost at least.
    pub cost: OperationCost,
    /// Launches and seconds by kernel, on a GPU.
    pub kernels: BTreeMap<String, KernelTime>,
}

/// All launches of one kernel in an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KernelTime {
    /// How many.
    pub launches: usize,
    /// Seconds of all of them.
    pub seconds: f64,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

struct Recorder {
    /// What launches, where it is a GPU.
    launcher: Option<Arc<dyn Launcher>>,
    begin: OperationClock,
    stage: &'static str,
    /// Operations inside of operations belong to the outermost.
    depth: usize,
    /// The row of the outermost operation that runs.
    current: Option<usize>,
    rows: Vec<ProfileRow>,
    launches: Vec<TimedLaunch>,
}

/// A moment, on the device's clock or on the host's.
enum OperationClock {
    Device(Box<dyn DeviceMark>),
    Host(Instant),
}

impl OperationClock {
    fn now(launcher: Option<&dyn Launcher>) -> Result<Self> {
        match launcher {
            Some(launcher) => launcher.mark().map(Self::Device),
            None => Ok(Self::Host(Instant::now())),
        }
    }

    fn seconds_until(&self, later: &Self) -> Result<f64> {
        match (self, later) {
            (Self::Device(begin), Self::Device(end)) => begin.seconds_until(end.as_ref()),
            (Self::Host(begin), Self::Host(end)) => Ok((*end - *begin).as_secs_f64()),
            _ => candle_core::bail!("two clocks in one profile"),
        }
    }
}

struct TimedLaunch {
    row: usize,
    kernel: String,
    begin: OperationClock,
    end: OperationClock,
}

/// Records what this thread's operations take from now on, until [`ProfileRecording::finish`]; `launcher` is the GPU's.
///
/// # Errors
/// The error of the device.
pub(crate) fn start(launcher: Option<Arc<dyn Launcher>>) -> Result<ProfileRecording> {
    let begin = OperationClock::now(launcher.as_deref())?;
    let recorder = Recorder {
        launcher,
        begin,
        stage: "",
        depth: 0,
        current: None,
        rows: Vec::new(),
        launches: Vec::new(),
    };
    RECORDER.set(Some(recorder));
    Ok(ProfileRecording(()))
}

/// A thread that records; dropped, it stops.
pub struct ProfileRecording(());

impl Drop for ProfileRecording {
    fn drop(&mut self) {
        RECORDER.set(None);
    }
}

impl ProfileRecording {
    /// What was recorded, when the device has done it.
    ///
    /// # Errors
    /// The error of the device.
    pub fn finish(self) -> Result<Profile> {
        let Some(recorder) = RECORDER.take() else { return Ok(Profile::default()) };
        let Recorder { launcher, begin, mut rows, launches, .. } = recorder;
        let end = OperationClock::now(launcher.as_deref())?;
        let seconds = begin.seconds_until(&end)?;
        for TimedLaunch { row, kernel, begin, end } in launches {
            let taken = begin.seconds_until(&end)?;
            rows[row].seconds += taken;
            let time = rows[row].kernels.entry(kernel).or_default();
            (time.launches, time.seconds) = (time.launches + 1, time.seconds + taken);
        }
        Ok(Profile { seconds, rows })
    }
}

impl Recorder {
    fn row(&mut self, operation: &str) -> usize {
        let stage = self.stage;
        let found = self.rows.iter().position(|row| row.stage == stage && row.operation == operation);
        found.unwrap_or_else(|| {
            let (calls, seconds, cost) = (0, 0.0, OperationCost::default());
            let (operation, kernels) = (operation.to_owned(), BTreeMap::new());
            self.rows.push(ProfileRow { stage, operation, calls, seconds, cost, kernels });
            self.rows.len() - 1
        })
    }
}

/// Until the guard is dropped, operations belong to this stage.
pub fn stage(name: &'static str) -> StageGuard {
    let before = RECORDER.with_borrow_mut(|recorder| {
        recorder.as_mut().map(|recorder| std::mem::replace(&mut recorder.stage, name))
    });
    StageGuard(before)
}

/// The guard of [`stage`].
pub struct StageGuard(Option<&'static str>);

impl Drop for StageGuard {
    fn drop(&mut self) {
        let Some(before) = self.0 else { return };
        RECORDER.with_borrow_mut(|recorder| {
            if let Some(recorder) = recorder {
                recorder.stage = before;
            }
        });
    }
}

/// Until the guard is dropped, this thread runs an operation of this name, which costs at least `cost`.
pub fn operation(name: &str, cost: impl FnOnce() -> OperationCost) -> OperationGuard {
    operation_named(|| name.to_owned(), cost)
}

/// As [`operation`], with a name that is made only where it is wanted.
pub fn operation_named(
    name: impl FnOnce() -> String,
    cost: impl FnOnce() -> OperationCost,
) -> OperationGuard {
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return OperationGuard { is_recorded: false, begin: None } };
        recorder.depth += 1;
        if recorder.depth > 1 {
            return OperationGuard { is_recorded: true, begin: None };
        }
        let row = recorder.row(&name());
        recorder.current = Some(row);
        let cost = cost();
        let row = &mut recorder.rows[row];
        row.calls += 1;
        row.cost.bytes += cost.bytes;
        row.cost.flops += cost.flops;
        OperationGuard { is_recorded: true, begin: recorder.launcher.is_none().then(Instant::now) }
    })
}

/// The guard of [`operation`].
pub struct OperationGuard {
    is_recorded: bool,
    /// Of an outermost operation on a CPU.
    begin: Option<Instant>,
}

impl Drop for OperationGuard {
    fn drop(&mut self) {
        if !self.is_recorded {
            return;
        }
        RECORDER.with_borrow_mut(|recorder| {
            let Some(recorder) = recorder else { return };
            recorder.depth = recorder.depth.saturating_sub(1);
            if recorder.depth > 0 {
                return;
            }
            let row = recorder.current.take();
            if let (Some(row), Some(begin)) = (row, self.begin) {
                recorder.rows[row].seconds += begin.elapsed().as_secs_f64();
            }
        });
    }
}

/// Runs `launch`, which starts one kernel or product, between two events where this thread records.
pub(crate) fn launched(
    launcher: &dyn Launcher,
    kernel: &str,
    launch: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let is_recorded =
        RECORDER.with_borrow(|recorder| recorder.as_ref().is_some_and(|r| r.launcher.is_some()));
    if !is_recorded {
        return launch();
    }
    let begin = OperationClock::now(Some(launcher))?;
    launch()?;
    let end = OperationClock::now(Some(launcher))?;
    RECORDER.with_borrow_mut(|recorder| {
        let Some(recorder) = recorder else { return };
        let row = match recorder.current {
            Some(row) => row,
            None => {
                let row = recorder.row(kernel);
                recorder.rows[row].calls += 1;
                row
            }
        };
        recorder.launches.push(TimedLaunch { row, kernel: kernel.to_owned(), begin, end });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::elementwise::sum;

    fn cost(bytes: f64) -> OperationCost {
        OperationCost { bytes, flops: 1.0 }
    }

    #[test]
    fn operations_are_summed_by_stage_and_name() {
        let recording = start(None).unwrap();
        for _ in 0..3 {
            let _stage = stage("forward");
            let _outer = operation("outer", || cost(10.0));
            // Counted once: what runs inside belongs to the outermost.
            let _inner = operation("inner", || cost(7.0));
        }
        {
            let _outer = operation("outer", || cost(1.0));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let profile = recording.finish().unwrap();
        let rows: Vec<_> = profile
            .rows
            .iter()
            .map(|row| (row.stage, row.operation.as_str(), row.calls, row.cost.bytes))
            .collect();
        assert_eq!(rows, [("forward", "outer", 3, 30.0), ("", "outer", 1, 1.0)]);
        assert!(profile.rows[1].seconds >= 0.005 && profile.busy() <= profile.seconds);
    }

    #[test]
    fn nothing_is_recorded_before_or_after() {
        drop(operation("before", || cost(1.0)));
        let recording = start(None).unwrap();
        let x = Tensor::ones((3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        sum(&x, &x).unwrap();
        let profile = recording.finish().unwrap();
        drop(operation("after", || cost(1.0)));
        assert_eq!(profile.rows.len(), 1);
        assert_eq!((profile.rows[0].operation.as_str(), profile.rows[0].cost.bytes), ("add", 3.0 * 48.0));
        assert!(start(None).unwrap().finish().unwrap().rows.is_empty());
    }
}
