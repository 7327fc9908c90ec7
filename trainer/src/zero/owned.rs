//! What a rank moves of one trained parameter.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use selfplay_model::shares::{HeldRange, divide_parameters};
use selfplay_model::{ParameterId, ParameterKind, Parameters};

use crate::TrainError;
use crate::collective::sliced::part;
use crate::collective::{Collective, Sliced};
use crate::trained::trained;

/// A trained parameter, and the numbers of it that this rank owns.
pub(crate) struct Owned {
    pub id: ParameterId,
    pub name: String,
    pub kind: ParameterKind,
    /// All of it, in the dtype of computation; without memory between passes where `is_away`.
    pub value: Tensor,
    /// By rank.
    pub ranges: Vec<Range<usize>>,
    /// Whether the weights are held by rank.
    pub is_away: bool,
    /// Whether there was a master before training.
    pub had_master: bool,
    /// Whether the numbers that move are not those that are computed with.
    pub has_master: bool,
    /// This rank's; `None` where its range is empty.
    pub own: Option<OwnRange>,
}

/// A rank's range of a parameter: flat tensors of as many numbers.
pub(crate) struct OwnRange {
    /// What the optimizer moves, f32.
    pub full: Tensor,
    /// Its rounded copy, in the dtype of computation; `None` where `full` is computed with.
    pub copy: Option<Tensor>,
}

impl OwnRange {
    /// What is computed with.
    pub fn computed(&self) -> &Tensor {
        self.copy.as_ref().unwrap_or(&self.full)
    }
}

impl Owned {
    /// All trained parameters, in the model's order, with their masters moved here. `is_away`: whose weights are held by rank, and
    /// may have been loaded so; `offloaded`: what the optimizer moves is the host's.
    pub fn all(
        parameters: &mut Parameters,
        collective: &dyn Collective,
        is_away: impl Fn(ParameterId) -> bool,
        offloaded: bool,
    ) -> Result<Vec<Self>, TrainError> {
        let sizes: Vec<usize> = trained(parameters).map(|(_, p)| p.value.elem_count()).collect();
        let divided = divide_parameters(&sizes, collective.world());
        let ids: Vec<ParameterId> = trained(parameters).map(|(id, _)| id).collect();
        let mut loaded = parameters.take_held();
        let mut all = Vec::with_capacity(ids.len());
        for (id, ranges) in ids.into_iter().zip(divided) {
            let master = parameters.take_master(id);
            let parameter = parameters.get(id);
            let value = parameter.value.clone();
            let is_rounded = matches!(value.dtype(), DType::BF16 | DType::F16);
            let has_master = is_rounded || (offloaded && !value.device().is_cpu());
            let is_away = is_away(id);
            let own = match ranges.get(collective.rank()).filter(|range| !range.is_empty()) {
                None => None,
                Some(range) => {
                    // Not a view of a memory that goes.
                    let kept = match loaded.as_mut().filter(|_| is_away) {
                        Some(loaded) => as_loaded(loaded.remove(&id), range, &parameter.name)?,
                        None if is_away => part(&value, range)?.force_contiguous()?,
                        None => part(&value, range)?,
                    };
                    Some(match has_master {
                        true => {
                            let device = if offloaded { &Device::Cpu } else { value.device() };
                            let held = match &master {
                                Some(master) => part(master, range)?.force_contiguous()?,
                                None if is_away => kept.clone(),
                                None => kept.force_contiguous()?,
                            };
                            let full = held.to_dtype(DType::F32)?.to_device(device)?;
                            OwnRange { full, copy: Some(kept) }
                        }
                        false => OwnRange { full: kept, copy: None },
                    })
                }
            };
            let (name, kind, had_master) = (parameter.name.clone(), parameter.kind, master.is_some());
            all.push(Self { id, name, kind, value, ranges, is_away, had_master, has_master, own });
        }
        match loaded.iter().flatten().next() {
            Some((&id, _)) => Err(misloaded(&parameters.get(id).name, "nothing of it")),
            None => Ok(all),
        }
    }

    /// All of it for the calls between ranks.
    pub fn sliced(&self) -> Sliced<'_> {
        Sliced { tensor: &self.value, ranges: &self.ranges }
    }

    /// Puts this rank's range into its place among the whole weights, where it is not a view of them.
    pub fn put_own(&self, rank: usize) -> candle_core::Result<()> {
        match &self.own {
            Some(own) if self.is_away => {
                part(&self.value, &self.ranges[rank])?.slice_set(own.computed(), 0, 0)
            }
            _ => Ok(()),
        }
    }

    /// Rounds what the optimizer moves to its copy, after it was read from a file.
    pub fn round(&self) -> candle_core::Result<()> {
        let Some(OwnRange { full, copy: Some(copy) }) = &self.own else { return Ok(()) };
        copy.slice_set(&full.to_dtype(copy.dtype())?.to_device(copy.device())?, 0, 0)
    }
}

/// This rank's range as it was loaded, which must be the one that it owns.
fn as_loaded(loaded: Option<HeldRange>, range: &Range<usize>, parameter: &str) -> Result<Tensor, TrainError> {
    match loaded {
        Some(loaded) if loaded.numbers == *range => Ok(loaded.values),
        _ => Err(misloaded(parameter, &format!("the numbers {range:?} of it"))),
    }
}

fn misloaded(parameter: &str, owned: &str) -> TrainError {
    TrainError::Internal {
        problem: format!(
            "this rank owns {owned} in this training, but has loaded others: {parameter}; ranks that load their shares train all weights with              train.zero = 3"
        ),
    }
}
