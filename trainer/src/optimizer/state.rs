//! A parameter's state in either form, 32 bits or eight, and its names in a checkpoint.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::eight_bit::{self, BLOCK, CodedState, CodedStates, LEAST_NUMBERS};
use super::fused::{self, Chunk, StateTensors};
use crate::TrainError;

/// Names of the state tensors that a rule keeps, by place.
type StateNames = [Option<&'static str>; 3];

/// A parameter's state; the update rule defines what its tensors are. A clone has the same tensors.
#[derive(Clone)]
pub(super) enum ParameterState {
    /// f32, of the parameter's shape.
    Wide(StateTensors),
    /// Eight bits a number.
    Coded(CodedStates),
}

/// Whether a parameter of so many numbers keeps its state in eight bits, with an optimizer that does.
pub(super) fn is_coded(numbers: usize, is_eight_bit: bool) -> bool {
    is_eight_bit && numbers >= LEAST_NUMBERS
}

/// A state tensor as a file has it.
pub(crate) struct StateTensor {
    /// `<state>.<parameter>`.
    pub name: String,
    /// Of all of the parameter.
    pub dims: Vec<usize>,
    /// f32, or u8 for codes.
    pub dtype: DType,
    /// The parameter's numbers that one of its numbers stands for.
    pub numbers_each: usize,
    /// What there is of it here: all, a range, or nothing.
    pub own: Option<Tensor>,
}

/// A parameter's state tensors, whether or not there is something of them here (`own`).
pub(super) fn tensors(
    names: StateNames,
    parameter: &str,
    dims: &[usize],
    own: Option<&ParameterState>,
    is_eight_bit: bool,
) -> Vec<StateTensor> {
    let mut held: HashMap<String, Tensor> = HashMap::new();
    held.extend(own.into_iter().flat_map(|state| state.named(names, parameter)));
    let mut tensor = |name: String, dims: Vec<usize>, dtype: DType, numbers_each: usize| {
        let own = held.remove(&name);
        StateTensor { name, dims, dtype, numbers_each, own }
    };
    let numbers = dims.iter().product();
    let mut tensors = Vec::new();
    for name in names.into_iter().flatten() {
        if is_coded(numbers, is_eight_bit) {
            tensors.push(tensor(format!("{name}_codes.{parameter}"), vec![numbers], DType::U8, 1));
            let blocks = vec![numbers.div_ceil(BLOCK)];
            tensors.push(tensor(format!("{name}_magnitudes.{parameter}"), blocks, DType::F32, BLOCK));
        } else {
            tensors.push(tensor(format!("{name}.{parameter}"), dims.to_vec(), DType::F32, 1));
        }
    }
    tensors
}

impl ParameterState {
    /// State of 0 for a parameter of this value, or for a range of one; `is_coded` as [`is_coded`] says of all of it.
    pub fn zeros(names: StateNames, value: &Tensor, is_coded: bool) -> candle_core::Result<Self> {
        let (numbers, device) = (value.elem_count(), value.device());
        if is_coded {
            let second = names[1].map(|_| CodedState::zeros(numbers, device)).transpose()?;
            return Ok(Self::Coded(CodedStates { first: CodedState::zeros(numbers, device)?, second }));
        }
        let mut state: StateTensors = [None, None, None];
        for (name, place) in names.iter().zip(&mut state) {
            if name.is_some() {
                *place = Some(Tensor::zeros(value.shape(), DType::F32, device)?);
            }
        }
        Ok(Self::Wide(state))
    }

    /// Runs `update` over all elements of a weight on the CPU.
    pub fn run(
        &self,
        weight: &Tensor,
        gradient: &Tensor,
        update: impl Fn(Chunk<'_>) + Sync,
    ) -> candle_core::Result<()> {
        match self {
            Self::Wide(state) => fused::run(weight, gradient, state, update),
            Self::Coded(states) => eight_bit::run(weight, gradient, states, update),
        }
    }

    /// The tensors with their names in a checkpoint.
    pub fn named(&self, names: StateNames, parameter: &str) -> Vec<(String, Tensor)> {
        let mut named = Vec::new();
        match self {
            Self::Wide(state) => {
                for (name, tensor) in names.iter().zip(state) {
                    if let (Some(name), Some(tensor)) = (name, tensor) {
                        named.push((format!("{name}.{parameter}"), tensor.clone()));
                    }
                }
            }
            Self::Coded(CodedStates { first, second }) => {
                for (name, state) in names.iter().zip([Some(first), second.as_ref()]) {
                    if let (Some(name), Some(state)) = (name, state) {
                        named.push((format!("{name}_codes.{parameter}"), state.codes.clone()));
                        named.push((format!("{name}_magnitudes.{parameter}"), state.magnitudes.clone()));
                    }
                }
            }
        }
        named
    }

    /// The same form, with each tensor replaced by what `take` gives for its name and for it.
    pub fn replaced(
        &self,
        names: StateNames,
        parameter: &str,
        mut take: impl FnMut(&str, &Tensor) -> Result<Tensor, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut new = Vec::new();
        for (name, old) in self.named(names, parameter) {
            new.push(take(&name, &old)?);
        }
        let mut new = new.into_iter();
        Ok(match self {
            Self::Wide(state) => {
                Self::Wide(state.each_ref().map(|old| old.as_ref().and_then(|_| new.next())))
            }
            Self::Coded(CodedStates { first, second }) => {
                let mut coded = |old: &CodedState| CodedState {
                    codes: new.next().unwrap_or_else(|| old.codes.clone()),
                    magnitudes: new.next().unwrap_or_else(|| old.magnitudes.clone()),
                };
                Self::Coded(CodedStates { first: coded(first), second: second.as_ref().map(coded) })
            }
        })
    }
}
