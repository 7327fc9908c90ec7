//! The weights of a model under their Hugging Face names.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::architecture::ParameterKind;
use crate::linear::nf4::Nf4Matrix;
use crate::shares::HeldRange;
use crate::tensor_memory;

/// A parameter's index, the same in [`Parameters`] and [`Gradients`](crate::Gradients).
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
#[derive(Clone, Debug)]
pub(crate) struct QuantizedWeight {
    /// Its Hugging Face name.
    pub name: String,
    pub matrix: Arc<Nf4Matrix>,
}

/// A quantised matrix's place among those of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuantizedId(usize);

/// Matrices that stand one below the other in one tensor, of which their values are views.
#[derive(Clone, Debug)]
struct Join {
    members: Vec<ParameterId>,
    whole: Tensor,
}

/// A join's place in [`Parameters`] and [`Gradients`](crate::Gradients).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JoinId(pub(crate) usize);

/// A tensor that owns its memory, with the parameters that lie in it: a joined one has several.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The whole memory as one tensor.
    pub tensor: Tensor,
    /// What lies in it.
    pub members: Vec<ParameterId>,
}

/// All weights of a model, in the order of a forward pass; quantised matrices beside them.
///
/// Matrices of one input may be joined: one tensor holds them one below the other, so that one product computes with all of
/// them. Each of them is a parameter as before, with a name, a gradient and an optimizer's state of its own.
#[derive(Debug, Default)]
pub struct Parameters {
    entries: Vec<Parameter>,
    quantized: Vec<QuantizedWeight>,
    /// `None` where a member was given another tensor.
    joins: Vec<Option<Join>>,
    /// Where several ranks hold the model: what this one has of parameters without memory.
    held: Option<BTreeMap<ParameterId, HeldRange>>,
}

/// Members of a join begin at multiples of so many numbers: at 16 bytes in bf16 as in f32, as the GPU's kernels need it.
const JOIN_ALIGNMENT: usize = 8;

impl Parameters {
    pub(crate) fn push(&mut self, parameter: Parameter) -> ParameterId {
        self.entries.push(parameter);
        ParameterId(self.entries.len() - 1)
    }

    /// All but those named; the ids of those that follow one of them change.
    pub(crate) fn without(self, ids: &[ParameterId]) -> Self {
        let mut places = Vec::with_capacity(self.entries.len());
        let mut entries = Vec::with_capacity(self.entries.len());
        for (place, parameter) in self.entries.into_iter().enumerate() {
            let stays = !ids.contains(&ParameterId(place));
            places.push(stays.then_some(ParameterId(entries.len())));
            entries.extend(stays.then_some(parameter));
        }
        let moved = |join: Join| {
            let members: Option<Vec<_>> = join.members.iter().map(|member| places[member.0]).collect();
            Some(Join { members: members?, whole: join.whole })
        };
        let joins = self.joins.into_iter().map(|join| join.and_then(moved)).collect();
        // Nothing is put over a model that ranks divide, and nothing taken away from it.
        Self { entries, quantized: self.quantized, joins, held: None }
    }

    /// Moves matrices of the same number of columns into one tensor, if their sizes let every one begin where kernels can
    /// read it, and their values are no views of another join. Their old memory is freed.
    ///
    /// # Errors
    /// Matrices of different widths, dtypes or devices; out of memory.
    pub(crate) fn join(&mut self, members: &[ParameterId]) -> Result<()> {
        let is_aligned = |id: &ParameterId| self.get(*id).value.elem_count().is_multiple_of(JOIN_ALIGNMENT);
        let is_joined = |id: &ParameterId| self.joins.iter().flatten().any(|join| join.members.contains(id));
        if members.len() < 2 || !members.iter().all(is_aligned) || members.iter().any(is_joined) {
            return Ok(());
        }
        let values: Vec<&Tensor> = members.iter().map(|&id| &self.get(id).value).collect();
        let whole = Tensor::cat(&values, 0)?;
        let mut first = 0;
        for &id in members {
            let rows = self.get(id).value.dim(0)?;
            self.entries[id.0].value = whole.narrow(0, first, rows)?;
            first += rows;
        }
        self.joins.push(Some(Join { members: members.to_vec(), whole }));
        Ok(())
    }

    /// Takes for joined what stands one below the other in one tensor already, all of which its members are.
    ///
    /// # Errors
    /// Members of more or fewer rows than there are.
    pub(crate) fn adopt_join(&mut self, members: &[ParameterId], whole: Tensor) -> Result<()> {
        let mut rows = 0;
        for &id in members {
            rows += self.get(id).value.dim(0)?;
        }
        if rows != whole.dim(0)? {
            candle_core::bail!("members of {rows} rows of a tensor of {:?}", whole.dims())
        }
        self.joins.push(Some(Join { members: members.to_vec(), whole }));
        Ok(())
    }

    /// Whether matrices of these numbers of elements may be joined: each begins where kernels can read it.
    pub(crate) fn is_joinable(elements: impl Iterator<Item = usize>) -> bool {
        let elements: Vec<usize> = elements.collect();
        elements.len() > 1 && elements.iter().all(|elements| elements.is_multiple_of(JOIN_ALIGNMENT))
    }

    /// The join of just these, in this order.
    pub(crate) fn find_join(&self, members: &[ParameterId]) -> Option<JoinId> {
        let is_it = |join: &Option<Join>| join.as_ref().is_some_and(|join| join.members == members);
        self.joins.iter().position(is_it).map(JoinId)
    }

    /// The tensor of a join; `None` where a member has left it.
    pub(crate) fn joined(&self, id: JoinId) -> Option<&Tensor> {
        self.joins.get(id.0)?.as_ref().map(|join| &join.whole)
    }

    /// The same weights once more: tensors are shared, not copied. Neither may be updated in place, as a training does.
    pub(crate) fn shared(&self) -> Self {
        let Self { entries, quantized, joins, held } = self;
        Self {
            entries: entries.clone(),
            quantized: quantized.clone(),
            joins: joins.clone(),
            held: held.clone(),
        }
    }

    /// Notes what this rank holds of parameters that have no memory here.
    pub(crate) fn hold(&mut self, held: BTreeMap<ParameterId, HeldRange>) {
        self.held = Some(held);
    }

    /// Whether several ranks hold the model, and this one's ranges were not taken out yet.
    pub fn has_held(&self) -> bool {
        self.held.is_some()
    }

    /// Takes out what this rank holds of parameters that have no memory here; `None` where it holds all of them.
    pub fn take_held(&mut self) -> Option<BTreeMap<ParameterId, HeldRange>> {
        self.held.take()
    }

    /// Gives a parameter another value; a master of the old one goes.
    pub(crate) fn set_value(&mut self, id: ParameterId, value: Tensor) {
        self.leave_joins(id);
        let parameter = &mut self.entries[id.0];
        parameter.value = value;
        parameter.master = None;
    }

    /// Puts another parameter in a place.
    pub(crate) fn replace(&mut self, id: ParameterId, parameter: Parameter) {
        self.leave_joins(id);
        self.entries[id.0] = parameter;
    }

    fn leave_joins(&mut self, id: ParameterId) {
        for join in &mut self.joins {
            if join.as_ref().is_some_and(|join| join.members.contains(&id)) {
                *join = None;
            }
        }
    }

    /// One parameter, to change.
    pub(crate) fn get_mut(&mut self, id: ParameterId) -> &mut Parameter {
        &mut self.entries[id.0]
    }

    pub(crate) fn push_quantized(&mut self, name: String, matrix: Nf4Matrix) {
        self.quantized.push(QuantizedWeight { name, matrix: Arc::new(matrix) });
    }

    /// The quantised matrices.
    pub(crate) fn quantized(&self) -> impl Iterator<Item = &QuantizedWeight> {
        self.quantized.iter()
    }

    /// One of them.
    pub(crate) fn quantized_matrix(&self, id: QuantizedId) -> &Nf4Matrix {
        &self.quantized[id.0].matrix
    }

    /// The one of this name.
    pub(crate) fn find_quantized(&self, name: &str) -> Option<QuantizedId> {
        self.quantized.iter().position(|weight| weight.name == name).map(QuantizedId)
    }

    /// Puts a dense matrix, as a parameter, in the place of the quantised one of its name.
    pub(crate) fn replace_quantized(&mut self, name: &str, value: Tensor) {
        self.quantized.retain(|weight| weight.name != name);
        self.push(Parameter::new(name, value, ParameterKind::Matrix));
    }

    /// All parameters with their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParameterId, &Parameter)> {
        self.entries.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// One parameter.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.entries[id.0]
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.entries.iter().position(|p| p.name == name).map(ParameterId)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tensors in whose memory the values of just these parameters lie, each once, whether the memory is there or was given back;
    /// those that share memory with others are left out.
    pub fn owners(&self, ids: &[ParameterId]) -> Vec<Owner> {
        let joins = self.joins.iter().flatten().map(|join| (&join.members, &join.whole));
        let mut owners = owners(ids, joins, |id| Some(&self.get(id).value));
        owners.retain(|owner| tensor_memory::has_its_own(&owner.tensor));
        owners
    }

    /// Marks parameters as trainable or frozen by a rule over them.
    pub fn set_trainable(&mut self, rule: impl Fn(&Parameter) -> bool) {
        for parameter in &mut self.entries {
            parameter.trainable = rule(parameter);
        }
    }

    /// Gives every trainable weight that is kept in less than f32 an f32 master: at a learning rate of 5e-7 a bf16 weight
    /// would not move. Masters that are there stay.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn keep_masters(&mut self) -> Result<()> {
        for parameter in &mut self.entries {
            let is_rounded = matches!(parameter.value.dtype(), DType::BF16 | DType::F16);
            if parameter.trainable && is_rounded && parameter.master.is_none() {
                parameter.master = Some(parameter.value.to_dtype(DType::F32)?);
            }
        }
        Ok(())
    }

    /// As [`Parameters::keep_masters`], in the host's memory, and for every trainable weight that is on a device: an optimizer
    /// that runs on the host moves them.
    ///
    /// # Errors
    /// The error of the device that weights are read from.
    pub fn keep_masters_on_host(&mut self) -> Result<()> {
        for parameter in &mut self.entries {
            let is_host_s = parameter.value.device().is_cpu() && parameter.value.dtype() == DType::F32;
            if parameter.trainable && !is_host_s {
                let held = parameter.master.as_ref().unwrap_or(&parameter.value);
                parameter.master = Some(held.to_device(&Device::Cpu)?.to_dtype(DType::F32)?);
            }
        }
        Ok(())
    }

    /// Takes a parameter's master out; `value` stays as it is.
    pub fn take_master(&mut self, id: ParameterId) -> Option<Tensor> {
        self.entries[id.0].master.take()
    }

    /// Gives a parameter a master, whose rounded copy its value is.
    pub fn set_master(&mut self, id: ParameterId, master: Tensor) {
        self.entries[id.0].master = Some(master);
    }

    /// Frees the masters; `value` stays as it is.
    pub fn drop_masters(&mut self) {
        for parameter in &mut self.entries {
            parameter.master = None;
        }
    }

    /// Rounds every master to its copy again, after masters were read from a file.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn round_masters(&self) -> Result<()> {
        for parameter in &self.entries {
            if let Some(master) = &parameter.master {
                let rounded =
                    master.to_dtype(parameter.value.dtype())?.to_device(parameter.value.device())?;
                parameter.value.slice_set(&rounded, 0, 0)?;
            }
        }
        Ok(())
    }

    /// All joins by their ids: the members and the tensor; `None` of one that a member has left.
    pub(crate) fn joins(&self) -> impl ExactSizeIterator<Item = Option<(&[ParameterId], &Tensor)>> {
        self.joins.iter().map(|join| join.as_ref().map(|join| (&join.members[..], &join.whole)))
    }

    /// Numbers in all.
    pub fn element_count(&self) -> usize {
        self.entries.iter().map(|p| p.value.elem_count()).sum()
    }
}

/// The owners of some parameters' tensors, out of the joins with their members and the tensors of each one.
pub(crate) fn owners<'a>(
    ids: &[ParameterId],
    joins: impl Iterator<Item = (&'a Vec<ParameterId>, &'a Tensor)>,
    tensor_of: impl Fn(ParameterId) -> Option<&'a Tensor>,
) -> Vec<Owner> {
    let (mut owners, mut joined) = (Vec::new(), Vec::new());
    for (members, whole) in joins {
        if members.iter().all(|member| ids.contains(member)) {
            owners.push(Owner { tensor: whole.clone(), members: members.clone() });
        }
        joined.extend_from_slice(members);
    }
    for &id in ids.iter().filter(|id| !joined.contains(id)) {
        owners.extend(tensor_of(id).map(|tensor| Owner { tensor: tensor.clone(), members: vec![id] }));
    }
    owners
}
