//! Which of the kernels for compute capability 9.0 alone (`gpu/cuda/hopper_*.cu`) take the place of those for every GPU.
//!
//! None does by itself until a GPU has shown in `selfplay bench check` that they compute the same: `SELFPLAY_HOPPER` names them,
//! `bench check` and `bench kernels` run old and new beside each other. On other GPUs, in builds for other capabilities, for f32
//! and for shapes that they are not made for, the others run whatever it says.

use std::cell::Cell;
use std::env;
use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor, bail};

use super::{Argument, Gpu, pointer};

/// The variable that names them, with commas between: `products`, `attention`, `attention-backward`; or `all`.
const VARIABLE: &str = "SELFPLAY_HOPPER";

/// Which kernels for Hopper run where they can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopperKernels {
    /// Products whose rows have the same bits in any batch (`hopper_product.cu`).
    pub products: bool,
    /// Attention over packed segments, forward (`hopper_attention.cu`).
    pub attention: bool,
    /// The same, backward (`hopper_attention_backward.cu`).
    pub attention_backward: bool,
}

thread_local! {
    static CHOSEN: Cell<Option<HopperKernels>> = const { Cell::new(None) };
}

impl HopperKernels {
    /// All of them.
    pub const ALL: Self = Self { products: true, attention: true, attention_backward: true };
    /// None of them.
    pub const NONE: Self = Self { products: false, attention: false, attention_backward: false };

    /// Runs `f`, whose operations on this thread take these kernels whatever the environment says: for comparing them with the
    /// others.
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        /// Also where `f` panics.
        struct Restore(Option<HopperKernels>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CHOSEN.set(self.0);
            }
        }
        let _restore = Restore(CHOSEN.replace(Some(self)));
        f()
    }

    /// Those that run on this GPU.
    ///
    /// # Errors
    /// Words in the variable that name none.
    pub(crate) fn on(gpu: &Gpu) -> Result<Self> {
        if gpu.has_hopper() { Self::on_hopper() } else { Ok(Self::NONE) }
    }

    /// Those that would run on a GPU of compute capability 9.0, for whoever plans for one.
    ///
    /// # Errors
    /// Words in the variable that name none.
    pub fn on_hopper() -> Result<Self> {
        static FROM_ENVIRONMENT: OnceLock<std::result::Result<HopperKernels, String>> = OnceLock::new();
        if let Some(chosen) = CHOSEN.get() {
            return Ok(chosen);
        }
        let from_environment = || Self::parse(&env::var(VARIABLE).unwrap_or_default());
        match FROM_ENVIRONMENT.get_or_init(from_environment) {
            Ok(kernels) => Ok(*kernels),
            Err(problem) => bail!("{VARIABLE}: {problem}"),
        }
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut kernels = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "all" => kernels = Self::ALL,
                "products" => kernels.products = true,
                "attention" => kernels.attention = true,
                "attention-backward" => kernels.attention_backward = true,
                _ => return Err(format!("{word:?} is none of products, attention, attention-backward, all")),
            }
        }
        Ok(kernels)
    }
}

/// `n` counts of 0 by which blocks of one launch wait for each other: a kernel of its own sets them, so that a recording does as
/// well. Four bytes each; as f32, of which 0 has the bits of an integer's.
///
/// # Errors
/// Out of memory.
pub(crate) fn zero_counts(gpu: &Gpu, n: usize) -> Result<Tensor> {
    let counts = gpu.unwritten(n, DType::F32)?;
    let arguments = [pointer(&counts)?, Argument::I64(n as i64)];
    gpu.launch_single("zero", [n.div_ceil(1024).clamp(1, 132), 1, 1], 256, 0, &arguments)?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_kernels() {
        let parse = HopperKernels::parse;
        assert_eq!(parse(""), Ok(HopperKernels::NONE));
        assert_eq!(parse("all"), Ok(HopperKernels::ALL));
        let products = HopperKernels { products: true, ..HopperKernels::NONE };
        assert_eq!(parse(" products,"), Ok(products));
        assert_eq!(parse("products,attention"), Ok(HopperKernels { attention: true, ..products }));
        assert!(parse("product").unwrap_err().contains("\"product\" is none of products"));
    }

    #[test]
    fn a_choice_ends_with_its_closure() {
        assert_eq!(CHOSEN.get(), None);
        HopperKernels::ALL.run(|| {
            assert_eq!(CHOSEN.get(), Some(HopperKernels::ALL));
            HopperKernels::NONE.run(|| assert_eq!(CHOSEN.get(), Some(HopperKernels::NONE)));
            assert_eq!(CHOSEN.get(), Some(HopperKernels::ALL));
        });
        assert_eq!(CHOSEN.get(), None);
    }
}
