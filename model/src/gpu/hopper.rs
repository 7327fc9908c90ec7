//! The kernels for compute capability 9.0 alone (`gpu/cuda/hopper_*.cu`), one by one and as a set, with their names. Which of them
//! operations take the place of the others with, `hopper_choice.rs` says.

use std::fmt;

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Argument, Gpu, pointer};

/// One of them. Attention has a kernel for each size of head, which is right, or fast, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HopperKernel {
    /// Products whose rows have the same bits in any batch (`hopper_product.cu`).
    #[serde(rename = "products")]
    Products,
    /// Attention over packed segments, forward, heads of 64 (`hopper_attention.cu`).
    #[serde(rename = "attention-64")]
    Attention64,
    /// The same, heads of 128.
    #[serde(rename = "attention-128")]
    Attention128,
    /// The same, heads of 256.
    #[serde(rename = "attention-256")]
    Attention256,
    /// The backward, heads of 64 (`hopper_attention_backward.cu`).
    #[serde(rename = "attention-backward-64")]
    AttentionBackward64,
    /// The same, heads of 128.
    #[serde(rename = "attention-backward-128")]
    AttentionBackward128,
}

impl HopperKernel {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Products,
        Self::Attention64,
        Self::Attention128,
        Self::Attention256,
        Self::AttentionBackward64,
        Self::AttentionBackward128,
    ];

    /// As `SELFPLAY_HOPPER` and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Products => "products",
            Self::Attention64 => "attention-64",
            Self::Attention128 => "attention-128",
            Self::Attention256 => "attention-256",
            Self::AttentionBackward64 => "attention-backward-64",
            Self::AttentionBackward128 => "attention-backward-128",
        }
    }

    /// Width of attention's heads; `None` of products.
    pub fn head_dim(self) -> Option<usize> {
        match self {
            Self::Products => None,
            Self::Attention64 | Self::AttentionBackward64 => Some(64),
            Self::Attention128 | Self::AttentionBackward128 => Some(128),
            Self::Attention256 => Some(256),
        }
    }

    /// Whether it is attention's backward.
    pub fn is_backward(self) -> bool {
        matches!(self, Self::AttentionBackward64 | Self::AttentionBackward128)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for HopperKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Some of them. In files the list of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub struct HopperKernels {
    pub(super) bits: u8,
}

impl HopperKernels {
    /// All of them.
    pub const ALL: Self = Self { bits: (1 << HopperKernel::ALL.len()) - 1 };
    /// None of them.
    pub const NONE: Self = Self { bits: 0 };

    /// One alone.
    pub const fn only(kernel: HopperKernel) -> Self {
        Self { bits: kernel.bit() }
    }

    /// These and another.
    #[must_use]
    pub const fn with(self, kernel: HopperKernel) -> Self {
        Self { bits: self.bits | kernel.bit() }
    }

    /// Those that are in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self { bits: self.bits & other.bits }
    }

    /// Whether one is among them.
    pub const fn has(self, kernel: HopperKernel) -> bool {
        self.bits & kernel.bit() != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Each of them, in the order of [`HopperKernel::ALL`].
    pub fn iter(self) -> impl Iterator<Item = HopperKernel> {
        HopperKernel::ALL.into_iter().filter(move |&kernel| self.has(kernel))
    }

    /// Whether products in a fixed order take theirs.
    pub(crate) fn products(self) -> bool {
        self.has(HopperKernel::Products)
    }

    /// Whether attention over heads of this size takes its forward.
    pub(crate) fn attention(self, head_dim: usize) -> bool {
        self.iter().any(|kernel| !kernel.is_backward() && kernel.head_dim() == Some(head_dim))
    }

    /// Whether attention over heads of this size takes its backward.
    pub fn attention_backward(self, head_dim: usize) -> bool {
        self.iter().any(|kernel| kernel.is_backward() && kernel.head_dim() == Some(head_dim))
    }

    /// Names with commas between; `attention` and `attention-backward` are those of all sizes, `all` and `none` stand for what they say.
    ///
    /// # Errors
    /// A word that names none of them.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut kernels = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let is_named = |kernel: &HopperKernel| match word {
                "all" => true,
                "attention" => kernel.head_dim().is_some() && !kernel.is_backward(),
                "attention-backward" => kernel.is_backward(),
                name => kernel.name() == name,
            };
            let named = HopperKernel::ALL.into_iter().filter(is_named).fold(Self::NONE, Self::with);
            if named.is_empty() && word != "none" {
                let names: Vec<&str> = HopperKernel::ALL.into_iter().map(HopperKernel::name).collect();
                let names = names.join(", ");
                return Err(format!(
                    "{word:?} is none of auto, none, all, attention, attention-backward, {names}"
                ));
            }
            kernels = Self { bits: kernels.bits | named.bits };
        }
        Ok(kernels)
    }
}

impl fmt::Display for HopperKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.iter().map(HopperKernel::name).collect::<Vec<_>>().join(","))
    }
}

impl From<HopperKernels> for Vec<String> {
    fn from(kernels: HopperKernels) -> Self {
        kernels.iter().map(|kernel| kernel.name().to_owned()).collect()
    }
}

impl TryFrom<Vec<String>> for HopperKernels {
    type Error = String;

    fn try_from(names: Vec<String>) -> std::result::Result<Self, String> {
        Self::parse(&names.join(","))
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
        for none in ["", "none", " , "] {
            assert_eq!(parse(none), Ok(HopperKernels::NONE), "{none:?}");
        }
        assert_eq!(parse("all"), Ok(HopperKernels::ALL));
        let products = HopperKernels::only(HopperKernel::Products);
        assert_eq!(parse(" products,"), Ok(products));
        assert_eq!(parse("products,attention-128"), Ok(products.with(HopperKernel::Attention128)));
        let forward = parse("attention").unwrap();
        assert!([64, 128, 256].into_iter().all(|d| forward.attention(d) && !forward.attention_backward(d)));
        let backward = parse("attention-backward").unwrap();
        assert!(backward.attention_backward(64) && backward.attention_backward(128));
        assert!(!backward.attention_backward(256) && !backward.attention(64) && !backward.products());
        for wrong in ["product", "attention-96", "products,auto"] {
            assert!(parse(wrong).unwrap_err().contains("is none of auto, none, all,"), "{wrong}");
        }
    }

    #[test]
    fn every_set_is_read_back_from_its_names() {
        for bits in 0..=HopperKernels::ALL.bits {
            let kernels = HopperKernels { bits };
            assert_eq!(HopperKernels::parse(&kernels.to_string()), Ok(kernels));
            let text = serde_json::to_string(&kernels).unwrap();
            assert_eq!(serde_json::from_str::<HopperKernels>(&text).unwrap(), kernels);
            assert_eq!(kernels.iter().count(), bits.count_ones() as usize);
        }
        for kernel in HopperKernel::ALL {
            assert_eq!(serde_json::to_value(kernel).unwrap(), kernel.name());
        }
        assert_eq!(serde_json::to_string(&HopperKernels::NONE).unwrap(), "[]");
        assert!(serde_json::from_str::<HopperKernels>("[\"warp\"]").is_err());
    }
}
