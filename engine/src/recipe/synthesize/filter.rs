//! `[synthesize.filter]`: which rows are kept.

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// `[synthesize.filter]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SynthesisFilter {
    /// Characters of a prompt at least.
    pub min_prompt_characters: usize,
    /// Characters of a prompt at most. Absent: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_characters: Option<usize>,
    /// Characters of an answer at least.
    pub min_response_characters: usize,
    /// Characters of an answer at most. Absent: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_response_characters: Option<usize>,
    /// Prompts whose sets of three-word runs are this alike (Jaccard) are near duplicates, of which the first stays; 1: the same but for case and punctuation. Absent: 0.7.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.5, max = 1))]
    pub duplicate_similarity: Option<f64>,
}

impl Default for SynthesisFilter {
    fn default() -> Self {
        Self {
            min_prompt_characters: 1,
            max_prompt_characters: None,
            min_response_characters: 1,
            max_response_characters: None,
            duplicate_similarity: None,
        }
    }
}

impl SynthesisFilter {
    /// How alike near duplicates are.
    pub fn similarity(&self) -> f64 {
        self.duplicate_similarity.unwrap_or(0.7)
    }

    pub(super) fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        for (key, least) in [
            ("min_prompt_characters", self.min_prompt_characters),
            ("min_response_characters", self.min_response_characters),
        ] {
            problems.refuse(least == 0, key, 0, "1 or more: an empty text teaches nothing");
        }
        for (key, least, most) in [
            ("max_prompt_characters", self.min_prompt_characters, self.max_prompt_characters),
            ("max_response_characters", self.min_response_characters, self.max_response_characters),
        ] {
            if let Some(most) = most.filter(|&most| most < least) {
                problems.value(key, most, format!("at least the least number, {least}"));
            }
        }
        if let Some(similarity) = self.duplicate_similarity
            && !(0.5..=1.0).contains(&similarity)
        {
            problems.value("duplicate_similarity", similarity, "from 0.5 to 1");
        }
        problems
    }
}
