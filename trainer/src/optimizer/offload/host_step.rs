//! A step of an optimizer on the host, handed out by parameters: any thread makes a part of it, whenever that is due.

use std::collections::HashMap;

use selfplay_model::ParameterId;
use selfplay_model::gpu::CopyStart;

use super::super::Rule;
use super::{OffloadedParameter, Staging, step};
use crate::TrainError;

/// What a step moves, parameter by parameter. The clip coefficient is 1 until [`HostUpdate::clipped`].
pub(crate) struct HostStep {
    pub(in super::super) rule: Rule,
    pub(in super::super) parameters: HashMap<ParameterId, OffloadedParameter>,
}

impl HostStep {
    /// The part of these parameters, as far as it was not taken before.
    pub(crate) fn take(&mut self, ids: impl Iterator<Item = ParameterId>) -> HostUpdate {
        let parameters = ids.filter_map(|id| self.parameters.remove(&id)).collect();
        HostUpdate { rule: self.rule, parameters }
    }
}

/// A part of a step. It has the parameters' own tensors, and no borrow.
pub(crate) struct HostUpdate {
    rule: Rule,
    parameters: Vec<OffloadedParameter>,
}

impl HostUpdate {
    /// Whether there is nothing to move.
    pub(crate) fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// The same with every gradient times `clip_scale`.
    pub(crate) fn clipped(mut self, clip_scale: f64) -> Self {
        self.parameters.iter_mut().for_each(|parameter| parameter.scalars.clip_scale = clip_scale);
        self
    }

    /// Makes it. No work that is under way on the device reads its weights, or writes its gradients.
    ///
    /// # Errors
    /// What the device says; a defect of shapes. Some of its parameters may have moved then: the run must end.
    pub(crate) fn run(&self, staging: &mut Staging) -> Result<(), TrainError> {
        step(&self.rule, &self.parameters, staging, CopyStart::Now)
    }
}
