//! The product of an adapter with a magnitude (DoRA): y = x·(m ∘ V/‖V‖)ᵀ, V = W + ΔW, the norm taken row by row.
//!
//! The norm is a constant to the gradient, as in the paper (section 4.3) and in PEFT. With N = V/‖V‖ and g = m/‖V‖:
//! dx = dy·(m ∘ N); dm = Σ over rows of dy ∘ (x·Nᵀ), for which x·Nᵀ is computed again; of the factors, du = s·dy·(g ∘ B) and
//! dB = g ∘ s·dyᵀ·(x·Aᵀ).
//!
//! N is made once for each product, \[rows, inputs] in f32, and let go. With dropout, PEFT's form is
//! y = x·Wᵀ + (x̃·(m ∘ N)ᵀ − x̃·Wᵀ) with x̃ the masked x: here (x − x̃)·Wᵀ + x̃·(m ∘ N)ᵀ.

use candle_core::{Result, Tensor};

use super::{AdaptedModule, Digits, Lora, unwritten};
use crate::gradients::Gradients;
use crate::linear::{SumOrder, dense};
use crate::ops::elementwise::{add_assign, add_bias_backward};
use crate::parameters::ParameterId;

/// Rows of length 1, and the lengths that they had.
pub(super) struct UnitRows {
    /// \[rows, inputs].
    pub rows: Tensor,
    /// \[rows].
    pub lengths: Tensor,
}

/// Each row of a matrix divided by its length; a row of zeros stays one.
pub(super) fn unit_rows(matrix: &Tensor) -> Result<UnitRows> {
    let lengths = matrix.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-30)?;
    Ok(UnitRows { rows: matrix.broadcast_div(&lengths)?, lengths: lengths.flatten_all()? })
}

/// Row i of a matrix times factor i.
pub(super) fn scale_rows(matrix: &Tensor, factors: &Tensor) -> Result<Tensor> {
    matrix.broadcast_mul(&factors.to_dtype(matrix.dtype())?.reshape(((), 1))?)
}

impl Lora {
    /// Writes the module's product into its columns of `out`; `seen` is x through the mask.
    pub(super) fn forward_directed(
        &self,
        magnitude: ParameterId,
        place: &AdaptedModule,
        x: &Tensor,
        seen: &Tensor,
        out: &Tensor,
        sums: SumOrder,
    ) -> Result<()> {
        let directed = self.directed(magnitude, place, x)?;
        dense::forward(place.gpu, seen, &directed, out, place.first, sums)?;
        if self.mask(place, x)?.is_some() {
            let weight = place.weight.to_tensor(x.dtype())?;
            dense::forward_add(place.gpu, &x.sub(seen)?, &weight, out, place.first)?;
        }
        Ok(())
    }

    /// m ∘ N in x's dtype.
    fn directed(&self, magnitude: ParameterId, place: &AdaptedModule, x: &Tensor) -> Result<Tensor> {
        let weight = place.weight.to_tensor(x.dtype())?;
        let unit = unit_rows(&self.sum(place.parameters, &weight, Digits::Computed)?)?;
        scale_rows(&unit.rows, &place.parameters.get(magnitude).value)?.to_dtype(x.dtype())
    }

    /// Adds the module's dx and the gradients of factors and magnitude.
    pub(super) fn backward_directed(
        &self,
        magnitude: ParameterId,
        place: &AdaptedModule,
        x: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        gradients: &Gradients,
    ) -> Result<()> {
        let AdaptedModule { parameters, gpu, weight, first, .. } = *place;
        let m = &parameters.get(magnitude).value;
        let unit = unit_rows(&self.sum(parameters, &weight.to_tensor(x.dtype())?, Digits::Computed)?)?;
        let mask = self.mask(place, x)?;
        let seen = self.seen(place, x)?;
        let rows = m.elem_count();
        if let Some(d_m) = gradients.get(magnitude) {
            let y = unwritten(gpu, (x.dims2()?.0, rows), x.dtype())?;
            dense::forward(gpu, &seen, &unit.rows.to_dtype(x.dtype())?, &y, 0, SumOrder::Fastest)?;
            let products = dy.narrow(1, first, rows)?.contiguous()?.mul(&y)?;
            add_bias_backward(&products, 0, d_m)?;
        }
        // dx̃ where there is a mask, else dx itself.
        let d_seen = match &mask {
            Some(_) => dx.zeros_like()?,
            None => dx.clone(),
        };
        let directed = scale_rows(&unit.rows, m)?.to_dtype(x.dtype())?;
        dense::backward_input(gpu, dy, &directed, &d_seen, first, true)?;
        drop(directed);
        if let Some(mask) = &mask {
            let d_rest = dx.zeros_like()?;
            weight.backward_input(gpu, dy, &d_rest, first, false)?;
            add_assign(dx, &d_rest)?;
            add_assign(dx, &d_seen.sub(&d_rest)?.mul(mask)?)?;
        }
        let gain = m.to_dtype(unit.lengths.dtype())?.div(&unit.lengths)?;
        drop(unit);
        for term in &self.terms {
            let b = scale_rows(&parameters.get(term.b).value, &gain)?.contiguous()?;
            if let Some(d_b) = gradients.get(term.b) {
                let u = term.inner(place, &seen, SumOrder::Fastest)?;
                let d_product = d_b.zeros_like()?;
                dense::backward_weight(gpu, &u, dy, &d_product, first)?;
                add_assign(d_b, &scale_rows(&d_product, &gain)?)?;
            }
            term.backward_factor(place, &b, &seen, dy, gradients)?;
        }
        Ok(())
    }
}
