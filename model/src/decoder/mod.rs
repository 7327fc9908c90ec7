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
//! `backward` needs, or the part of it that a `KeepPlan` says; `hidden` keeps nothing; `forward_paged`
//! works on the cache that its caller owns.

mod adapted;
mod attention;
mod backward;
mod beside;
mod block;
mod captured;
mod device_step;
mod feed_forward;
mod forward;
mod head;
mod head_pass;
mod inference;
mod join_rooms;
mod kept;
mod launch_time;
mod load;
mod load_share;
mod rotary;
mod segments;
mod shapes;
mod step_inputs;
mod step_queue;
mod weights;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use candle_core::{DType, Device, Result, bail};

pub use captured::DecodeGraphs;
pub use device_step::{DeviceStep, FedToken};
pub use forward::Tape;
pub use head::head_chunk_rows;
pub use head_pass::head_bytes;
pub use kept::{KeepPlan, Kept};
pub use load::{LoadOptions, LoadPurpose, Quantization};
pub use segments::{DecoderPass, Segment, SegmentHooks};
pub use step_queue::StepCounts;

use self::rotary::RotaryTables;
use self::weights::DecoderWeights;
use crate::adapter::InstalledAdapter;
use crate::architecture::Architecture;
use crate::linear::{Linear, SumOrder};
use crate::ops::rms_norm::RmsNorm;
use crate::parameters::{ParameterId, Parameters};

/// A decoder with its weights.
pub struct Decoder {
    architecture: Architecture,
    parameters: Parameters,
    embedding: ParameterId,
    blocks: Vec<block::Block>,
    final_norm: ParameterId,
    /// The output head; the embedding where it is tied, none in a preference model without one.
    head: Option<Linear>,
    /// What was put over the weights.
    adapter: Option<InstalledAdapter>,
    /// [`Decoder::set_dropout`].
    dropout: Option<u64>,
    rotary: RwLock<Arc<RotaryTables>>,
    /// [`Decoder::set_batch_invariant`].
    batch_invariant: bool,
    /// [`Decoder::set_segment_hooks`].
    hooks: Option<Arc<dyn SegmentHooks>>,
    device: Device,
    dtype: DType,
    stored_dtype: DType,
    source: Option<PathBuf>,
}

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

    /// Whether some of its maps are quantised: they cannot be trained.
    pub fn is_quantized(&self) -> bool {
        self.parameters.quantized().next().is_some()
    }

    /// All weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All weights, to freeze some.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Bytes of all weights, packed copies among them, masters not.
    pub fn footprint(&self) -> usize {
        let maps: Vec<&Linear> =
            self.blocks.iter().flat_map(block::Block::linears).chain(self.head.as_ref()).collect();
        let is_of_a_map: HashSet<ParameterId> = maps.iter().flat_map(|linear| linear.parameters()).collect();
        let others = self.parameters.iter().filter(|(id, _)| !is_of_a_map.contains(id));
        others.map(|(_, parameter)| parameter.footprint()).sum::<usize>()
            + maps.iter().map(|linear| linear.footprint(&self.parameters)).sum::<usize>()
    }

    fn weights(&self) -> DecoderWeights<'_> {
        DecoderWeights {
            parameters: &self.parameters,
            norm: RmsNorm { epsilon: self.architecture.rms_norm_eps, offset: self.architecture.norm_offset },
            sums: if self.batch_invariant { SumOrder::ByRow } else { SumOrder::Fastest },
            dropout: None,
        }
    }

    /// The rotary tables for at least `context` positions; grown by doubling, so that short work on a model with a
    /// long context does not pay for all of it.
    fn rotary(&self, context: usize) -> Result<Arc<RotaryTables>> {
        if context > self.architecture.max_positions {
            bail!(
                "a sequence of {context} tokens exceeds the model's context of {}",
                self.architecture.max_positions
            )
        }
        let poisoned = |_| candle_core::Error::Msg("a thread died while it held the rotary tables".into());
        {
            let tables = self.rotary.read().map_err(|_| poisoned(()))?;
            if tables.positions() >= context {
                return Ok(Arc::clone(&tables));
            }
        }
        let positions = context.next_power_of_two().clamp(256, self.architecture.max_positions.max(256));
        let tables = Arc::new(RotaryTables::new(&self.architecture, positions));
        *self.rotary.write().map_err(|_| poisoned(()))? = Arc::clone(&tables);
        Ok(tables)
    }
}
