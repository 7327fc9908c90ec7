//! One block: attention and feed-forward part, each with its norms and its place in the residual stream.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::Decoder;
use crate::architecture::Architecture;
use crate::architecture::layout::{LayerModules, Module, Norm};
use crate::batch::PackedBatch;
use crate::kernels::Real;
use crate::kernels::attention::{Attention, AttentionOutput, Places};
use crate::kernels::elementwise;
use crate::kernels::gated_unit::gated_unit;
use crate::kernels::gemm::{Element, PackedMatrix};
use crate::kernels::linear::{Map, linear, linear_by_row, linear_packed};
use crate::kernels::rope::{Direction, Positions, RopeTable};
use crate::parameters::{ParameterId, Parameters};

/// A linear map's parameters.
#[derive(Clone, Copy)]
pub(super) struct Projection {
    pub(super) weight: ParameterId,
    pub(super) bias: Option<ParameterId>,
}

/// One block's parameters and constants.
pub(super) struct Block {
    pub(super) attention: Attention,
    pub(super) attention_norm: ParameterId,
    /// Queries, keys and values, in as many maps as the family stores them in.
    pub(super) qkv: Vec<Projection>,
    pub(super) q_norm: Option<ParameterId>,
    pub(super) k_norm: Option<ParameterId>,
    pub(super) output: [Projection; 1],
    pub(super) attention_post_norm: Option<ParameterId>,
    pub(super) feed_forward_norm: ParameterId,
    /// Gate and up, likewise.
    pub(super) gate_up: Vec<Projection>,
    pub(super) down: [Projection; 1],
    pub(super) feed_forward_post_norm: Option<ParameterId>,
}

impl Block {
    /// The block of this layer, whose weights are stored as `modules`; `None` where a tensor is missing.
    pub(super) fn new(
        a: &Architecture,
        layer: usize,
        modules: &LayerModules,
        parameters: &Parameters,
    ) -> Option<Self> {
        let projection = |module: &Module| {
            let weight = parameters.find(&module.weight())?;
            // A bias that the family has must be there.
            let bias = match module.bias() {
                Some(bias) => Some(parameters.find(&bias)?),
                None => None,
            };
            Some(Projection { weight, bias })
        };
        let projections = |modules: &[Module]| modules.iter().map(projection).collect::<Option<Vec<_>>>();
        let norm = |norm: &Option<Norm>| match norm {
            Some(norm) => parameters.find(&norm.weight()).map(Some),
            None => Some(None),
        };
        Some(Self {
            attention: Attention {
                heads: a.num_heads,
                kv_heads: a.num_kv_heads,
                head_dim: a.head_dim,
                scale: a.attention_scale,
                softcap: a.attention_softcap,
                window: a.windows.get(layer).copied().flatten(),
            },
            attention_norm: norm(&modules.attention_norm)??,
            qkv: projections(&modules.qkv)?,
            q_norm: norm(&modules.q_norm)?,
            k_norm: norm(&modules.k_norm)?,
            output: [projection(&modules.output)?],
            attention_post_norm: norm(&modules.attention_post_norm)?,
            feed_forward_norm: norm(&modules.feed_forward_norm)??,
            gate_up: projections(&modules.gate_up)?,
            down: [projection(&modules.down)?],
            feed_forward_post_norm: norm(&modules.feed_forward_post_norm)?,
        })
    }
}

impl<'a> BlockContext<'a> {
    pub(super) fn new(batch: &'a PackedBatch, rope: Arc<RopeTable>) -> Self {
        let positions = Positions::new(batch.positions().to_vec());
        Self { places: Places::new(batch.layout()), positions, rope }
    }
}

/// What one block's forward computed on its way; the backward takes it apart.
pub(super) struct BlockActivations {
    /// The block's input \[t, h].
    pub(super) input: Tensor,
    /// Queries, keys and values before their norms \[t, (n_h + 2 n_kv) d], where the model has such norms.
    pub(super) qkv_before_norm: Option<Tensor>,
    /// After norms and rope.
    pub(super) qkv: Tensor,
    pub(super) attention: AttentionOutput,
    /// The attention's projected output \[t, h], where a norm follows it.
    pub(super) attention_projected: Option<Tensor>,
    /// The stream after attention \[t, h].
    pub(super) middle: Tensor,
    /// \[t, 2 i].
    pub(super) gate_up: Tensor,
    /// The feed-forward part's output \[t, h], where a norm follows it.
    pub(super) feed_forward: Option<Tensor>,
}

/// A packed batch as the blocks see it.
pub(super) struct BlockContext<'a> {
    pub(super) places: Places<'a>,
    pub(super) positions: Positions,
    pub(super) rope: Arc<RopeTable>,
}

impl Decoder {
    pub(super) fn value(&self, id: ParameterId) -> &Tensor {
        &self.parameters.get(id).value
    }

    pub(super) fn maps<'a>(&'a self, projections: &[Projection]) -> Vec<Map<'a>> {
        projections
            .iter()
            .map(|p| Map { weight: self.value(p.weight), bias: p.bias.map(|b| self.value(b)) })
            .collect()
    }

    /// x·Wᵀ + b, over packed weights where there are some.
    pub(super) fn project<T: Element>(
        &self,
        x: &Tensor,
        projections: &[Projection],
        packed: Option<&PackedMatrix<f32>>,
    ) -> Result<Tensor> {
        let maps = self.maps(projections);
        match packed {
            Some(packed) => linear_packed::<f32>(x, packed, &maps),
            None if self.batch_invariant => linear_by_row::<T>(x, &maps),
            None => linear::<T>(x, &maps),
        }
    }

    /// Per-head norms on fresh queries and keys, in place; what they saw, where the family has such norms.
    fn norm_heads<T: Real>(&self, block: &Block, qkv: &Tensor, keep: bool) -> Result<Option<Tensor>> {
        let a = &block.attention;
        let (Some(q_norm), Some(k_norm)) = (block.q_norm, block.k_norm) else { return Ok(None) };
        let before = if keep { Some(qkv.copy()?) } else { None };
        self.norm().heads_forward::<T>(qkv, 0, a.heads, self.value(q_norm))?;
        self.norm().heads_forward::<T>(qkv, a.heads * a.head_dim, a.kv_heads, self.value(k_norm))?;
        Ok(before)
    }

    /// Per-head norms and rope on fresh queries, keys and values, in place.
    pub(super) fn finish_qkv<T: Real>(
        &self,
        block: &Block,
        qkv: &Tensor,
        positions: &Positions,
        rope: &RopeTable,
    ) -> Result<Option<Tensor>> {
        let before = self.norm_heads::<T>(block, qkv, true)?;
        rope.rotate::<T>(qkv, block.attention.rotated_heads(), positions, Direction::Forward)?;
        Ok(before)
    }

    /// Norms a branch's output if the family does, and adds it to the stream.
    pub(super) fn join<T: Real>(
        &self,
        stream: &Tensor,
        branch: &Tensor,
        post_norm: Option<ParameterId>,
    ) -> Result<Tensor> {
        match post_norm {
            Some(norm) => {
                let normed = self.norm().forward::<T>(branch, self.value(norm))?;
                elementwise::add_assign::<T>(&normed, stream)?;
                Ok(normed)
            }
            None => elementwise::sum::<T>(stream, branch),
        }
    }

    /// [`Decoder::join`] and the norm of its result, which a GPU makes in one pass where no norm comes between.
    fn join_and_norm<T: Real>(
        &self,
        stream: &Tensor,
        branch: &Tensor,
        post_norm: Option<ParameterId>,
        norm: ParameterId,
    ) -> Result<(Tensor, Tensor)> {
        if post_norm.is_none() {
            return self.norm().add_forward::<T>(stream, branch, self.value(norm));
        }
        let joined = self.join::<T>(stream, branch, post_norm)?;
        let normed = self.norm().forward::<T>(&joined, self.value(norm))?;
        Ok((joined, normed))
    }

    /// The block's queries, keys and values \[t, (n_h + 2 n_kv) d] but for rope.
    pub(super) fn queries_keys_values<T: Element>(&self, layer: usize, input: &Tensor) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let packed = self.packed.as_ref().map(|p| &p.blocks[layer].qkv);
        let normed = self.norm().forward::<T>(input, self.value(block.attention_norm))?;
        let qkv = self.project::<T>(&normed, &block.qkv, packed)?;
        self.norm_heads::<T>(block, &qkv, false)?;
        Ok(qkv)
    }

    /// The block's output from its attention's, both \[n, ·], row by row: any of the rows will do.
    pub(super) fn after_attention<T: Element>(
        &self,
        layer: usize,
        input: &Tensor,
        attended: &Tensor,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let packed = self.packed.as_ref().map(|p| &p.blocks[layer]);
        let projected = self.project::<T>(attended, &block.output, packed.map(|p| &p.output))?;
        let (middle, normed) =
            self.join_and_norm::<T>(input, &projected, block.attention_post_norm, block.feed_forward_norm)?;
        drop(projected);
        let gate_up = self.project::<T>(&normed, &block.gate_up, packed.map(|p| &p.gate_up))?;
        drop(normed);
        let gated = gated_unit::<T>(&gate_up, self.architecture.activation)?;
        drop(gate_up);
        let branch = self.project::<T>(&gated, &block.down, packed.map(|p| &p.down))?;
        self.join::<T>(&middle, &branch, block.feed_forward_post_norm)
    }

    /// The block's output \[t, h] and all that its backward needs.
    pub(super) fn block_forward<T: Element>(
        &self,
        layer: usize,
        input: &Tensor,
        context: &BlockContext,
    ) -> Result<BlockForward> {
        let block = &self.blocks[layer];
        let packed = self.packed.as_ref().map(|p| &p.blocks[layer]);
        let normed = self.norm().forward::<T>(input, self.value(block.attention_norm))?;
        let qkv = self.project::<T>(&normed, &block.qkv, packed.map(|p| &p.qkv))?;
        drop(normed);
        let qkv_before_norm = self.finish_qkv::<T>(block, &qkv, &context.positions, &context.rope)?;
        let attention = block.attention.forward::<T>(&qkv, &context.places)?;
        let projected = self.project::<T>(&attention.output, &block.output, packed.map(|p| &p.output))?;
        let (middle, normed) =
            self.join_and_norm::<T>(input, &projected, block.attention_post_norm, block.feed_forward_norm)?;
        let attention_projected = block.attention_post_norm.map(|_| projected);
        let gate_up = self.project::<T>(&normed, &block.gate_up, packed.map(|p| &p.gate_up))?;
        drop(normed);
        let gated = gated_unit::<T>(&gate_up, self.architecture.activation)?;
        let feed_forward = self.project::<T>(&gated, &block.down, packed.map(|p| &p.down))?;
        drop(gated);
        let output = self.join::<T>(&middle, &feed_forward, block.feed_forward_post_norm)?;
        let feed_forward = block.feed_forward_post_norm.map(|_| feed_forward);
        let activations = BlockActivations {
            input: input.clone(),
            qkv_before_norm,
            qkv,
            attention,
            attention_projected,
            middle,
            gate_up,
            feed_forward,
        };
        Ok(BlockForward { output, activations })
    }
}

/// A block's output and what it computed on its way.
pub(super) struct BlockForward {
    pub(super) output: Tensor,
    pub(super) activations: BlockActivations,
}
