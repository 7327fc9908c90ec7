//! Linear maps y = x·Wᵀ + b. [`Linear::forward`] and [`Linear::backward`] (`backward.rs`) are the only products with weights that there are:
//! of blocks, of the output head and of a preference model's heads, on a CPU and on a GPU.
//!
//! A [`Linear`] is a list of stored modules side by side in one output. A module is what a model folder names
//! (`model.layers.0.self_attn.q_proj`): queries, keys and values of one input are three modules of one map in most families
//! and one fused module in others, which no caller sees. A module owns a range of the output's columns (`Module::rows`).
//!
//! | form of a weight | where | products |
//! |---|---|---|
//! | `Weight::Dense`, `Weight::Tied` | a parameter \[rows, inputs] | `dense.rs` |
//! | `Weight::Nf4` | a frozen matrix of four bits beside the parameters | `nf4.rs` |
//! | `Weight::Dense`, all modules of a map joined in one tensor (`Parameters::join`) | views of it are the parameters | one for all modules |
//! | a copy of all modules of a map in FP8, for sampling alone | beside the parameters, until `Linear::unpack` | `fp8.rs` |
//! | all modules of a map packed for a CPU's inference | beside the parameters, until `Linear::unpack` | `packed.rs` |
//!
//! A frozen weight in a form of its own (`nf4.rs`) is no parameter, so that neither gradients nor optimizers nor a trainer's
//! checkpoints know of it; `matrix.rs` is where forms are told apart, module by module. Its backward has dx alone, and for a
//! CPU's inference it is packed as it is, in four bits. An adapter stands in a
//! list beside `modules` (`lora/`): `forward` adds its product to its module's columns, `backward` adds to dx and to its
//! factors' gradients. Whoever computes with a map calls these two functions and asks for neither. Parameters that are not
//! trained have no gradient, here as everywhere.
//!
//! For inference a CPU packs W + ΔW, which costs nothing from then on. A GPU has no second copy of the weights and adds the
//! thin products, but for adapters with a magnitude: their W + ΔW is made once, and kept until `Linear::unpack`. Where several
//! decoders stand on one base (`shared.rs`), a CPU adds them as well, and packs W once for all.

mod backward;
pub mod codebook;
mod dense;
mod fp8;
mod inference;
pub(crate) mod lora;
mod matrix;
mod module;
pub(crate) mod nf4;
mod packed;
mod shared;
mod sum_order;

use std::collections::HashSet;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use self::fp8::Fp8Copy;
use self::lora::dropout::StepDropout;
use self::lora::{AdaptedModule, Lora};
pub(crate) use self::matrix::Matrix;
pub use self::module::NewModule;
pub(crate) use self::module::{Module, Weight};
pub use self::nf4::NF4_PANEL;
pub(crate) use self::nf4::{Nf4Matrix, Nf4Scales};
use self::packed::Packed;
pub use self::sum_order::SumOrder;
use crate::architecture::{ParameterKind, layout};
use crate::cpu::gemm::PackedNf4;
use crate::cpu::storage::unwritten_tensor;
use crate::gpu::Gpu;
use crate::ops::elementwise::add_bias;
use crate::parameters::{JoinId, Parameter, ParameterId, Parameters};
use crate::profile::{self, OperationCost};

/// Maps of one input into the columns of one output.
pub struct Linear {
    inputs: usize,
    modules: Vec<Module>,
    /// Where all matrices are one tensor.
    join: Option<JoinId>,
    adapters: Vec<Lora>,
    packed: Option<Arc<Packed>>,
    /// What is packed is W alone, which other maps have packed as well: the adapters' products are added to it.
    adds_to_packed: bool,
    /// Of modules whose matrix is quantised: the same for a CPU's inference.
    coded: Vec<Option<Arc<PackedNf4>>>,
    /// In the place of all modules' matrices and adapters, for sampling alone.
    fp8: Option<Fp8Copy>,
    /// In the place of a module's matrix and its adapter, for inference where nothing is packed.
    folded: Vec<Option<Tensor>>,
}

/// How a product runs.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// The order of its sums.
    pub sums: SumOrder,
    /// What adapters leave out, in a training step.
    pub dropout: Option<&'a StepDropout>,
}

impl Pass<'_> {
    /// Without dropout.
    pub(crate) fn plain(sums: SumOrder) -> Self {
        Self { sums, dropout: None }
    }
}

impl Linear {
    /// The stored modules side by side, in their order; `None` where a tensor of theirs is not among the parameters.
    pub(crate) fn of(parameters: &Parameters, modules: &[layout::ModuleSpec]) -> Option<Self> {
        let found = modules.iter().map(|module| {
            let weight = match parameters.find_quantized(&module.weight()) {
                Some(quantized) => Weight::Nf4(quantized),
                None => Weight::Dense(parameters.find(&module.weight())?),
            };
            // A bias that the family has must be there.
            let bias = match module.bias() {
                Some(bias) => Some(parameters.find(&bias)?),
                None => None,
            };
            Some((module.name.clone(), weight, bias))
        });
        Self::side_by_side(parameters, found.collect::<Option<Vec<_>>>()?)
    }

    /// Joins the matrices of these modules, where all of them are parameters: [`Linear::of`] then makes one product of them.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn join(parameters: &mut Parameters, modules: &[layout::ModuleSpec]) -> Result<()> {
        let found: Option<Vec<_>> = modules.iter().map(|module| parameters.find(&module.weight())).collect();
        found.map_or(Ok(()), |matrices| parameters.join(&matrices))
    }

    /// A map of one module without a bias, `name`.weight; `None` where that is not among the parameters.
    pub(crate) fn named(parameters: &Parameters, name: &str) -> Option<Self> {
        let weight = parameters.find(&format!("{name}.weight"))?;
        Self::side_by_side(parameters, vec![(name.to_owned(), Weight::Dense(weight), None)])
    }

    /// A map `name` whose matrix is the embedding; `None` where that is no matrix.
    pub(crate) fn tied(parameters: &Parameters, name: &str, embedding: ParameterId) -> Option<Self> {
        Self::side_by_side(parameters, vec![(name.to_owned(), Weight::Tied(embedding), None)])
    }

    /// A map of fresh modules, whose tensors become parameters.
    ///
    /// # Errors
    /// Weights that are not matrices of the same number of inputs.
    pub fn insert(parameters: &mut Parameters, modules: Vec<NewModule>) -> Result<Self> {
        let added = modules.into_iter().map(|NewModule { name, weight, bias }| {
            let matrix = Parameter::new(format!("{name}.weight"), weight, ParameterKind::Matrix);
            let weight = Weight::Dense(parameters.push(matrix));
            let bias = bias.map(|bias| {
                parameters.push(Parameter::new(format!("{name}.bias"), bias, ParameterKind::Bias))
            });
            (name, weight, bias)
        });
        let added: Vec<_> = added.collect();
        let matrices: Vec<_> = added.iter().filter_map(|(_, weight, _)| weight.parameter()).collect();
        let widths =
            matrices.iter().map(|&id| parameters.get(id).value.dims2().map_or(0, |(_, width)| width));
        if widths.collect::<HashSet<_>>().len() == 1 {
            parameters.join(&matrices)?;
        }
        match Self::side_by_side(parameters, added) {
            Some(linear) => Ok(linear),
            None => bail!("the new modules are not matrices of one input"),
        }
    }

    /// A map of fresh modules without biases, kept in four bits (NF4) where their weights lie.
    ///
    /// # Errors
    /// Weights that are not matrices of the same number of inputs.
    pub fn insert_quantized(parameters: &mut Parameters, modules: Vec<NewModule>) -> Result<Self> {
        let mut added = Vec::new();
        for NewModule { name, weight, .. } in modules {
            let matrix = Nf4Matrix::quantize(&weight)?.placed_on(weight.device())?;
            let stored = format!("{name}.weight");
            parameters.push_quantized(stored.clone(), matrix);
            let Some(id) = parameters.find_quantized(&stored) else { bail!("{stored} is not kept") };
            added.push((name, Weight::Nf4(id), None));
        }
        match Self::side_by_side(parameters, added) {
            Some(linear) => Ok(linear),
            None => bail!("the new modules are not matrices of one input"),
        }
    }

    fn side_by_side(
        parameters: &Parameters,
        modules: Vec<(String, Weight, Option<ParameterId>)>,
    ) -> Option<Self> {
        let mut linear = Self {
            inputs: 0,
            modules: Vec::with_capacity(modules.len()),
            join: None,
            adapters: Vec::new(),
            packed: None,
            adds_to_packed: false,
            coded: Vec::new(),
            fp8: None,
            folded: Vec::new(),
        };
        for (name, weight, bias) in modules {
            let (rows, inputs) = weight.matrix(parameters).dims()?;
            if !linear.modules.is_empty() && inputs != linear.inputs {
                return None;
            }
            linear.inputs = inputs;
            let first = linear.outputs();
            linear.modules.push(Module { name, rows: first..first + rows, weight, bias });
        }
        let matrices: Vec<_> = linear.modules.iter().filter_map(|module| module.weight.parameter()).collect();
        linear.join = parameters.find_join(&matrices).filter(|_| matrices.len() == linear.modules.len());
        Some(linear)
    }

    /// Columns of the output.
    pub(crate) fn outputs(&self) -> usize {
        self.modules.last().map_or(0, |module| module.rows.end)
    }

    /// The stored modules, in the order of the output's columns.
    pub(crate) fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Gives modules adapters, in the place of those that they have.
    pub(crate) fn adapt(&mut self, adapters: Vec<Lora>) {
        self.unpack();
        self.adapters = adapters;
    }

    /// The adapters, of those modules that have one.
    pub(crate) fn adapters(&self) -> &[Lora] {
        &self.adapters
    }

    fn adapter_of(&self, module: usize) -> Option<&Lora> {
        self.adapters.iter().find(|adapter| adapter.module == module)
    }

    /// The matrix of a module with its adapter, in f32 (f64 where the model computes in f64); `None` where it has none.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn merged(&self, parameters: &Parameters, module: usize) -> Result<Option<Tensor>> {
        let Some(adapter) = self.adapter_of(module) else { return Ok(None) };
        let weight = self.modules[module].weight.full(parameters)?;
        adapter.merged(parameters, &weight).map(Some)
    }

    /// The parameters that are this map's own: its modules' and its adapters'.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        self.modules.iter().flat_map(Module::parameters).chain(self.parameters_of_adapters())
    }

    /// The adapters' among them.
    pub(crate) fn parameters_of_adapters(&self) -> impl Iterator<Item = ParameterId> {
        self.adapters.iter().flat_map(Lora::parameters)
    }

    /// Bytes of weights and adapters, packed copies among them; those of a tied matrix are the embedding's. What other decoders
    /// share counts in each.
    pub fn footprint(&self, parameters: &Parameters) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let quantized = self.modules.iter().map(|module| match module.weight {
            Weight::Nf4(id) => parameters.quantized_matrix(id).footprint(),
            Weight::Dense(_) | Weight::Tied(_) => 0,
        });
        self.parameters().map(|id| parameters.get(id).footprint()).sum::<usize>()
            + quantized.sum::<usize>()
            + self.packed.as_ref().map_or(0, |packed| packed.footprint())
            + self.coded.iter().flatten().map(|coded| coded.footprint()).sum::<usize>()
            + self.fp8.as_ref().map_or(0, Fp8Copy::footprint)
            + self.folded.iter().flatten().map(bytes).sum::<usize>()
    }

    /// x \[t, inputs] → \[t, outputs] in x's dtype.
    ///
    /// # Errors
    /// Another number of inputs, another device or dtype than the weights', a tensor that is not contiguous.
    pub fn forward(&self, parameters: &Parameters, x: &Tensor, sums: SumOrder) -> Result<Tensor> {
        self.forward_in(parameters, x, Pass::plain(sums))
    }

    /// As [`Linear::forward`], in a training step with its dropout.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub(crate) fn forward_in(&self, parameters: &Parameters, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let shape = (x.dims2()?.0, self.outputs());
        let out = match Gpu::of(x)? {
            Some(gpu) => gpu.unwritten(shape, x.dtype())?,
            None => unwritten_tensor(shape, x.dtype())?,
        };
        self.write(parameters, x, &out, pass)?;
        Ok(out)
    }

    /// As [`Linear::forward`], in f32 on a GPU whatever x's dtype is: sums that are not rounded to bf16.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub(crate) fn forward_wide(&self, parameters: &Parameters, x: &Tensor, sums: SumOrder) -> Result<Tensor> {
        let out = self.wide_room(x, x.dims2()?.0)?;
        self.forward_into(parameters, x, &out, sums)?;
        Ok(out)
    }

    /// A tensor \[rows, outputs] for [`Linear::forward_into`] as [`Linear::forward_wide`] makes it for `x`; unwritten.
    pub(crate) fn wide_room(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        match Gpu::of(x)? {
            Some(gpu) => gpu.unwritten((rows, self.outputs()), DType::F32),
            None => unwritten_tensor((rows, self.outputs()), x.dtype()),
        }
    }

    /// Writes the product into `out` \[t, outputs]: x's dtype or, on a GPU, f32.
    ///
    /// # Errors
    /// As [`Linear::forward`]; an output of another shape.
    pub(crate) fn forward_into(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        out: &Tensor,
        sums: SumOrder,
    ) -> Result<()> {
        self.write(parameters, x, out, Pass::plain(sums))
    }

    fn write(&self, parameters: &Parameters, x: &Tensor, out: &Tensor, pass: Pass) -> Result<()> {
        let t = self.rows_of(x)?;
        if out.dims2()? != (t, self.outputs()) {
            bail!(
                "an output {:?} for {t} rows of the {} columns of {}",
                out.dims(),
                self.outputs(),
                self.names()
            )
        }
        let _operation = profile::operation_named(
            || self.short_names(),
            || {
                let width = if self.fp8.is_some() { 1 } else { x.dtype().size_in_bytes() };
                OperationCost::product(t, self.outputs(), self.inputs, width)
            },
        );
        let gpu = Gpu::of(x)?;
        match (&self.fp8, &self.packed, &gpu) {
            (Some(copy), ..) => copy.forward(gpu.as_ref(), x, out, pass.sums)?,
            (_, Some(packed), None) => {
                packed.forward(x, out)?;
                self.add_to_packed(parameters, x, out, pass)?;
            }
            _ => {
                let joined = self.joined(parameters);
                if let Some(whole) = joined {
                    dense::forward(gpu.as_ref(), x, whole, out, 0, pass.sums)?;
                }
                for (number, module) in self.modules.iter().enumerate() {
                    let first = module.rows.start;
                    if let Some(Some(folded)) = self.folded.get(number) {
                        dense::forward(gpu.as_ref(), x, folded, out, first, pass.sums)?;
                        continue;
                    }
                    let place = self.place(parameters, gpu.as_ref(), module, pass.dropout);
                    let adapter = self.adapter_of(number);
                    if joined.is_none() && adapter.is_none_or(|adapter| !adapter.replaces_product()) {
                        match self.coded.get(number) {
                            Some(Some(coded)) if gpu.is_none() && x.dtype() == DType::F32 => {
                                packed::forward_coded(coded, x, out, first)?
                            }
                            _ => place.weight.forward(gpu.as_ref(), x, out, first, pass.sums)?,
                        }
                    }
                    if let Some(adapter) = adapter.filter(|_| t > 0) {
                        adapter.forward(&place, x, out, pass.sums)?;
                    }
                }
            }
        }
        for module in &self.modules {
            if let Some(bias) = module.bias {
                add_bias(out, module.rows.start, &parameters.get(bias).value)?;
            }
        }
        Ok(())
    }

    /// All matrices as one, where they are joined and no adapter makes a module's product by itself.
    fn joined<'a>(&self, parameters: &'a Parameters) -> Option<&'a Tensor> {
        let is_plain = self.folded.is_empty() && !self.adapters.iter().any(Lora::replaces_product);
        self.join.filter(|_| is_plain).and_then(|id| parameters.joined(id))
    }

    fn place<'a>(
        &self,
        parameters: &'a Parameters,
        gpu: Option<&'a Gpu>,
        module: &Module,
        dropout: Option<&'a StepDropout>,
    ) -> AdaptedModule<'a> {
        let weight = module.weight.matrix(parameters);
        AdaptedModule { parameters, gpu, weight, first: module.rows.start, dropout }
    }

    fn rows_of(&self, x: &Tensor) -> Result<usize> {
        match x.dims2()? {
            (t, inputs) if inputs == self.inputs => Ok(t),
            _ => bail!("an input {:?} for {}, which takes {} columns", x.dims(), self.names(), self.inputs),
        }
    }

    /// What the modules are called within their block.
    fn short_names(&self) -> String {
        let short = |module: &Module| module.name.rsplit('.').next().unwrap_or_default().to_owned();
        self.modules.iter().map(short).collect::<Vec<_>>().join("+")
    }

    /// The modules' names, for messages.
    fn names(&self) -> String {
        self.modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests;
