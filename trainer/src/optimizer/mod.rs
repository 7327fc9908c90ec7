//! Optimizers: f32 parameters (masters where the weights are bf16), gradients and state in, one fused pass per parameter, in
//! place; on a GPU the same pass writes the bf16 copy.
//!
//! RMSProp is torch's and AdamW is torch's; each file has its equations. Common to both: the gradient is first multiplied
//! by the clip coefficient; weight decay leaves norms and biases out; a step at learning rate 0 still fills the state.
//!
//! State tensors live beside their parameter, on its device, in f32. [`Optimizer::state`] names them
//! `<state>.<parameter>` (`square_avg.model.norm.weight`), for a checkpoint to keep.

mod adamw;
mod fused;
mod gpu;
pub mod grad_clip;
mod rmsprop;

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use selfplay_model::gpu::Gpu;
use selfplay_model::{Gradients, Parameter, ParameterId, ParameterKind, Parameters};

use crate::TrainError;
use crate::settings::{OptimizerKind, TrainSettings};
use crate::trained::trained;
use adamw::AdamW;
use fused::StateTensors;
use rmsprop::RmsProp;

/// The update rule with its constants.
#[derive(Clone, Copy, Debug)]
enum Rule {
    RmsProp(RmsProp),
    AdamW(AdamW),
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug)]
struct StepScalars {
    /// Learning rate of this step.
    rate: f64,
    /// Coefficient on every gradient.
    clip_scale: f64,
    /// Weight decay of this parameter: 0 for norms and biases.
    weight_decay: f64,
    /// Steps, this one included.
    step: u64,
}

/// One parameter's place in the optimizer.
struct ParameterState {
    id: ParameterId,
    name: String,
    decays: bool,
    state: StateTensors,
}

/// An optimizer with its state.
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    slots: Vec<ParameterState>,
    steps: u64,
}

impl Optimizer {
    /// A fresh optimizer over the trainable ones of `parameters`, all state 0.
    ///
    /// # Errors
    /// State could not be allocated on a parameter's device.
    pub fn new(settings: &TrainSettings, parameters: &Parameters) -> Result<Self, TrainError> {
        let rule = match settings.optimizer {
            OptimizerKind::RmsProp => Rule::RmsProp(RmsProp::new(settings)),
            OptimizerKind::AdamW => Rule::AdamW(AdamW::new(settings)),
        };
        let slots = trained(parameters)
            .map(|(id, parameter)| {
                Ok(ParameterState {
                    id,
                    name: parameter.name.clone(),
                    decays: matches!(parameter.kind, ParameterKind::Matrix | ParameterKind::Embedding),
                    state: zeros(&rule, parameter)?,
                })
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        Ok(Optimizer { rule, weight_decay: settings.weight_decay, slots, steps: 0 })
    }

    /// Updates every trainable parameter that has a gradient, in place. Gradients are read as `clip_scale` × gradient
    /// and stay as they are.
    ///
    /// # Errors
    /// A device without a form, a dtype other than f32, or a gradient of another shape. Parameters before the one at
    /// fault are updated already: the run must end.
    pub fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        rate: f64,
        clip_scale: f64,
    ) -> Result<(), TrainError> {
        self.steps += 1;
        for slot in &self.slots {
            let Some(gradient) = gradients.get(slot.id) else { continue };
            let parameter = parameters.get(slot.id);
            let weight = parameter.full();
            check(&slot.name, "value", weight, weight.dims())?;
            check(&slot.name, "gradient", gradient, weight.dims())?;
            let scalars = StepScalars {
                rate,
                clip_scale,
                weight_decay: if slot.decays { self.weight_decay } else { 0.0 },
                step: self.steps,
            };
            let copy = parameter.master.as_ref().map(|_| &parameter.value);
            match Gpu::of(weight)? {
                Some(gpu) => gpu::step(&gpu, &self.rule, scalars, weight, copy, gradient, &slot.state)?,
                None => {
                    step_cpu(&self.rule, scalars, weight, gradient, &slot.state)?;
                    if let Some(copy) = copy {
                        copy.slice_set(&weight.to_dtype(copy.dtype())?, 0, 0)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The state by name, in the parameters' order. The tensors share storage with the optimizer: write them before the
    /// next step.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let names = self.rule.state_names();
        self.slots
            .iter()
            .flat_map(|slot| {
                names.iter().zip(&slot.state).filter_map(|(name, tensor)| {
                    Some((format!("{}.{}", (*name)?, slot.name), tensor.as_ref()?.clone()))
                })
            })
            .collect()
    }

    /// Goes on from a state that [`Optimizer::state`] gave, after `steps` steps. The tensors are copied.
    ///
    /// # Errors
    /// A tensor is missing, one is too many, or one has another shape or dtype; the optimizer is then unchanged.
    pub fn load_state(
        &mut self,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        steps: u64,
    ) -> Result<(), TrainError> {
        let names = self.rule.state_names();
        let mut given: HashMap<String, Tensor> = tensors.into_iter().collect();
        let mut loaded = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let mut state: StateTensors = [None, None, None];
            for ((name, old), new) in names.iter().zip(&slot.state).zip(&mut state) {
                let (Some(name), Some(old)) = (name, old) else { continue };
                let name = format!("{name}.{}", slot.name);
                let Some(tensor) = given.remove(&name) else {
                    return Err(TrainError::StateMissing { name });
                };
                check(&slot.name, "optimizer state", &tensor, old.dims())?;
                *new = Some(tensor.to_device(old.device())?.copy()?);
            }
            loaded.push(state);
        }
        if let Some(name) = given.into_keys().min() {
            return Err(TrainError::StateUnknown { name });
        }
        for (slot, state) in self.slots.iter_mut().zip(loaded) {
            slot.state = state;
        }
        self.steps = steps;
        Ok(())
    }
}

impl Rule {
    /// The names of the state tensors that the rule keeps, by place.
    fn state_names(&self) -> [Option<&'static str>; 3] {
        match self {
            Rule::RmsProp(rule) => rule.state_names(),
            Rule::AdamW(rule) => rule.state_names(),
        }
    }
}

fn zeros(rule: &Rule, parameter: &Parameter) -> Result<StateTensors, TrainError> {
    let value = parameter.full();
    let mut state: StateTensors = [None, None, None];
    for (name, place) in rule.state_names().iter().zip(&mut state) {
        if name.is_some() {
            *place = Some(Tensor::zeros(value.shape(), DType::F32, value.device())?);
        }
    }
    Ok(state)
}

fn check(parameter: &str, what: &'static str, tensor: &Tensor, want: &[usize]) -> Result<(), TrainError> {
    if tensor.dtype() != DType::F32 {
        return Err(TrainError::OptimizerDType {
            parameter: parameter.to_owned(),
            what,
            dtype: tensor.dtype(),
        });
    }
    if tensor.dims() != want {
        return Err(TrainError::OptimizerShape {
            parameter: parameter.to_owned(),
            what,
            got: tensor.dims().to_vec(),
            want: want.to_vec(),
        });
    }
    Ok(())
}

fn step_cpu(
    rule: &Rule,
    scalars: StepScalars,
    weight: &Tensor,
    gradient: &Tensor,
    state: &StateTensors,
) -> Result<(), TrainError> {
    match rule {
        Rule::RmsProp(rule) => {
            let update = rule.update(scalars);
            fused::run(weight, gradient, state, |chunk| update.apply(chunk))?;
        }
        Rule::AdamW(rule) => {
            let update = rule.update(scalars);
            fused::run(weight, gradient, state, |chunk| update.apply(chunk))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
