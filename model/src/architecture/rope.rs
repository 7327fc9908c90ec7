//! The rotary embedding as config.json describes it, in transformers 4's keys (`rope_theta`, `rope_scaling`) and in 5's
//! (`rope_parameters`), and back.

use serde_json::{Value, json};

use super::defaults::Defaults;
use super::fields::{Fields, MOST_POSITIONS};
use super::layer_types::LayerType;
use crate::error::ModelError;

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Plain frequencies θ^(−2i/d).
    None,
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above original_max_positions / low_freq_factor are divided whole.
        low_freq_factor: f64,
        /// Wavelengths below original_max_positions / high_freq_factor are kept.
        high_freq_factor: f64,
        /// Context length of the model before its extension, in tokens.
        original_max_positions: usize,
    },
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor of every frequency.
        factor: f64,
    },
    /// Phi-3's (LongRoPE, arXiv 2402.13753; `longrope`, `su` of old): each frequency has its own divisor, and cos and sin are
    /// multiplied by `attention_factor`.
    ///
    /// Transformers takes other divisors, `long_factors`, for all of a batch once one sequence in it is longer than
    /// `original_max_positions`. What a sequence computes must not depend on its neighbours, nor may keys that are cached
    /// change when their sequence grows: here the context ends at `original_max_positions`, up to which both are equal.
    Long {
        /// Divisors of the frequencies \[width / 2].
        short_factors: Vec<f64>,
        /// Those past `original_max_positions`; kept for writing alone.
        long_factors: Vec<f64>,
        /// Of cos and sin.
        attention_factor: f64,
        /// Context length of the model before its extension, in tokens.
        original_max_positions: usize,
        /// Context length after it.
        extended_max_positions: usize,
    },
}

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many numbers of a head are rotated, from its first on; even, at most the head's size.
    pub width: usize,
    /// Stretching, if any.
    pub scaling: RopeScaling,
}

/// What the embedding of a configuration depends on besides its own keys.
#[derive(Clone, Copy)]
pub(super) struct RopeReader<'a> {
    /// The whole configuration.
    pub(super) fields: &'a Fields<'a>,
    pub(super) defaults: &'a Defaults,
    pub(super) head_dim: usize,
    /// `max_position_embeddings`.
    pub(super) max_positions: usize,
}

impl<'a> RopeReader<'a> {
    /// The embedding of all layers; of the full ones, of a family that has one for each layer type.
    pub(super) fn common(self) -> Result<Rope, ModelError> {
        let Self { fields, defaults, .. } = self;
        if defaults.sliding_rope_theta.is_some() {
            return self.of_layer_type(LayerType::Full);
        }
        let scaling = match fields.object("rope_scaling", "rope_scaling.")? {
            Some(scaling) => Some(scaling),
            None => fields.object("rope_parameters", "rope_parameters.")?.map(one_of_nested).transpose()?,
        };
        // A rope_theta inside rope_parameters counts although rope_scaling stands beside it.
        let beside = match fields.object("rope_parameters", "rope_parameters.")? {
            Some(parameters) => parameters.positive("rope_theta")?,
            None => None,
        };
        let theta = fields.positive("rope_theta")?.or(beside).unwrap_or(defaults.rope_theta);
        self.with(scaling, theta)
    }

    /// The embedding of the layers of one type, of a family that has one for each: transformers 5's `rope_parameters` of
    /// that type, or transformers 4's `rope_theta` and `rope_scaling` (full) and `rope_local_base_freq` (sliding).
    pub(super) fn of_layer_type(self, kind: LayerType) -> Result<Rope, ModelError> {
        let Self { fields, defaults, .. } = self;
        let (flat, key, default) = match kind {
            LayerType::Full => {
                (fields.object("rope_scaling", "rope_scaling.")?, "rope_theta", defaults.rope_theta)
            }
            LayerType::Sliding => {
                (None, "rope_local_base_freq", defaults.sliding_rope_theta.unwrap_or(defaults.rope_theta))
            }
        };
        let nested = match fields.object("rope_parameters", "rope_parameters.")? {
            Some(parameters) => parameters.object(kind.name(), kind.rope_prefix())?,
            None => None,
        };
        let theta = match &nested {
            Some(nested) => nested.positive("rope_theta")?,
            None => None,
        };
        let theta = theta.or(fields.positive(key)?).unwrap_or(default);
        // As transformers 5 merges the two.
        self.with(flat.or(nested), theta)
    }

    /// The embedding that `scaling` describes, `theta` where it holds no base.
    fn with(self, scaling: Option<Fields>, theta: f64) -> Result<Rope, ModelError> {
        let inner_theta = match &scaling {
            Some(inner) => inner.positive("rope_theta")?,
            None => None,
        };
        let theta = inner_theta.unwrap_or(theta);
        if !(1.0..=1e15).contains(&theta) {
            let want = "it must lie between 1 and 1e15";
            return Err(self.fields.wrong("rope_theta", &format!("is {theta}"), want));
        }
        let width = self.width(scaling.as_ref())?;
        let scaling = match scaling {
            None => RopeScaling::None,
            Some(inner) => self.scaling(&inner, width)?,
        };
        Ok(Rope { theta, width, scaling })
    }

    /// How much of a head is rotated.
    fn width(self, scaling: Option<&Fields>) -> Result<usize, ModelError> {
        for part in scaling.into_iter().chain([self.fields]) {
            let Some(share) = part.positive("partial_rotary_factor")? else { continue };
            let key = "partial_rotary_factor";
            if share != 1.0 && !self.defaults.partial_rotary {
                let want = "use a model that turns the whole head";
                return Err(part.wrong(key, "is not 1, which is not supported", want));
            }
            let width = (self.head_dim as f64 * share) as usize;
            if share > 1.0 || width < 2 || !width.is_multiple_of(2) {
                let what = format!("is {share}, which makes {width} of a head's {}", self.head_dim);
                let want = "it must be at most 1 and make an even number";
                return Err(part.wrong(key, &what, want));
            }
            return Ok(width);
        }
        Ok(self.head_dim)
    }

    fn scaling(self, inner: &Fields, width: usize) -> Result<RopeScaling, ModelError> {
        let key = if inner.get("rope_type").is_some() { "rope_type" } else { "type" };
        match (inner.text(key)?, self.defaults.longrope_original) {
            (None | Some("default"), _) => Ok(RopeScaling::None),
            (Some("linear"), _) => Ok(RopeScaling::Linear { factor: inner.required_positive("factor")? }),
            (Some("llama3"), _) => self.llama3(inner),
            // "su" and "yarn" are what early files of the family call it.
            (Some("longrope" | "su" | "yarn"), Some(original)) => self.long(inner, width, original),
            (Some(other), longrope) => {
                let more = if longrope.is_some() { ", longrope" } else { "" };
                let want = format!("supported are default, linear{more} and llama3");
                Err(inner.wrong(key, &format!("is \"{other}\", which is not supported"), &want))
            }
        }
    }

    fn llama3(self, inner: &Fields) -> Result<RopeScaling, ModelError> {
        let original_max_positions = inner
            .count("original_max_position_embeddings", MOST_POSITIONS)?
            .or(self.fields.count("original_max_position_embeddings", MOST_POSITIONS)?)
            .unwrap_or(self.max_positions);
        let low_freq_factor = inner.required_positive("low_freq_factor")?;
        let high_freq_factor = inner.required_positive("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            return Err(inner.wrong(
                "high_freq_factor",
                &format!("is {high_freq_factor}, not above `low_freq_factor` = {low_freq_factor}"),
                "it must be the larger of the two",
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: inner.required_positive("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        })
    }

    fn long(self, inner: &Fields, width: usize, original: usize) -> Result<RopeScaling, ModelError> {
        let key = "original_max_position_embeddings";
        let original_max_positions =
            self.fields.count(key, MOST_POSITIONS)?.or(inner.count(key, MOST_POSITIONS)?).unwrap_or(original);
        let extended_max_positions = self.max_positions;
        let by_default = attention_factor(
            inner
                .positive("factor")?
                .unwrap_or(extended_max_positions as f64 / original_max_positions as f64),
            original_max_positions,
        );
        Ok(RopeScaling::Long {
            short_factors: inner.required_positives("short_factor", width / 2)?,
            long_factors: inner.required_positives("long_factor", width / 2)?,
            attention_factor: inner.positive("attention_factor")?.unwrap_or(by_default),
            original_max_positions,
            extended_max_positions,
        })
    }
}

/// What LongRoPE multiplies cos and sin by where the file does not say it, for a context `factor` times the original one.
fn attention_factor(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 || original < 2 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
}

/// Transformers 5 may write one set of rope parameters per layer type; equal ones are one.
fn one_of_nested<'a>(parameters: Fields<'a>) -> Result<Fields<'a>, ModelError> {
    let nested: Vec<_> = LayerType::ALL
        .into_iter()
        .filter_map(|kind| parameters.get(kind.name()).and_then(Value::as_object))
        .collect();
    let Some(first) = nested.first().copied() else { return Ok(parameters) };
    if nested.iter().any(|other| *other != first) {
        return Err(ModelError::input(
            parameters.path,
            "`rope_parameters` differ between the layer types, which is not supported",
            "use a model whose layers share one rotary embedding, or Gemma 3",
        ));
    }
    Ok(Fields { object: first, ..parameters })
}

impl Rope {
    /// The keys of config.json that say this, `head_dim` being the head's size: `rope_theta`, `rope_scaling`, and those that
    /// only some have.
    pub(super) fn to_keys(&self, head_dim: usize) -> Vec<(&'static str, Value)> {
        let mut keys = vec![("rope_theta", json!(self.theta)), ("rope_scaling", self.scaling.to_json())];
        if self.width != head_dim {
            keys.push(("partial_rotary_factor", json!(self.share(head_dim))));
        }
        if let RopeScaling::Long { original_max_positions, extended_max_positions, .. } = &self.scaling {
            keys.push(("original_max_position_embeddings", json!(original_max_positions)));
            keys.push(("max_position_embeddings", json!(extended_max_positions)));
        }
        keys
    }

    /// The `partial_rotary_factor` that gives the width.
    fn share(&self, head_dim: usize) -> f64 {
        let share = self.width as f64 / head_dim as f64;
        let is_exact = (head_dim as f64 * share) as usize == self.width;
        // The product is cut to a whole number: where the quotient is rounded down, the middle is safe.
        if is_exact { share } else { (self.width as f64 + 0.5) / head_dim as f64 }
    }
}

impl RopeScaling {
    /// The content of `rope_scaling`.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
            Self::Long {
                short_factors,
                long_factors,
                attention_factor: factor,
                original_max_positions,
                extended_max_positions,
            } => {
                // Transformers 4 wants these three keys and no other.
                let mut scaling = json!({
                    "type": "longrope", "short_factor": short_factors, "long_factor": long_factors,
                });
                let ratio = *extended_max_positions as f64 / *original_max_positions as f64;
                if *factor != attention_factor(ratio, *original_max_positions) {
                    scaling["attention_factor"] = json!(factor);
                }
                scaling
            }
        }
    }
}
