//! Maps of several decoders over the same weights: what one of them has packed serves all.

use std::ptr;

use candle_core::{Result, Tensor};

use super::lora::Lora;
use super::{Linear, Matrix, Pass};
use crate::parameters::Parameters;

impl Linear {
    /// As [`Linear::pack`], but what `base` has packed is taken where it is of these weights: this map's adapters then add their
    /// products to it. Adapters with a magnitude, and modules that an adapter replaces, are packed by themselves.
    ///
    /// # Errors
    /// As [`Linear::pack`].
    pub(crate) fn pack_beside(
        &mut self,
        parameters: &Parameters,
        base: &Self,
        base_parameters: &Parameters,
    ) -> Result<()> {
        let is_plain = base.adapters.is_empty() && !self.adapters.iter().any(Lora::replaces_product);
        if is_plain && self.has_weights_of(parameters, base, base_parameters) {
            self.packed.clone_from(&base.packed);
            self.coded.clone_from(&base.coded);
            self.adds_to_packed = self.packed.is_some();
        }
        self.pack(parameters)
    }

    /// Adds the products of the adapters, where W alone is packed.
    pub(super) fn add_to_packed(
        &self,
        parameters: &Parameters,
        x: &Tensor,
        out: &Tensor,
        pass: Pass,
    ) -> Result<()> {
        if !self.adds_to_packed || x.dims2()?.0 == 0 {
            return Ok(());
        }
        for adapter in &self.adapters {
            let place = self.place(parameters, None, &self.modules[adapter.module], pass.dropout);
            adapter.forward(&place, x, out, pass.sums)?;
        }
        Ok(())
    }

    /// Whether every module's matrix is the very one of the other map's, not a copy of it.
    fn has_weights_of(&self, parameters: &Parameters, other: &Self, others: &Parameters) -> bool {
        let is_same = |(mine, theirs): (&super::Module, &super::Module)| match (
            mine.weight.matrix(parameters),
            theirs.weight.matrix(others),
        ) {
            (Matrix::Dense(mine), Matrix::Dense(theirs)) => mine.id() == theirs.id(),
            (Matrix::Nf4(mine), Matrix::Nf4(theirs)) => ptr::eq(mine, theirs),
            _ => false,
        };
        self.modules.len() == other.modules.len() && self.modules.iter().zip(&other.modules).all(is_same)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Device;

    use super::super::{NewModule, SumOrder};
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor {
        let values: Vec<f32> =
            (0..rows * columns).map(|i| ((i * 37 + 11) % 97) as f32 / 48.0 - 1.0).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn what_is_packed_is_shared_until_a_weight_is_another() {
        let mut parameters = Parameters::default();
        let module = |name: &str, rows| NewModule { name: name.into(), weight: matrix(rows, 8), bias: None };
        let mut base = Linear::insert(&mut parameters, vec![module("a", 5)]).unwrap();
        base.pack(&parameters).unwrap();
        let mut others = parameters.shared();
        let mut same = Linear::named(&others, "a").unwrap();
        same.pack_beside(&others, &base, &parameters).unwrap();
        assert!(Arc::ptr_eq(same.packed.as_ref().unwrap(), base.packed.as_ref().unwrap()));
        let x = matrix(3, 8);
        let product = |map: &Linear, parameters: &Parameters| -> Vec<Vec<f32>> {
            map.forward(parameters, &x, SumOrder::Fastest).unwrap().to_vec2().unwrap()
        };
        assert_eq!(product(&same, &others), product(&base, &parameters));
        let id = others.find("a.weight").unwrap();
        others.set_value(id, matrix(5, 8).affine(2.0, 0.0).unwrap());
        let mut other = Linear::named(&others, "a").unwrap();
        other.pack_beside(&others, &base, &parameters).unwrap();
        assert!(!Arc::ptr_eq(other.packed.as_ref().unwrap(), base.packed.as_ref().unwrap()));
        assert_eq!(product(&other, &others)[0][0], 2.0 * product(&base, &parameters)[0][0]);
    }
}
