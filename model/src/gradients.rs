//! The gradients that belong to a model's parameters.

use candle_core::{DType, Result, Tensor};

use crate::ops::elementwise::zero;
use crate::parameters::{JoinId, Owner, ParameterId, Parameters, owners};
use crate::tensor_memory;

/// Sums of gradients, one tensor for each trainable parameter, in f32 (f64 where the model computes in f64).
#[derive(Debug)]
pub struct Gradients {
    slots: Vec<Option<Tensor>>,
    /// Of joined matrices, all of which are trained; the slots of these are views of it.
    joins: Vec<Option<Tensor>>,
    /// The members of those.
    members: Vec<Vec<ParameterId>>,
    is_last: bool,
}

impl Gradients {
    /// Zeros for every trainable parameter.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn zeros(parameters: &Parameters) -> Result<Self> {
        Self::made(parameters, |_| Ok(()))
    }

    /// As [`Gradients::zeros`], without any memory ([`tensor_memory`]): whoever owns them provides it while it is needed.
    ///
    /// # Errors
    /// Out of memory on the device for the largest one of them.
    pub fn without_memory(parameters: &Parameters) -> Result<Self> {
        Self::made(parameters, tensor_memory::release)
    }

    /// Zeros, of which each tensor goes through `finish` before the next one is made.
    fn made(parameters: &Parameters, finish: impl Fn(&Tensor) -> Result<()>) -> Result<Self> {
        let zeros = |value: &Tensor| -> Result<Tensor> {
            let dtype = if value.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let zeros = Tensor::zeros(value.shape(), dtype, value.device())?;
            finish(&zeros)?;
            Ok(zeros)
        };
        let mut slots = vec![None; parameters.len()];
        let mut joins = Vec::with_capacity(parameters.joins().len());
        for join in parameters.joins() {
            let trained = |(members, _): &(&[ParameterId], &Tensor)| {
                members.iter().all(|&id| parameters.get(id).trainable)
            };
            let Some((members, whole)) = join.filter(trained) else {
                joins.push(None);
                continue;
            };
            let whole = zeros(whole)?;
            let mut first = 0;
            for &id in members {
                let rows = parameters.get(id).value.dim(0)?;
                slots[id.0] = Some(whole.narrow(0, first, rows)?);
                first += rows;
            }
            joins.push(Some(whole));
        }
        for ((_, parameter), slot) in parameters.iter().zip(&mut slots) {
            if parameter.trainable && slot.is_none() {
                *slot = Some(zeros(&parameter.value)?);
            }
        }
        let members =
            parameters.joins().map(|join| join.map_or_else(Vec::new, |(members, _)| members.to_vec()));
        Ok(Self { slots, joins, members: members.collect(), is_last: false })
    }

    /// The tensors in whose memory the gradients of just these parameters lie, each once.
    pub fn owners(&self, ids: &[ParameterId]) -> Vec<Owner> {
        let joins = self.members.iter().zip(&self.joins);
        let joins = joins.filter_map(|(members, whole)| Some((members, whole.as_ref()?)));
        owners(ids, joins, |id| self.get(id))
    }

    /// Says whether what is added next, by one forward and backward pass, is the last of an optimizer batch: what a backward
    /// has passed is complete then.
    pub fn set_last(&mut self, is_last: bool) {
        self.is_last = is_last;
    }

    /// What was said last; at first that more follows.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// The gradient of joined matrices as one tensor; `None` where not all of them are trained.
    pub(crate) fn joined(&self, id: JoinId) -> Option<&Tensor> {
        self.joins.get(id.0)?.as_ref()
    }

    /// The gradient of one parameter; `None` where it is frozen.
    pub fn get(&self, id: ParameterId) -> Option<&Tensor> {
        self.slots[id.0].as_ref()
    }

    /// All gradients with their parameters' ids.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Tensor)> {
        self.slots.iter().enumerate().filter_map(|(i, g)| Some((ParameterId(i), g.as_ref()?)))
    }

    /// The same gradients, with what `other` gives in the place of tensors here; none are joined.
    pub fn replaced(&self, other: impl Fn(ParameterId) -> Option<Tensor>) -> Self {
        let slots = self.slots.iter().enumerate().map(|(place, slot)| {
            slot.as_ref().map(|tensor| other(ParameterId(place)).unwrap_or_else(|| tensor.clone()))
        });
        Self {
            slots: slots.collect(),
            joins: vec![None; self.joins.len()],
            members: self.members.clone(),
            ..*self
        }
    }

    /// Sets all sums to 0 in place.
    ///
    /// # Errors
    /// A device without a form of this operation.
    pub fn zero(&mut self) -> Result<()> {
        for gradient in self.slots.iter().flatten() {
            zero(gradient)?;
        }
        Ok(())
    }
}
