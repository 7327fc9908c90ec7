//! The stretching of rotary frequencies: `rope.scaling.*`, or a tensor of divisors → `rope_scaling` of config.json.
//!
//! llama.cpp's converter keeps Llama 3.1's scaling as the divisors that it makes. The four numbers behind them are found
//! again, up to a common factor of three of them that changes nothing: wavelengths λ longer than P/l are divided by F,
//! those shorter than P/h by 1, and between them 1/f = (1 − s)/F + s with s = (P/λ − l)/(h − l).

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::Gguf;
use super::architecture::GgufArchitecture;
use crate::error::ModelError;
use crate::weights::decode_ggml;

const UNSTRETCHED: &str = "use a file of the model without this scaling";

impl Gguf {
    /// `rope_scaling`; `None` of plain frequencies.
    pub(super) fn rope_scaling(&self, architecture: GgufArchitecture) -> Result<Option<Value>, ModelError> {
        let key = |part: &str| format!("{}.rope.{part}", architecture.name());
        let long = self.divisors("rope_factors_long.weight")?;
        let short = self.divisors("rope_factors_short.weight")?;
        if let (Some(long), Some(short)) = (long, short) {
            let mut scaling = json!({"type": "longrope", "long_factor": long, "short_factor": short});
            if let Some(factor) = self.number(&key("scaling.attn_factor"))?
                && !self.is_default_attention_factor(architecture, factor)?
            {
                scaling["attention_factor"] = json!(factor);
            }
            return Ok(Some(scaling));
        }
        if let Some(divisors) = self.divisors("rope_freqs.weight")? {
            let theta = self.number(&key("freq_base"))?.unwrap_or(10_000.0);
            return match Llama3Scaling::behind(&divisors, theta) {
                Found::Plain => Ok(None),
                Found::Scaling(scaling) => Ok(Some(scaling.to_json())),
                Found::Unknown => Err(ModelError::input(
                    self.path(),
                    "its tensor rope_freqs.weight stretches the rotary embedding in a way that is not Llama 3.1's",
                    UNSTRETCHED,
                )),
            };
        }
        let factor = match self.number(&key("scaling.factor"))? {
            Some(factor) => Some(factor),
            // Of old.
            None => self.number(&key("scale_linear"))?,
        };
        let kind = self.text(&key("scaling.type"))?;
        match (kind, factor) {
            (Some("none"), _) | (None, None) => Ok(None),
            (Some("linear") | None, Some(1.0)) => Ok(None),
            (Some("linear") | None, Some(factor)) => {
                Ok(Some(json!({"rope_type": "linear", "factor": factor})))
            }
            (Some("longrope"), _) => Ok(None),
            (kind, _) => {
                let what = format!("is {:?}, which is not supported", kind.unwrap_or("linear"));
                Err(self.wrong(&key("scaling.type"), &what, UNSTRETCHED))
            }
        }
    }

    /// Whether cos and sin are multiplied by what the two lengths of the context give by themselves.
    fn is_default_attention_factor(
        &self,
        architecture: GgufArchitecture,
        factor: f64,
    ) -> Result<bool, ModelError> {
        let key = |part: &str| format!("{}.{part}", architecture.name());
        let whole = self.count(&key("context_length"))?;
        let original = self.count(&key("rope.scaling.original_context_length"))?;
        let (Some(whole), Some(original)) = (whole, original) else { return Ok(false) };
        let (ratio, original) = (whole as f64 / original as f64, original as f64);
        let default = if ratio <= 1.0 { 1.0 } else { (1.0 + ratio.ln() / original.ln()).sqrt() };
        Ok((factor - default).abs() < 1e-6)
    }

    /// A tensor of divisors.
    fn divisors(&self, name: &str) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let values = decode_ggml(self.bytes(&tensor.bytes), tensor.format);
        let shortest = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
        match values.iter().all(|value| value.is_finite() && *value > 0.0) {
            true if values.len() <= 1 << 16 => Ok(Some(values.into_iter().map(shortest).collect())),
            _ => Err(ModelError::input(
                self.path(),
                format!("its tensor {name} holds divisors that are not positive numbers"),
                crate::weights::AGAIN,
            )),
        }
    }
}

/// Llama 3.1's scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3Scaling {
    pub(super) factor: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) original: f64,
}

#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// All divisors are 1.
    Plain,
    Scaling(Llama3Scaling),
    Unknown,
}

impl Llama3Scaling {
    /// The scaling that makes these divisors of the frequencies θ^(−2i/d).
    pub(super) fn behind(divisors: &[f64], theta: f64) -> Found {
        let factor = divisors.iter().copied().fold(1.0, f64::max);
        if factor == 1.0 && divisors.iter().all(|divisor| *divisor == 1.0) {
            return Found::Plain;
        }
        let wavelength = |i: usize| TAU * theta.powf(i as f64 / divisors.len() as f64);
        // s of each frequency on the ramp, with its 1/λ.
        let ramp: Vec<(f64, f64)> = (divisors.iter().enumerate())
            .filter(|(_, divisor)| **divisor > 1.0 && **divisor < factor)
            .map(|(i, divisor)| {
                (wavelength(i).recip(), (divisor.recip() - factor.recip()) / (1.0 - factor.recip()))
            })
            .collect();
        let mut guesses = vec![Self { factor, low: 1.0, high: 4.0, original: 8192.0 }];
        if let (Some(first), Some(last)) = (ramp.first(), ramp.last()) {
            // s = (P/λ − 1)/(h − 1), l being 1: a line through the first and the last, or h as published.
            let (slope, h) = if ramp.len() > 1 {
                let slope = (first.1 - last.1) / (first.0 - last.0);
                (slope, 1.0 + (slope * first.0 - first.1).recip())
            } else {
                ((first.1 + 1.0 / 3.0) / first.0, 4.0)
            };
            let (high, original) = (h, slope * (h - 1.0));
            let nearest = |x: f64, step: f64| (x / step).round() * step;
            for (high, original) in [
                (nearest(high, 1.0), nearest(original, 1.0)),
                (nearest(high, 0.01), nearest(original, 1.0)),
                (high, original.round()),
            ] {
                guesses.push(Self { factor, low: 1.0, high, original });
            }
        } else {
            // Without a frequency on the ramp, its ends are anywhere between two neighbours.
            let long = divisors.iter().position(|divisor| *divisor > 1.0).unwrap_or(0);
            let shorter = if long == 0 { TAU / 8.0 } else { wavelength(long - 1) };
            let between = (shorter * wavelength(long)).sqrt();
            guesses.push(Self { factor, low: 1.0, high: 1.0 + 1e-6, original: between.round() });
        }
        let fits = |guess: &Self| {
            let is_close =
                |(i, divisor): (usize, &f64)| (guess.divisor(wavelength(i)) / divisor - 1.0).abs() < 1e-5;
            guess.high > guess.low && guess.original >= 1.0 && divisors.iter().enumerate().all(is_close)
        };
        guesses.into_iter().find(fits).map_or(Found::Unknown, Found::Scaling)
    }

    /// What the frequency of a wavelength is divided by.
    pub(super) fn divisor(&self, wavelength: f64) -> f64 {
        let Self { factor, low, high, original } = *self;
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            ((1.0 - smooth) / factor + smooth).recip()
        }
    }

    fn to_json(self) -> Value {
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "original_max_position_embeddings": self.original as u64,
        })
    }
}
