//! The encoder's forward over one sequence, in f32 on the CPU, and the head over it.

use candle_core::cpu::erf::erf_f64;
use selfplay_model::cpu::gemm::{MatrixRef, PackedMatrix, Store};
use selfplay_model::cpu::parallel::for_rows;

use super::attention::{Projected, attend};
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
    /// From W \[outputs, inputs] and b \[outputs].
    pub(super) fn new(weight: &[f32], bias: Vec<f32>, inputs: usize) -> Self {
        Self { weight: PackedMatrix::of_weights(&[weight], inputs), bias, inputs }
    }

    /// x \[n, inputs] → \[n, outputs].
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (n, outputs) = (x.len() / self.inputs, self.bias.len());
        let mut out = vec![0.0; n * outputs];
        self.weight.product(
            MatrixRef::row_major(x, n, self.inputs, self.inputs),
            &mut out,
            outputs,
            Store::Overwrite,
        );
        for row in out.chunks_exact_mut(outputs) {
            row.iter_mut().zip(&self.bias).for_each(|(value, bias)| *value += bias);
        }
        out
    }
}

/// A layer norm's weight and bias.
pub(super) struct LayerNorm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) epsilon: f64,
}

impl LayerNorm {
    /// Norms each row in place.
    pub(super) fn apply(&self, x: &mut [f32]) {
        let width = self.weight.len();
        for_rows(x, width, ROWS_OF_WORK, |_, some| {
            for row in some.chunks_exact_mut(width) {
                let count = width as f64;
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
                let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
                let scale = 1.0 / (variance + self.epsilon).sqrt();
                for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                    *x = ((f64::from(*x) - mean) * scale) as f32 * weight + bias;
                }
            }
        });
    }
}

/// One layer.
pub(super) struct EncoderLayer {
    pub(super) query: Dense,
    pub(super) key: Dense,
    pub(super) value: Dense,
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
        self.position_key = self.key.forward(relative);
        self.position_query = self.query.forward(relative);
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

impl Encoder {
    /// The last hidden states of a sequence, \[L, hidden].
    pub(super) fn forward(&self, ids: &[u32]) -> Vec<f32> {
        let (hidden, length) = (self.config.hidden_size, ids.len());
        let mut x = Vec::with_capacity(length * hidden);
        for &id in ids {
            let first = id as usize * hidden;
            x.extend_from_slice(&self.embeddings[first..first + hidden]);
        }
        self.embedding_norm.apply(&mut x);
        let most = length as i64 - 1;
        let buckets: Vec<usize> = (-most..=most).map(|distance| self.config.bucket(distance)).collect();
        for layer in &self.layers {
            x = self.layer(layer, &x, &buckets);
        }
        x
    }

    fn layer(&self, layer: &EncoderLayer, x: &[f32], buckets: &[usize]) -> Vec<f32> {
        let projected = Projected {
            query: &layer.query.forward(x),
            key: &layer.key.forward(x),
            value: &layer.value.forward(x),
            position_key: &layer.position_key,
            position_query: &layer.position_query,
        };
        let context = attend(&projected, self.config.num_attention_heads, self.config.hidden_size, buckets);
        let mut attended = layer.attention_output.forward(&context);
        add(&mut attended, x);
        layer.attention_norm.apply(&mut attended);
        let mut inner = layer.inner.forward(&attended);
        for_rows(&mut inner, 1, ROWS_OF_WORK, |_, some| some.iter_mut().for_each(|x| *x = gelu(*x)));
        let mut out = layer.output.forward(&inner);
        add(&mut out, &attended);
        layer.output_norm.apply(&mut out);
        out
    }
}

/// Two layers over the states of the source and of one candidate.
pub(super) struct PairHead {
    /// 2·hidden → hidden.
    pub(super) first: Dense,
    /// hidden → tasks.
    pub(super) second: Dense,
}

/// Where the three marks of a sequence stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MarkPlaces {
    /// `<|source|>`.
    pub(super) source: usize,
    /// `<|candidate1|>`.
    pub(super) first: usize,
    /// `<|candidate2|>`.
    pub(super) second: usize,
}

impl PairHead {
    /// M: the mean over tasks of the first candidate's output less the second's.
    pub(super) fn difference(&self, hidden: &[f32], places: &MarkPlaces) -> f64 {
        let width = self.second.inputs;
        let at = |place: usize| &hidden[place * width..(place + 1) * width];
        let input = [at(places.source), at(places.first), at(places.source), at(places.second)].concat();
        let mut inner = self.first.forward(&input);
        inner.iter_mut().for_each(|x| *x = x.tanh());
        let out = self.second.forward(&inner);
        let (left, right) = out.split_at(out.len() / 2);
        let sum: f64 = left.iter().zip(right).map(|(left, right)| f64::from(*left) - f64::from(*right)).sum();
        sum / left.len() as f64
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// x Φ(x).
fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_the_exact_one() {
        assert!((gelu(1.0) - 0.841_344_8).abs() < 1e-6 && gelu(0.0) == 0.0);
        assert!((gelu(-2.0) + 0.045_500_26).abs() < 1e-6);
    }

    #[test]
    fn a_norm_by_hand() {
        let norm = LayerNorm { weight: vec![2.0, 1.0], bias: vec![0.5, 0.0], epsilon: 0.0 };
        let mut x = [1.0, 3.0, -4.0, 0.0];
        norm.apply(&mut x);
        assert_eq!(x, [-1.5, 1.0, -1.5, 1.0]);
    }
}
