//! The ranks as a training sees them whose passes exchange something: before a call of its own, a rank takes part in the
//! passes that others still make.

use std::sync::Arc;

use candle_core::Tensor;

use super::Shards;
use crate::TrainError;
use crate::collective::{Collective, Sliced};

/// A collective for calls between passes.
pub(crate) struct Lockstep<'a> {
    pub inner: &'a dyn Collective,
    pub shards: Arc<Shards>,
}

impl Collective for Lockstep<'_> {
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
        self.shards.serve_all()?;
        self.inner.all_reduce(tensors)
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.shards.serve_all()?;
        self.inner.all_gather(values)
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        self.shards.serve_all()?;
        self.inner.broadcast(tensors, root)
    }

    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.shards.serve_all()?;
        self.inner.reduce_scatter(tensors)
    }

    fn begin_reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.shards.serve_all()?;
        self.inner.begin_reduce_scatter(tensors)
    }

    fn settle_sums(&self) -> Result<(), TrainError> {
        self.inner.settle_sums()
    }

    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.shards.serve_all()?;
        self.inner.all_gather_slices(tensors)
    }

    fn settle(&self) -> Result<(), TrainError> {
        self.inner.settle()
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        self.inner.handle()
    }

    fn leave(&self) {
        self.inner.leave();
    }
}
