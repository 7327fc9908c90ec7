//! A collective that shows in the rank's pulse when it waits for the others: where all stand still, the one that does not wait is the
//! one to name.

use std::sync::Arc;

use candle_core::Tensor;
use selfplay_trainer::TrainError;
use selfplay_trainer::collective::{Collective, Sliced};

use super::pulse::Pulse;

/// Any collective, watched.
pub(super) struct WatchedCollective {
    inner: Arc<dyn Collective>,
    pulse: Arc<Pulse>,
}

impl WatchedCollective {
    pub(super) fn new(inner: Arc<dyn Collective>, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse }
    }

    fn wait<T>(&self, call: impl FnOnce(&dyn Collective) -> T) -> T {
        let before = self.pulse.wait();
        let result = call(&*self.inner);
        self.pulse.go_on(before);
        result
    }
}

impl Collective for WatchedCollective {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world(&self) -> usize {
        self.inner.world()
    }

    fn parts(&self) -> usize {
        self.inner.parts()
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        self.wait(|inner| inner.all_reduce(tensors))
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.wait(|inner| inner.all_gather(values))
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        self.wait(|inner| inner.broadcast(tensors, root))
    }

    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.wait(|inner| inner.reduce_scatter(tensors))
    }

    fn begin_reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.wait(|inner| inner.begin_reduce_scatter(tensors))
    }

    fn settle_sums(&self) -> Result<(), TrainError> {
        self.wait(|inner| inner.settle_sums())
    }

    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.wait(|inner| inner.all_gather_slices(tensors))
    }

    fn settle(&self) -> Result<(), TrainError> {
        self.wait(|inner| inner.settle())
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        let inner = self.inner.handle()?;
        Some(Arc::new(Self { inner, pulse: Arc::clone(&self.pulse) }))
    }

    fn leave(&self) {
        self.inner.leave();
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use selfplay_trainer::collective::Threads;

    use super::super::rank_state::Activity;
    use super::*;

    #[test]
    fn who_waits_is_seen_and_results_are_the_inner_one_s() {
        let pulse = Arc::new(Pulse::new());
        pulse.enter("train");
        pulse.moved();
        let mut group = Threads::group(2).into_iter();
        let (first, second) = (group.next().unwrap(), group.next().unwrap());
        let watched = WatchedCollective::new(Arc::new(first), Arc::clone(&pulse));
        std::thread::scope(|scope| {
            let gathered = scope.spawn(move || watched.all_gather(&[1.0]).unwrap());
            while pulse.read().1.activity != Activity::Waiting {
                std::thread::yield_now();
            }
            assert_eq!(second.all_gather(&[2.0]).unwrap(), [1.0, 2.0]);
            assert_eq!(gathered.join().unwrap(), [1.0, 2.0]);
        });
        assert_eq!(pulse.read().1.activity, Activity::Working);
        // Every call is passed on.
        let one = Tensor::new(&[1.0_f32], &Device::Cpu).unwrap();
        let alone = Arc::new(selfplay_trainer::collective::Alone::in_parts(3));
        let watched = WatchedCollective::new(alone, pulse);
        assert_eq!((watched.rank(), watched.world(), watched.parts()), (0, 1, 3));
        watched.all_reduce(&[&one]).unwrap();
        watched.broadcast(&[&one], 0).unwrap();
        watched.leave();
    }
}
