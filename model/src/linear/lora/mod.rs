//! An adapter on one module of a map (LoRA): beside y = x·Wᵀ, thin products with two trained factors.
//!
//! y += s·(x·Aᵀ)·Bᵀ with A \[r, inputs] and B \[rows, r]. W is frozen: its backward has dx alone, and where the gradients have
//! no place for W, nothing of its size is made. s is α/r, or α/√r (rsLoRA); whoever attaches the adapter has computed it.
//!
//! | | forward | backward, besides dy·W into dx |
//! |---|---|---|
//! | plain | u = s·x·Aᵀ, y += u·Bᵀ | dB += dyᵀ·u, du = s·dy·B, dA += duᵀ·x, dx += du·A |
//! | with a magnitude (DoRA) | `magnitude.rs` | `magnitude.rs` |
//! | with dropout | x through a mask before A (`dropout.rs`) | the same mask again |
//!
//! An adapter may be several [`Term`]s that are summed: with PiSSA the second one is frozen, and takes away what the first one
//! began as, so that W itself never changes. Inference takes W + ΔW as one matrix where a map is packed ([`Lora::merged`]).

pub(crate) mod dropout;
mod magnitude;

use candle_core::{DType, Result, Tensor};

use self::dropout::StepDropout;
use super::{Matrix, SumOrder, dense};
use crate::cpu::storage::unwritten_tensor;
use crate::gpu::Gpu;
use crate::gradients::Gradients;
use crate::ops::elementwise::{add_assign, scale_assign};
use crate::ops::fixed_product::fixed_product;
use crate::parameters::{ParameterId, Parameters};

/// The adapter of one module.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// The module's place among the map's.
    pub module: usize,
    /// What is summed: one term, or with PiSSA two.
    pub terms: Vec<Term>,
    /// The length of each row of W + ΔW (DoRA) \[rows].
    pub magnitude: Option<ParameterId>,
    /// Share of the inputs that a training step leaves out.
    pub dropout: f64,
    /// Tells this adapter's masks from the others'.
    pub key: u64,
}

/// s·B·A.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    /// \[r, inputs].
    pub a: ParameterId,
    /// \[rows, r].
    pub b: ParameterId,
    /// s.
    pub scale: f64,
}

/// Where a module's numbers are: its matrix, its first column of the map's output, and what runs its products.
#[derive(Clone, Copy)]
pub(super) struct AdaptedModule<'a> {
    pub parameters: &'a Parameters,
    pub gpu: Option<&'a Gpu>,
    /// W \[rows, inputs].
    pub weight: Matrix<'a>,
    /// The module's first column.
    pub first: usize,
    /// The masks of a training step.
    pub dropout: Option<&'a StepDropout>,
}

impl Lora {
    /// The adapter's own parameters.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        self.terms.iter().flat_map(|term| [term.a, term.b]).chain(self.magnitude)
    }

    /// Whether the module's product is this adapter's to make: with a magnitude, W's product is a part of its.
    pub(super) fn replaces_product(&self) -> bool {
        self.magnitude.is_some()
    }

    /// Adds the adapter's product to the module's columns of `out`, where W's is already; with a magnitude, writes both.
    pub(super) fn forward(
        &self,
        place: &AdaptedModule,
        x: &Tensor,
        out: &Tensor,
        sums: SumOrder,
    ) -> Result<()> {
        let seen = self.seen(place, x)?;
        if let Some(magnitude) = self.magnitude {
            return self.forward_directed(magnitude, place, x, &seen, out, sums);
        }
        for term in &self.terms {
            let u = term.inner(place, &seen, sums)?;
            add_product(place, &u, &place.parameters.get(term.b).value, out, sums)?;
        }
        Ok(())
    }

    /// Adds the adapter's part of dx, and the gradients of what is trained of it, after W's dx; with a magnitude, W's as well.
    pub(super) fn backward(
        &self,
        place: &AdaptedModule,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &Gradients,
    ) -> Result<()> {
        let seen = self.seen(place, x)?;
        if let Some(magnitude) = self.magnitude {
            return self.backward_directed(magnitude, place, x, dy, dx, gradients);
        }
        let masked = self.mask(place, x)?;
        let d_seen = match &masked {
            Some(_) => Some(dx.zeros_like()?),
            None => None,
        };
        for term in &self.terms {
            let b = &place.parameters.get(term.b).value;
            if let Some(d_b) = gradients.get(term.b) {
                let u = term.inner(place, &seen, SumOrder::Fastest)?;
                dense::backward_weight(place.gpu, &u, dy, d_b, place.first)?;
            }
            let du = term.backward_factor(place, b, &seen, dy, gradients)?;
            let a = &place.parameters.get(term.a).value;
            dense::backward_input(place.gpu, &du, a, d_seen.as_ref().unwrap_or(dx), 0, true)?;
        }
        match (masked, d_seen) {
            (Some(mask), Some(d_seen)) => add_assign(dx, &d_seen.mul(&mask)?),
            _ => Ok(()),
        }
    }

    /// What the factors see of x.
    fn seen(&self, place: &AdaptedModule, x: &Tensor) -> Result<Tensor> {
        match self.mask(place, x)? {
            Some(mask) => x.mul(&mask),
            None => Ok(x.clone()),
        }
    }

    fn mask(&self, place: &AdaptedModule, x: &Tensor) -> Result<Option<Tensor>> {
        match place.dropout {
            Some(step) if self.dropout > 0.0 => Ok(Some(step.mask(self.key, self.dropout, x)?)),
            _ => Ok(None),
        }
    }

    /// W + ΔW as one matrix, with all digits that there are of either: f32, or f64 where the model computes in f64.
    pub(super) fn merged(&self, parameters: &Parameters, weight: &Tensor) -> Result<Tensor> {
        let sum = self.sum(parameters, weight, Digits::All)?;
        match self.magnitude {
            None => Ok(sum),
            Some(magnitude) => {
                let lengths = parameters.get(magnitude).full().to_dtype(sum.dtype())?;
                magnitude::scale_rows(&magnitude::unit_rows(&sum)?.rows, &lengths)
            }
        }
    }

    /// W + Σ s·B·A in f32 or f64.
    fn sum(&self, parameters: &Parameters, weight: &Tensor, digits: Digits) -> Result<Tensor> {
        let wide = if weight.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        // Not `copy`, which takes the memory of all that a joined weight is a view of.
        let sum = weight.to_dtype(wide)?.force_contiguous()?;
        let gpu = Gpu::of(weight)?;
        for term in &self.terms {
            let value = |id| {
                let parameter = parameters.get(id);
                match digits {
                    Digits::All => parameter.full(),
                    Digits::Computed => &parameter.value,
                }
            };
            let b = value(term.b).to_dtype(wide)?.copy()?;
            scale_assign(&b, term.scale)?;
            dense::backward_input(gpu.as_ref(), &b, &value(term.a).to_dtype(wide)?, &sum, 0, true)?;
        }
        Ok(sum)
    }
}

/// Which of a trained parameter's numbers are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    /// Its master's, where it has one.
    All,
    /// Those that it computes with.
    Computed,
}

impl Term {
    /// s·x·Aᵀ \[t, r].
    fn inner(&self, place: &AdaptedModule, x: &Tensor, sums: SumOrder) -> Result<Tensor> {
        let a = &place.parameters.get(self.a).value;
        let u = unwritten(place.gpu, (x.dims2()?.0, a.dims2()?.0), x.dtype())?;
        dense::forward(place.gpu, x, a, &u, 0, sums)?;
        scale_assign(&u, self.scale)?;
        Ok(u)
    }

    /// Adds dA, given B as it stands in the product; returns du \[t, r].
    fn backward_factor(
        &self,
        place: &AdaptedModule,
        b: &Tensor,
        x: &Tensor,
        dy: &Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        let du = unwritten(place.gpu, (x.dims2()?.0, b.dims2()?.1), x.dtype())?;
        dense::backward_input(place.gpu, dy, b, &du, place.first, false)?;
        scale_assign(&du, self.scale)?;
        if let Some(d_a) = gradients.get(self.a) {
            dense::backward_weight(place.gpu, x, &du, d_a, 0)?;
        }
        Ok(du)
    }
}

/// Adds u·Bᵀ to the module's columns of `out`.
fn add_product(place: &AdaptedModule, u: &Tensor, b: &Tensor, out: &Tensor, sums: SumOrder) -> Result<()> {
    match (place.gpu, sums) {
        (Some(gpu), SumOrder::ByRow) => {
            // The product in fixed order overwrites: it goes into room of its own.
            let room = out.zeros_like()?;
            fixed_product(gpu, u, b, &room, place.first)?;
            add_assign(out, &room)
        }
        (gpu, _) => dense::forward_add(gpu, u, b, out, place.first),
    }
}

fn unwritten(gpu: Option<&Gpu>, shape: (usize, usize), dtype: DType) -> Result<Tensor> {
    match gpu {
        Some(gpu) => gpu.unwritten(shape, dtype),
        None => unwritten_tensor(shape, dtype),
    }
}
