//! Optimizers: f32 parameters (masters where the weights are bf16), gradients and state in, one fused pass per parameter, in
//! place; on a GPU the same pass writes the bf16 copy.
//!
//! RMSProp is torch's and AdamW is torch's; each file has its equations. Common to both: the gradient is first multiplied
//! by the clip coefficient; weight decay leaves norms and biases out; a step at learning rate 0 still fills the state.
//!
//! State tensors live beside their parameter, on its device, in f32. [`Optimizer::state`] names them
//! `<state>.<parameter>` (`square_avg.model.norm.weight`), for a checkpoint to keep. With `adamw8bit` and `rmsprop8bit` those of
//! large parameters are kept in eight bits (`eight_bit/`), as `<state>_codes.<parameter>` and `<state>_magnitudes.<parameter>`.

mod adamw;
pub(crate) mod eight_bit;
mod fused;
mod gpu;
pub mod grad_clip;
mod offload;
mod rmsprop;
mod squares;
mod state;
mod tensor_checks;

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use selfplay_model::gpu::{CopyStart, Gpu, host_copies};
use selfplay_model::profile::{self, OperationCost};
use selfplay_model::{Decoder, Gradients, ParameterId, ParameterKind, Parameters};

use crate::TrainError;
use crate::settings::{OptimizerKind, TrainSettings};
use crate::trained::trained;
use adamw::AdamW;
use eight_bit::{CodeTables, Place};
use offload::{GradientPlace, OffloadedParameter};
pub(crate) use offload::{HostStep, HostUpdate, Staging};
use rmsprop::RmsProp;
pub(crate) use squares::{MeasuredGradient, Squares, SquaresRoom};
pub(crate) use state::StateTensor;
use state::{ParameterState, is_coded};
use tensor_checks::{check, check_as};

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
struct Slot {
    id: ParameterId,
    name: String,
    decays: bool,
    state: ParameterState,
}

/// What a step moves of one parameter.
pub(crate) struct Moved<'a> {
    /// f32.
    pub weight: &'a Tensor,
    /// Its rounded copy, which follows.
    pub copy: Option<&'a Tensor>,
    /// f32, of the weight's shape.
    pub gradient: &'a Tensor,
    /// Where the weights are that are computed with.
    pub device: &'a Device,
}

/// An optimizer with its state.
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    slots: Vec<Slot>,
    /// For state in eight bits on a GPU.
    tables: Option<CodeTables>,
    steps: u64,
    /// State and f32 weights are the host's.
    is_offloaded: bool,
    is_eight_bit: bool,
    /// What a step on the host goes through, from the first one on.
    staging: Option<Staging>,
}

/// A parameter that an optimizer is made for.
pub(crate) struct MovedParameter<'a> {
    pub id: ParameterId,
    pub name: &'a str,
    pub kind: ParameterKind,
    /// Numbers of the whole parameter.
    pub numbers: usize,
    /// What the optimizer moves of it.
    pub weight: &'a Tensor,
}

impl Optimizer {
    /// A fresh optimizer over the trainable ones of `parameters`, all state 0.
    ///
    /// # Errors
    /// State could not be allocated on a parameter's device.
    pub fn new(settings: &TrainSettings, parameters: &Parameters) -> Result<Self, TrainError> {
        Self::placed(settings, parameters, false)
    }

    /// As [`Optimizer::new`]; with `offloaded` its state is the host's, where [`Parameters::keep_masters_on_host`] has put the
    /// weights that it moves.
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub fn placed(
        settings: &TrainSettings,
        parameters: &Parameters,
        offloaded: bool,
    ) -> Result<Self, TrainError> {
        let moved = trained(parameters).map(|(id, parameter)| MovedParameter {
            id,
            name: &parameter.name,
            kind: parameter.kind,
            numbers: parameter.value.elem_count(),
            weight: parameter.full(),
        });
        Self::over(settings, moved, offloaded)
    }

    /// As [`Optimizer::placed`], over anything that moves: ranges of parameters, say.
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub(crate) fn over<'a>(
        settings: &TrainSettings,
        moved: impl Iterator<Item = MovedParameter<'a>>,
        offloaded: bool,
    ) -> Result<Self, TrainError> {
        let rule = match settings.optimizer {
            OptimizerKind::RmsProp | OptimizerKind::RmsProp8Bit => Rule::RmsProp(RmsProp::new(settings)),
            OptimizerKind::AdamW | OptimizerKind::AdamW8Bit => Rule::AdamW(AdamW::new(settings)),
        };
        let names = rule.state_names();
        let is_eight_bit = settings.optimizer.is_eight_bit();
        let (mut slots, mut coded_on) = (Vec::new(), None);
        for MovedParameter { id, name, kind, numbers, weight } in moved {
            let state = ParameterState::zeros(names, weight, is_coded(numbers, is_eight_bit))?;
            if matches!(state, ParameterState::Coded(_)) {
                coded_on = Some(weight.device().clone());
            }
            let decays = matches!(kind, ParameterKind::Matrix | ParameterKind::Embedding);
            slots.push(Slot { id, name: name.to_owned(), decays, state });
        }
        let tables = match coded_on {
            Some(device) if !offloaded && Gpu::at(&device)?.is_some() => Some(CodeTables::on(&device)?),
            _ => None,
        };
        let (weight_decay, is_offloaded) = (settings.weight_decay, offloaded);
        let staging = None;
        Ok(Optimizer { rule, weight_decay, slots, tables, steps: 0, is_offloaded, is_eight_bit, staging })
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
        self.step_each(rate, clip_scale, |id| {
            let parameter = parameters.get(id);
            let copy = parameter.master.as_ref().map(|_| &parameter.value);
            let device = parameter.value.device();
            Some(Moved { weight: parameter.full(), copy, gradient: gradients.get(id)?, device })
        })
    }

    /// As [`Optimizer::step`], of what `moved` says of each parameter; `None`: it stays as it is.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub(crate) fn step_each<'a>(
        &mut self,
        rate: f64,
        clip_scale: f64,
        moved: impl Fn(ParameterId) -> Option<Moved<'a>>,
    ) -> Result<(), TrainError> {
        self.steps += 1;
        let (mut offloaded, mut on) = (Vec::new(), None);
        for slot in &self.slots {
            let Some(Moved { weight, copy, gradient, device }) = moved(slot.id) else { continue };
            check(&slot.name, "value", weight, weight.dims())?;
            check(&slot.name, "gradient", gradient, weight.dims())?;
            let scalars = self.scalars(slot, rate, clip_scale);
            let _operation = profile::operation("optimizer", || {
                let named = slot.state.named(self.rule.state_names(), "");
                let state: Vec<&Tensor> = named.iter().map(|(_, tensor)| tensor).collect();
                let moved =
                    [&[weight, weight, gradient][..], &state[..], &state[..], copy.as_slice()].concat();
                OperationCost::moving(&moved)
            });
            if self.is_offloaded {
                on = on.or(Some(device));
                offloaded.push(OffloadedParameter {
                    scalars,
                    weight: weight.clone(),
                    copy: copy.cloned(),
                    gradient: GradientPlace::of(gradient, device),
                    state: slot.state.clone(),
                });
                continue;
            }
            match (Gpu::of(weight)?, &slot.state, &self.tables) {
                (Some(gpu), ParameterState::Wide(state), _) => {
                    gpu::step(&gpu, &self.rule, scalars, weight, copy, gradient, state)?;
                }
                (Some(gpu), ParameterState::Coded(states), Some(tables)) => {
                    let place = Place { weight, copy, gradient };
                    eight_bit::step_on_gpu(&gpu, &self.rule, scalars, place, states, tables)?;
                }
                _ => {
                    step_cpu(&self.rule, scalars, weight, gradient, &slot.state)?;
                    if let Some(copy) = copy {
                        copy.slice_set(&weight.to_dtype(copy.dtype())?, 0, 0)?;
                    }
                }
            }
        }
        let Some(device) = on else { return Ok(()) };
        let mut staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::new(host_copies(device)?),
        };
        let stepped = offload::step(&self.rule, &offloaded, &mut staging, CopyStart::AfterWork);
        self.staging = Some(staging);
        stepped
    }

    /// Begins a step that others make on the host, of every trainable parameter that has a gradient: what it moves. Its state is on
    /// the host.
    ///
    /// # Errors
    /// As [`Optimizer::step`]; nothing has moved then.
    pub(crate) fn host_step(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        rate: f64,
    ) -> Result<HostStep, TrainError> {
        self.steps += 1;
        let mut moved = HashMap::with_capacity(self.slots.len());
        for slot in &self.slots {
            let (parameter, Some(gradient)) = (parameters.get(slot.id), gradients.get(slot.id)) else {
                continue;
            };
            let weight = parameter.full();
            check(&slot.name, "value", weight, weight.dims())?;
            check(&slot.name, "gradient", gradient, weight.dims())?;
            let one = OffloadedParameter {
                scalars: self.scalars(slot, rate, 1.0),
                weight: weight.clone(),
                copy: parameter.master.as_ref().map(|_| parameter.value.clone()),
                gradient: GradientPlace::of(gradient, parameter.value.device()),
                state: slot.state.clone(),
            };
            moved.insert(slot.id, one);
        }
        Ok(HostStep { rule: self.rule, parameters: moved })
    }

    /// Of the step that was begun last.
    fn scalars(&self, slot: &Slot, rate: f64, clip_scale: f64) -> StepScalars {
        let weight_decay = if slot.decays { self.weight_decay } else { 0.0 };
        StepScalars { rate, clip_scale, weight_decay, step: self.steps }
    }

    /// The state tensors that a file has of a parameter of this name and shape, in the order of [`Optimizer::state`], with what
    /// there is of them here. The tensors are the optimizer's own: what is written to them is its state.
    pub(crate) fn state_of(&self, id: ParameterId, name: &str, dims: &[usize]) -> Vec<StateTensor> {
        let own = self.slots.iter().find(|slot| slot.id == id).map(|slot| &slot.state);
        state::tensors(self.rule.state_names(), name, dims, own, self.is_eight_bit)
    }

    /// Goes on after so many steps.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Where its state is, for a model's.
    pub(crate) fn device<'a>(&self, decoder: &'a Decoder) -> &'a Device {
        if self.is_offloaded { &Device::Cpu } else { decoder.device() }
    }

    /// The state by name, in the parameters' order. The tensors share storage with the optimizer: write them before the
    /// next step.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let names = self.rule.state_names();
        self.slots.iter().flat_map(|slot| slot.state.named(names, &slot.name)).collect()
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
            loaded.push(slot.state.replaced(names, &slot.name, |name, old| {
                let Some(tensor) = given.remove(name) else {
                    return Err(TrainError::StateMissing { name: name.to_owned() });
                };
                check_as(&slot.name, "optimizer state", &tensor, old)?;
                Ok(tensor.to_device(old.device())?.copy()?)
            })?);
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

fn step_cpu(
    rule: &Rule,
    scalars: StepScalars,
    weight: &Tensor,
    gradient: &Tensor,
    state: &ParameterState,
) -> Result<(), TrainError> {
    match rule {
        Rule::RmsProp(rule) => {
            let update = rule.update(scalars);
            state.run(weight, gradient, |chunk| update.apply(chunk))?;
        }
        Rule::AdamW(rule) => {
            let update = rule.update(scalars);
            state.run(weight, gradient, |chunk| update.apply(chunk))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
