//! The backward of a [`Linear`]: dx, and the gradients of what is trained.

use candle_core::{Result, Tensor, bail};

use super::lora::Lora;
use super::lora::dropout::StepDropout;
use super::module::Module;
use super::{Linear, dense};
use crate::cpu::storage::unwritten_tensor;
use crate::gpu::Gpu;
use crate::gradients::Gradients;
use crate::ops::elementwise::add_bias_backward;
use crate::parameters::Parameters;
use crate::profile::{self, OperationCost};

impl Linear {
    /// dx \[t, inputs] of [`Linear::forward`], given its x \[t, inputs] and dy \[t, outputs]; adds the gradients of what is
    /// trained to `gradients`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn backward(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        dy: &Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        self.backward_in(parameters, x, dy, gradients, None)
    }

    /// As [`Linear::backward`], of [`Linear::forward_in`] with this dropout.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub(crate) fn backward_in(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        dy: &Tensor,
        gradients: &Gradients,
        dropout: Option<&StepDropout>,
    ) -> Result<Tensor> {
        let t = self.rows_of(x)?;
        if dy.dims2()? != (t, self.outputs()) {
            bail!(
                "a gradient {:?} of {t} rows of the {} columns of {}",
                dy.dims(),
                self.outputs(),
                self.names()
            )
        }
        let _operation = profile::operation_named(
            || format!("{}, backward", self.short_names()),
            || self.backward_cost(x, gradients),
        );
        let gpu = Gpu::of(x)?;
        if let Some(dx) = self.backward_joined(parameters, gpu.as_ref(), x, dy, gradients)? {
            return Ok(dx);
        }
        // The first module's product overwrites, unless an adapter makes it: that one adds.
        let starts_empty = self.adapter_of(0).is_some_and(Lora::replaces_product);
        let dx = match &gpu {
            _ if starts_empty => x.zeros_like()?,
            Some(gpu) => gpu.unwritten((t, self.inputs), x.dtype())?,
            None => unwritten_tensor((t, self.inputs), x.dtype())?,
        };
        if t == 0 {
            return Ok(dx);
        }
        for (i, module) in self.modules.iter().enumerate() {
            let first = module.rows.start;
            let place = self.place(parameters, gpu.as_ref(), module, dropout);
            let adapter = self.adapter_of(i);
            if adapter.is_none_or(|adapter| !adapter.replaces_product()) {
                place.weight.backward_input(gpu.as_ref(), dy, &dx, first, i > 0)?;
            }
            if let Some(adapter) = adapter {
                adapter.backward(&place, x, dy, &dx, gradients)?;
            }
            if let Some(d_weight) = module.weight.parameter().and_then(|id| gradients.get(id)) {
                dense::backward_weight(gpu.as_ref(), x, dy, d_weight, first)?;
            }
            if let Some(d_bias) = module.bias.and_then(|bias| gradients.get(bias)) {
                add_bias_backward(dy, first, d_bias)?;
            }
        }
        Ok(dx)
    }

    /// As [`Linear::backward_in`] by one product for dx and one for dW; `None` where the matrices are not joined. Adapters are
    /// left to the other way, which adds a module's adapter to dx before the next module.
    fn backward_joined(
        &self,
        parameters: &Parameters,
        gpu: Option<&Gpu>,
        x: &Tensor,
        dy: &Tensor,
        gradients: &Gradients,
    ) -> Result<Option<Tensor>> {
        let Some((id, whole)) = self.join.zip(self.joined(parameters)).filter(|_| self.adapters.is_empty())
        else {
            return Ok(None);
        };
        let t = x.dims2()?.0;
        let dx = match gpu {
            Some(gpu) => gpu.unwritten((t, self.inputs), x.dtype())?,
            None => unwritten_tensor((t, self.inputs), x.dtype())?,
        };
        if t == 0 {
            return Ok(Some(dx));
        }
        dense::backward_input(gpu, dy, whole, &dx, 0, false)?;
        let d_whole = gradients.joined(id);
        if let Some(d_whole) = d_whole {
            dense::backward_weight(gpu, x, dy, d_whole, 0)?;
        }
        for module in &self.modules {
            let d_weight = module.weight.parameter().and_then(|id| gradients.get(id));
            if let Some(d_weight) = d_weight.filter(|_| d_whole.is_none()) {
                dense::backward_weight(gpu, x, dy, d_weight, module.rows.start)?;
            }
            if let Some(d_bias) = module.bias.and_then(|bias| gradients.get(bias)) {
                add_bias_backward(dy, module.rows.start, d_bias)?;
            }
        }
        Ok(Some(dx))
    }

    /// Of the product for dx, and of that for dW of each matrix that is trained.
    fn backward_cost(&self, x: &Tensor, gradients: &Gradients) -> OperationCost {
        let (t, width) = (x.dims2().map_or(0, |(t, _)| t), x.dtype().size_in_bytes());
        let is_trained =
            |module: &&Module| module.weight.parameter().is_some_and(|id| gradients.get(id).is_some());
        let trained = self.modules.iter().filter(is_trained).map(|module| module.rows.len()).sum();
        let dx = OperationCost::product(t, self.inputs, self.outputs(), width);
        let d_weight = OperationCost::product(trained, self.inputs, t, width);
        OperationCost { bytes: dx.bytes + d_weight.bytes, flops: dx.flops + d_weight.flops }
    }
}
