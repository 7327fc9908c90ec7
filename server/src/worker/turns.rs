//! Whose turn a GPU is: policies of one GPU launch on one stream, and what a thread launches while another one records a step would
//! become a part of the recording. So one policy at a time begins a step, or gives memory back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::DeviceLocation;

/// The turns of all GPUs that policies are on.
#[derive(Default)]
pub(crate) struct DeviceTurns(HashMap<usize, Arc<Mutex<()>>>);

/// A policy's way to its turn; on a CPU there is nothing to wait for.
#[derive(Clone, Default)]
pub(crate) struct DeviceTurn(Option<Arc<Mutex<()>>>);

impl DeviceTurns {
    /// That of a policy there.
    pub(crate) fn of(&mut self, device: DeviceLocation) -> DeviceTurn {
        match device {
            DeviceLocation::Cuda { gpu_id } => DeviceTurn(Some(self.0.entry(gpu_id).or_default().clone())),
            _ => DeviceTurn(None),
        }
    }
}

impl DeviceTurn {
    /// Waits for it; it lasts as long as what is returned.
    pub(crate) fn take(&self) -> Option<MutexGuard<'_, ()>> {
        // A policy that panicked in its turn has none any more.
        self.0.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn policies_of_one_gpu_take_turns_and_others_do_not() {
        let mut turns = DeviceTurns::default();
        let gpu = |gpu_id| DeviceLocation::Cuda { gpu_id };
        let (one, same, other) = (turns.of(gpu(0)), turns.of(gpu(0)), turns.of(gpu(1)));
        let cpu = turns.of(DeviceLocation::Cpu);
        let held = one.take();
        assert!(held.is_some() && other.take().is_some() && cpu.take().is_none());
        let (sender, taken) = channel();
        let waiting = thread::spawn(move || {
            let _turn = same.take();
            sender.send(()).unwrap();
        });
        assert!(taken.recv_timeout(Duration::from_millis(50)).is_err());
        drop(held);
        taken.recv_timeout(Duration::from_secs(20)).unwrap();
        waiting.join().unwrap();
    }
}
