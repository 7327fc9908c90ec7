//! The encoder's forward over some sequences, in f32 on the CPU, and the head over it.

use selfplay_model::cpu::encoder::{DisentangledAttention, LayerNorm, QuerySpan, gelu};
use selfplay_model::cpu::gemm::{MatrixRef, PackedMatrix, Store};
use selfplay_model::cpu::parallel::for_rows;

use super::config::RankerConfig;

/// Elements of an elementwise loop that one task takes at least.
const ROWS_OF_WORK: usize = 1 << 14;

/// W·x + b.
pub(super) struct Dense {
    /// Wᵀ, packed.
    weight: PackedMatrix<f32>,
    /// b.
    bias: Vec<f32>,
    inputs: usize,
}

impl Dense {
    /// From W \[outputs, inputs] and b \[outputs]; of several, their outputs side by side.
    pub(super) fn new(weights: &[&[f32]], bias: Vec<f32>, inputs: usize) -> Self {
        Self { weight: PackedMatrix::of_weights(weights, inputs), bias, inputs }
    }

    /// x \[n, inputs] → \[n, outputs].
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (n, outputs) = (x.len() / self.inputs, self.bias.len());
        let mut out = vec![0.0; n * outputs];
        self.weight.product(
            MatrixRef::row_major(x, n, self.inputs, self.inputs),
            &mut out,
            outputs,
            Store::Overwrite,
        );
        for_rows(&mut out, outputs, ROWS_OF_WORK, |_, some| {
            for row in some.chunks_exact_mut(outputs) {
                row.iter_mut().zip(&self.bias).for_each(|(value, bias)| *value += bias);
            }
        });
        out
    }
}

/// One layer.
pub(super) struct EncoderLayer {
    /// Queries, keys and values side by side.
    pub(super) projections: Dense,
    pub(super) attention_output: Dense,
    pub(super) attention_norm: LayerNorm,
    pub(super) inner: Dense,
    pub(super) output: Dense,
    pub(super) output_norm: LayerNorm,
    /// The relative embeddings through the layer's key map, \[2·span, hidden].
    pub(super) position_key: Vec<f32>,
    /// The same through its query map.
    pub(super) position_query: Vec<f32>,
}

impl EncoderLayer {
    /// Computes what depends on no sequence, from the normed relative embeddings.
    pub(super) fn place(&mut self, relative: &[f32]) {
        let projected = self.projections.forward(relative);
        let hidden = self.projections.inputs;
        let part = |which: usize| {
            projected
                .chunks_exact(3 * hidden)
                .flat_map(|row| &row[which * hidden..][..hidden])
                .copied()
                .collect()
        };
        self.position_query = part(0);
        self.position_key = part(1);
    }
}

/// The encoder.
pub(super) struct Encoder {
    pub(super) config: RankerConfig,
    /// \[vocabulary, hidden].
    pub(super) embeddings: Vec<f32>,
    pub(super) embedding_norm: LayerNorm,
    pub(super) layers: Vec<EncoderLayer>,
}

/// A sequence, and the positions whose last hidden states are wanted.
pub(super) struct EncoderInput<'a> {
    pub(super) ids: &'a [u32],
    pub(super) wanted: &'a [usize],
}

impl Encoder {
    /// The last hidden states at the wanted positions of each sequence in turn, \[Σ wanted, hidden]. Sequences lie one after the
    /// other, without padding, and none of them sees another: a sequence's bits are the same in every company.
    pub(super) fn forward(&self, inputs: &[EncoderInput<'_>]) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let longest = inputs.iter().map(|input| input.ids.len()).max().unwrap_or(0);
        let mut x = Vec::with_capacity(inputs.iter().map(|input| input.ids.len()).sum::<usize>() * hidden);
        for &id in inputs.iter().flat_map(|input| input.ids) {
            let first = id as usize * hidden;
            x.extend_from_slice(&self.embeddings[first..first + hidden]);
        }
        self.embedding_norm.apply(&mut x);
        let most = longest as i64 - 1;
        let buckets: Vec<u32> = (-most..=most).map(|distance| self.config.bucket(distance) as u32).collect();
        let everywhere: Vec<usize> = (0..longest).collect();
        for (number, layer) in self.layers.iter().enumerate() {
            // Of the last layer's outputs no others are read.
            let is_last = number + 1 == self.layers.len();
            let mut first = 0;
            let spans: Vec<QuerySpan<'_>> = inputs
                .iter()
                .map(|input| {
                    let rows = first..first + input.ids.len();
                    first = rows.end;
                    let queries = if is_last { input.wanted } else { &everywhere[..input.ids.len()] };
                    QuerySpan { rows, queries }
                })
                .collect();
            x = self.layer(layer, x, &spans, &buckets);
        }
        x
    }

    /// The layer's outputs for the queries of each sequence in turn.
    fn layer(&self, layer: &EncoderLayer, x: Vec<f32>, spans: &[QuerySpan<'_>], buckets: &[u32]) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let attention = DisentangledAttention {
            projected: &layer.projections.forward(&x),
            position_key: &layer.position_key,
            position_query: &layer.position_query,
            heads: self.config.num_attention_heads,
            hidden,
            buckets,
        };
        let context = attention.attend(spans);
        let kept = if context.len() == x.len() { x } else { queried_rows(&x, spans, hidden) };
        let mut attended = layer.attention_output.forward(&context);
        layer.attention_norm.apply_to_sum(&mut attended, &kept);
        let mut inner = layer.inner.forward(&attended);
        gelu(&mut inner);
        let mut out = layer.output.forward(&inner);
        layer.output_norm.apply_to_sum(&mut out, &attended);
        out
    }
}

/// The rows of x at the queries.
fn queried_rows(x: &[f32], spans: &[QuerySpan<'_>], hidden: usize) -> Vec<f32> {
    let row = |place: usize| &x[place * hidden..(place + 1) * hidden];
    spans
        .iter()
        .flat_map(|span| span.queries.iter().map(move |query| row(span.rows.start + query)))
        .flatten()
        .copied()
        .collect()
}

/// Two layers over the states of the source and of one candidate.
pub(super) struct PairHead {
    /// 2·hidden → hidden.
    pub(super) first: Dense,
    /// hidden → tasks.
    pub(super) second: Dense,
}

impl PairHead {
    /// M: the mean over tasks of the first candidate's output less the second's, from the hidden states of the three marks of a
    /// sequence, \[3, hidden]: source, first candidate, second candidate.
    pub(super) fn difference(&self, marks: &[f32]) -> f64 {
        let width = self.second.inputs;
        let (source, candidates) = marks.split_at(width);
        let (first, second) = candidates.split_at(width);
        let mut inner = self.first.forward(&[source, first, source, second].concat());
        inner.iter_mut().for_each(|x| *x = x.tanh());
        let out = self.second.forward(&inner);
        let (left, right) = out.split_at(out.len() / 2);
        let sum: f64 = left.iter().zip(right).map(|(left, right)| f64::from(*left) - f64::from(*right)).sum();
        sum / left.len() as f64
    }
}
