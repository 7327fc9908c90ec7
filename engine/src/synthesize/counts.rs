//! `counts.json`: what was asked, made, left out and kept. Written last, so that it marks a finished synthesis.
//!
//! The same bytes for a synthesis in one piece and one that was killed and went on: every number is counted from the replies on disk.

use std::collections::BTreeMap;

use serde::Serialize;

use super::question::AskedCount;
use super::row::{LeftOut, SynthesizedRow};
use crate::recipe::SynthesizeSection;

/// The numbers of a synthesis.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct SynthesisCounts {
    method: &'static str,
    seeds: usize,
    /// By the model's section.
    asked: BTreeMap<&'static str, ModelCounts>,
    /// made = kept + all of left_out.
    made: usize,
    kept: usize,
    left_out: BTreeMap<&'static str, usize>,
}

#[derive(Debug, PartialEq, Serialize)]
struct ModelCounts {
    #[serde(flatten)]
    asked: AskedCount,
    /// At the recipe's prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
}

impl SynthesisCounts {
    pub(super) fn of(
        section: &SynthesizeSection,
        seeds: usize,
        asked: &BTreeMap<&'static str, AskedCount>,
        kept: &[SynthesizedRow],
        left_out: &[LeftOut],
    ) -> Self {
        let mut reasons = BTreeMap::new();
        for one in left_out {
            *reasons.entry(one.reason.name()).or_insert(0) += 1;
        }
        let models = section.models();
        let with_cost = |(&role, &asked): (&&'static str, &AskedCount)| {
            let usage = selfplay_client::Usage {
                prompt_tokens: asked.prompt_tokens,
                completion_tokens: asked.completion_tokens,
                ..selfplay_client::Usage::default()
            };
            let settings =
                models.iter().find(|(name, _)| *name == role).map(|(_, model)| model.client("companion", ""));
            let cost = settings.and_then(|settings| usage.cost(&settings));
            (role, ModelCounts { asked, cost })
        };
        Self {
            method: section.method.name(),
            seeds,
            asked: asked.iter().map(with_cost).collect(),
            made: kept.len() + left_out.len(),
            kept: kept.len(),
            left_out: reasons,
        }
    }

    /// For people, on one line.
    pub(super) fn summary(&self) -> String {
        let reasons: Vec<String> = self
            .left_out
            .iter()
            .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
            .collect();
        let left_out =
            if reasons.is_empty() { String::new() } else { format!("; left out: {}", reasons.join(", ")) };
        format!("{} of {} rows kept{left_out}", self.kept, self.made)
    }
}
