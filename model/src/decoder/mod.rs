//! The decoder transformer for policy, reference and preference backbones.
//!
//! | letter | meaning |
//! |---|---|
//! | t | tokens of a packed batch |
//! | h | hidden size |
//! | n_h, n_kv | query heads, key and value heads |
//! | d | head size |
//! | i | width of the feed-forward part |
//! | v | vocabulary |
//!
//! One code path for all families: what differs is a field of [`Architecture`]. `forward_train` keeps what
//! `backward` needs (or, with recomputation, the blocks' inputs alone); `hidden` keeps nothing; `forward_paged`
//! works on the cache that its caller owns.

mod backward;
mod block;
mod captured;
mod forward;
pub mod gpu_check;
mod head;
mod inference;
mod load;
mod preference;

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use candle_core::{DType, Device, Result, bail};

pub use captured::DecodeGraphs;
pub use head::head_chunk_rows;
pub use load::LoadOptions;

use crate::architecture::Architecture;
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::rope::RopeTable;
use crate::parameters::{ParameterId, Parameters};
pub use forward::Tape;

/// A decoder with its weights.
pub struct Decoder {
    architecture: Architecture,
    parameters: Parameters,
    embedding: ParameterId,
    blocks: Vec<block::Block>,
    final_norm: ParameterId,
    /// The output head; the embedding's id where it is tied, none in a preference model without one.
    head: Option<ParameterId>,
    value_head: Option<ParameterId>,
    prompt_head: Option<ParameterId>,
    rope: RwLock<Arc<RopeTable>>,
    packed: Option<inference::PackedWeights>,
    /// [`Decoder::set_batch_invariant`].
    batch_invariant: bool,
    device: Device,
    dtype: DType,
    stored_dtype: DType,
    source: Option<PathBuf>,
}

/// Calls a method for the decoder's dtype of computation.
macro_rules! by_dtype {
    ($self:ident, $method:ident ( $($arg:expr),* )) => {
        match $self.dtype {
            // On a GPU the tensors' own dtype decides; the type is that of the CPU forms.
            candle_core::DType::F32 | candle_core::DType::BF16 => $self.$method::<f32>($($arg),*),
            candle_core::DType::F64 => $self.$method::<f64>($($arg),*),
            other => candle_core::bail!("the CPU computes in f32 or f64, a GPU in bf16 or f32, not {other:?}"),
        }
    };
}
use by_dtype;

impl Decoder {
    /// Shape and arithmetic.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The dtype of computation.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dtype that the weights were stored in; f32 for random ones.
    pub fn stored_dtype(&self) -> DType {
        self.stored_dtype
    }

    /// The folder that the weights came from.
    pub fn source(&self) -> Option<&std::path::Path> {
        self.source.as_deref()
    }

    /// All weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All weights, to freeze some.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// `value_head.weight` \[d, h] of a preference model.
    pub fn value_head(&self) -> Option<ParameterId> {
        self.value_head
    }

    /// `prompt_head.weight` \[d/2, h] of a preference model.
    pub fn prompt_head(&self) -> Option<ParameterId> {
        self.prompt_head
    }

    fn norm(&self) -> RmsNorm {
        RmsNorm { epsilon: self.architecture.rms_norm_eps, offset: self.architecture.norm_offset }
    }

    /// The rotary table for at least `context` positions; grown by doubling, so that short work on a model with a
    /// long context does not pay for all of it.
    fn rope(&self, context: usize) -> Result<Arc<RopeTable>> {
        if context > self.architecture.max_positions {
            bail!(
                "a sequence of {context} tokens exceeds the model's context of {}",
                self.architecture.max_positions
            )
        }
        let poisoned = |_| candle_core::Error::Msg("a thread died while it held the rotary table".into());
        {
            let table = self.rope.read().map_err(|_| poisoned(()))?;
            if table.positions() >= context {
                return Ok(Arc::clone(&table));
            }
        }
        let positions = context.next_power_of_two().clamp(256, self.architecture.max_positions.max(256));
        let table = Arc::new(RopeTable::new(&self.architecture.rope, self.architecture.head_dim, positions));
        *self.rope.write().map_err(|_| poisoned(()))? = Arc::clone(&table);
        Ok(table)
    }
}
