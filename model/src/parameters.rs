//! The weights of a model under their Hugging Face names, and the gradients that belong to them.

use candle_core::{DType, Result, Tensor};

use crate::architecture::ParameterKind;
use crate::linear::nf4::Nf4Matrix;
use crate::ops::elementwise::zero;

/// A parameter's index, the same in [`Parameters`] and [`Gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// The index as a number, for tables that run beside the parameters.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One weight.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its Hugging Face name.
    pub name: String,
    /// Its value in the dtype of computation; updated in place by an optimizer.
    pub value: Tensor,
    /// The f32 value that training moves, where `value` is only its rounded copy (see [`Parameters::keep_masters`]).
    pub master: Option<Tensor>,
    /// What it is: weight decay leaves norms and biases out.
    pub kind: ParameterKind,
    /// Whether it gets a gradient.
    pub trainable: bool,
}

impl Parameter {
    pub(crate) fn new(name: impl Into<String>, value: Tensor, kind: ParameterKind) -> Self {
        Self { name: name.into(), value, master: None, kind, trainable: true }
    }

    /// The value with all its digits: the master, where there is one.
    pub fn full(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.value)
    }

    /// Bytes of the value, without a master's.
    pub fn footprint(&self) -> usize {
        self.value.elem_count() * self.value.dtype().size_in_bytes()
    }
}

/// A frozen matrix of few bits. It is no parameter: neither gradients nor optimizers nor checkpoints know of it.
#[derive(Debug)]
pub(crate) struct QuantizedWeight {
    /// Its Hugging Face name.
    pub name: String,
    pub matrix: Nf4Matrix,
}

/// A quantised matrix's place among those of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuantizedId(usize);

/// All weights of a model, in the order of a forward pass; quantised matrices beside them.
#[derive(Debug, Default)]
pub struct Parameters(Vec<Parameter>, Vec<QuantizedWeight>);

impl Parameters {
    pub(crate) fn push(&mut self, parameter: Parameter) -> ParameterId {
        self.0.push(parameter);
        ParameterId(self.0.len() - 1)
    }

    /// All but those named; the ids of those that follow one of them change.
    pub(crate) fn without(self, ids: &[ParameterId]) -> Self {
        let kept = self.0.into_iter().enumerate().filter(|(place, _)| !ids.contains(&ParameterId(*place)));
        Self(kept.map(|(_, parameter)| parameter).collect(), self.1)
    }

    /// Gives a parameter another value; a master of the old one goes.
    pub(crate) fn set_value(&mut self, id: ParameterId, value: Tensor) {
        let parameter = &mut self.0[id.0];
        parameter.value = value;
        parameter.master = None;
    }

    /// One parameter, to change.
    pub(crate) fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.0[id.0]
    }

    pub(crate) fn push_quantized(&mut self, name: String, matrix: Nf4Matrix) {
        self.1.push(QuantizedWeight { name, matrix });
    }

    /// The quantised matrices.
    pub(crate) fn quantized(&self) -> impl Iterator<Item = &QuantizedWeight> {
        self.1.iter()
    }

    /// One of them.
    pub(crate) fn quantized_matrix(&self, id: QuantizedId) -> &Nf4Matrix {
        &self.1[id.0].matrix
    }

    /// The one of this name.
    pub(crate) fn find_quantized(&self, name: &str) -> Option<QuantizedId> {
        self.1.iter().position(|weight| weight.name == name).map(QuantizedId)
    }

    /// Puts a dense matrix, as a parameter, in the place of the quantised one of its name.
    pub(crate) fn replace_quantized(&mut self, name: &str, value: Tensor) {
        self.1.retain(|weight| weight.name != name);
        self.push(Parameter::new(name, value, ParameterKind::Matrix));
    }

    /// All parameters with their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParameterId, &Parameter)> {
        self.0.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// One parameter.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.0[id.0]
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.0.iter().position(|p| p.name == name).map(ParameterId)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Marks parameters as trainable or frozen by a rule over them.
    pub fn set_trainable(&mut self, rule: impl Fn(&Parameter) -> bool) {
        for parameter in &mut self.0 {
            parameter.trainable = rule(parameter);
        }
    }

    /// Gives every trainable weight that is kept in less than f32 an f32 master: at a learning rate of 5e-7 a bf16 weight
    /// would not move. Masters that are there stay.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn keep_masters(&mut self) -> Result<()> {
        for parameter in &mut self.0 {
            let is_rounded = matches!(parameter.value.dtype(), DType::BF16 | DType::F16);
            if parameter.trainable && is_rounded && parameter.master.is_none() {
                parameter.master = Some(parameter.value.to_dtype(DType::F32)?);
            }
        }
        Ok(())
    }

    /// Frees the masters; `value` stays as it is.
    pub fn drop_masters(&mut self) {
        for parameter in &mut self.0 {
            parameter.master = None;
        }
    }

    /// Rounds every master to its copy again, after masters were read from a file.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn round_masters(&self) -> Result<()> {
        for parameter in &self.0 {
            if let Some(master) = &parameter.master {
                parameter.value.slice_set(&master.to_dtype(parameter.value.dtype())?, 0, 0)?;
            }
        }
        Ok(())
    }

    /// Numbers in all.
    pub fn element_count(&self) -> usize {
        self.0.iter().map(|p| p.value.elem_count()).sum()
    }
}

/// Sums of gradients, one tensor for each trainable parameter, in f32 (f64 where the model computes in f64).
#[derive(Debug)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// Zeros for every trainable parameter.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn zeros(parameters: &Parameters) -> Result<Self> {
        let slots = parameters.0.iter().map(|p| {
            let dtype = if p.value.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            p.trainable.then(|| Tensor::zeros(p.value.shape(), dtype, p.value.device())).transpose()
        });
        Ok(Self(slots.collect::<Result<_>>()?))
    }

    /// The gradient of one parameter; `None` where it is frozen.
    pub fn get(&self, id: ParameterId) -> Option<&Tensor> {
        self.0[id.0].as_ref()
    }

    /// All gradients with their parameters' ids.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Tensor)> {
        self.0.iter().enumerate().filter_map(|(i, g)| Some((ParameterId(i), g.as_ref()?)))
    }

    /// Sets all sums to 0 in place.
    ///
    /// # Errors
    /// A device without a form of this operation.
    pub fn zero(&mut self) -> Result<()> {
        for gradient in self.0.iter().flatten() {
            zero(gradient)?;
        }
        Ok(())
    }
}
