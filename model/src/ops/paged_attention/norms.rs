//! Norms of fresh queries and keys, on their way into pages.

use candle_core::{Result, Tensor};

use crate::ops::attention::Attention;
use crate::ops::rms_norm::{HeadColumns, RmsNorm};

/// The norms of queries and of keys: their factors, and the groups of columns that they norm.
#[derive(Clone, Copy)]
pub(crate) struct PageNorms<'a> {
    /// The constants of both.
    pub norm: RmsNorm,
    /// Of queries.
    pub queries: (&'a Tensor, HeadColumns),
    /// Of keys.
    pub keys: (&'a Tensor, HeadColumns),
}

impl PageNorms<'_> {
    /// Whether each head is normed by itself.
    pub(super) fn are_of_heads(&self, attention: &Attention) -> bool {
        [self.queries, self.keys].iter().all(|(weight, _)| weight.elem_count() == attention.head_dim)
    }

    /// Norms them in place.
    pub(super) fn apply(&self, qkv: &Tensor) -> Result<()> {
        [self.queries, self.keys]
            .into_iter()
            .try_for_each(|(weight, columns)| self.norm.heads_forward(qkv, columns, weight))
    }
}
