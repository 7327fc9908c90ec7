//! What PEFT calls the preference heads that an adapter brings, and what a decoder does.

use super::names::HeldTensor;
use crate::decoder::Decoder;
use crate::json::read_json;

pub(super) const VALUE: &str = "value_head.weight";
pub(super) const PROMPT: &str = "prompt_head.weight";
/// Of transformers' sequence classification.
pub(super) const SCORE: &str = "score.weight";
/// PEFT names both of an adapter for sequence classification, whichever of them the model has.
pub(super) const CLASSIFIERS: [&str; 2] = ["classifier", "score"];

/// What a decoder calls the head that an adapter calls `name`; `None` of what is no head. A head that the base's config.json
/// names (`value_head_prefix`) is its value head.
pub(super) fn plain_name(decoder: &Decoder, name: &str) -> Option<&'static str> {
    if decoder.parameters().find(name).is_some() {
        return None;
    }
    let is_named = |prefix: &str| name.strip_suffix(".weight") == Some(prefix);
    let prefix = || {
        let config = read_json(&decoder.source()?.join("config.json"), "").ok()?;
        Some(config["value_head_prefix"].as_str()?.to_owned())
    };
    match name {
        VALUE | SCORE => Some(VALUE),
        PROMPT => Some(PROMPT),
        _ if prefix().is_some_and(|prefix| is_named(&prefix)) => Some(VALUE),
        _ => None,
    }
}

/// Whether a tensor of an adapter is of a head.
pub(super) fn is_head(held: &HeldTensor) -> bool {
    matches!(held, HeldTensor::Base(name) if [VALUE, PROMPT, SCORE].contains(&name.as_str()))
}
