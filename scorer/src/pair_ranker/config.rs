//! config.json of a PairRM-hf folder.

use std::path::Path;

use selfplay_model::ModelError;
use selfplay_records::read_regular_text;
use serde::Deserialize;

/// Configurations are small.
const MOST_BYTES: u64 = 16 << 20;

/// Vocabularies are the largest sizes, of some hundred thousand.
const MOST_SIZE: usize = 1 << 22;

/// The shape of the encoder, and what makes sequences.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RankerConfig {
    /// `deberta-v2` for both v2 and v3.
    pub(super) model_type: String,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) vocab_size: usize,
    pub(super) layer_norm_eps: f64,
    pub(super) max_position_embeddings: usize,
    /// −1: as many as positions.
    #[serde(default = "unset")]
    pub(super) max_relative_positions: i64,
    /// Buckets of distances on either side; below 1: none.
    #[serde(default = "unset")]
    pub(super) position_buckets: i64,
    #[serde(default)]
    pub(super) relative_attention: bool,
    #[serde(default)]
    pub(super) share_att_key: bool,
    #[serde(default)]
    pub(super) pos_att_type: PositionTerms,
    #[serde(default)]
    pub(super) norm_rel_ebd: Option<String>,
    #[serde(default)]
    pub(super) hidden_act: String,
    #[serde(default)]
    pub(super) position_biased_input: bool,
    #[serde(default)]
    pub(super) type_vocab_size: usize,
    #[serde(default)]
    pub(super) conv_kernel_size: usize,
    #[serde(default)]
    pub(super) embedding_size: Option<usize>,
    /// Outputs of the head, whose mean is taken.
    #[serde(default = "one")]
    pub(super) n_tasks: usize,
}

/// `pos_att_type`, as a list or as `p2c|c2p`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum PositionTerms {
    /// Neither term.
    #[default]
    None,
    /// As newer files have it.
    List(Vec<String>),
    /// As older files have it.
    Joined(String),
}

impl PositionTerms {
    /// Whether both terms are there.
    fn are_both(&self) -> bool {
        let has = |name: &str| match self {
            Self::None => false,
            Self::List(names) => names.iter().any(|one| one == name),
            Self::Joined(names) => names.split('|').any(|one| one.trim() == name),
        };
        has("c2p") && has("p2c")
    }
}

fn unset() -> i64 {
    -1
}

fn one() -> usize {
    1
}

impl RankerConfig {
    /// Reads and checks.
    ///
    /// # Errors
    /// A file that does not read, or a form of the encoder that is not computed here.
    pub(super) fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let text = read_regular_text(&path, MOST_BYTES).map_err(|error| {
            ModelError::input(&path, format!("it cannot be read: {error}"), "a PairRM-hf folder has one")
        })?;
        let config: Self = serde_json::from_str(&text).map_err(|error| {
            ModelError::input(&path, format!("no configuration of a DeBERTa v2: {error}"), "take PairRM-hf's")
        })?;
        for (holds, what) in [
            (config.model_type == "deberta-v2", "model_type is not deberta-v2"),
            (
                config.relative_attention && config.pos_att_type.are_both(),
                "relative_attention without p2c and c2p",
            ),
            (config.share_att_key, "share_att_key is not true"),
            (config.hidden_act == "gelu", "hidden_act is not gelu"),
            (!config.position_biased_input, "position_biased_input is true"),
            (config.type_vocab_size == 0, "type_vocab_size is not 0"),
            (config.conv_kernel_size == 0, "conv_kernel_size is set: a DeBERTa v2 with a convolution"),
            (
                config.embedding_size.is_none_or(|size| size == config.hidden_size),
                "embedding_size is not hidden_size",
            ),
            (
                config.num_attention_heads > 0
                    && config.hidden_size.is_multiple_of(config.num_attention_heads),
                "hidden_size is no multiple of num_attention_heads",
            ),
            (config.max_distance() > 1 && config.buckets() > 1, "no relative positions"),
            (config.has_sizes(), "a size is 0, or larger than any model's"),
        ] {
            if !holds {
                let want =
                    "a pair-ranker is read in the form of PairRM: DeBERTa v3, or v2 without a convolution";
                return Err(ModelError::input(&path, what, want));
            }
        }
        Ok(config)
    }

    /// Whether all sizes are there, and none is so large that products of them are no numbers.
    fn has_sizes(&self) -> bool {
        let sizes = [
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.vocab_size,
            self.max_distance(),
            self.buckets(),
            self.n_tasks,
        ];
        sizes.iter().all(|size| (1..=MOST_SIZE).contains(size))
    }

    /// The largest distance that has an embedding of its own.
    pub(super) fn max_distance(&self) -> usize {
        usize::try_from(self.max_relative_positions)
            .ok()
            .filter(|&most| most > 0)
            .unwrap_or(self.max_position_embeddings)
    }

    /// Distances on either side that have an embedding: buckets where there are some.
    pub(super) fn buckets(&self) -> usize {
        usize::try_from(self.position_buckets).ok().filter(|&count| count > 0).unwrap_or(self.max_distance())
    }

    /// The row of the relative embedding for the distance i − j, i the query.
    pub(super) fn bucket(&self, distance: i64) -> usize {
        let span = self.buckets() as i64;
        let placed = if self.position_buckets > 0 {
            log_bucket(distance, span, self.max_distance() as i64)
        } else {
            distance
        };
        (placed + span).clamp(0, 2 * span - 1) as usize
    }

    /// Numbers of the weights.
    pub(super) fn parameter_count(&self) -> usize {
        let (h, inner) = (self.hidden_size, self.intermediate_size);
        let layer = 4 * (h * h + h) + 2 * h * inner + inner + h + 4 * h;
        let embeddings = self.vocab_size * h + 2 * h + 2 * self.buckets() * h + 2 * h;
        embeddings + self.num_hidden_layers * layer + 2 * h * h + h + self.n_tasks * (h + 1)
    }
}

/// Near distances as they are, far ones by their logarithm.
fn log_bucket(distance: i64, buckets: i64, most: i64) -> i64 {
    let middle = buckets / 2;
    if distance.abs() <= middle {
        return distance;
    }
    let (far, middle_f) = (distance.abs() as f64, middle as f64);
    let share = (far / middle_f).ln() / ((most - 1) as f64 / middle_f).ln();
    let placed = (share * (middle_f - 1.0)).ceil() as i64 + middle;
    placed * distance.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_are_their_own_and_far_ones_share() {
        // 16 buckets, up to 64: 8 is its own; 9 is ⌈7 · ln(9/8)/ln(63/8)⌉ + 8 = 9; 63 is 8 + 7.
        let of = |distance| log_bucket(distance, 16, 64);
        assert_eq!([0, 1, -7, 8, -8].map(of), [0, 1, -7, 8, -8]);
        assert_eq!((of(9), of(-9), of(63), of(-63)), (9, -9, 15, -15));
        // ln(32/8)/ln(63/8) · 7 = 4.70.
        assert_eq!(of(32), 8 + 5);
        assert!(of(200) > 15, "beyond the largest distance: the caller clamps");
    }
}
