//! The settings of a judge.

use std::path::PathBuf;

use selfplay_client::ClientSettings;
use selfplay_records::Problems;

use super::VerdictForm;
use crate::ReadingSettings;

/// A chat model that is asked which of two responses is better.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeSettings {
    /// How a model of ours reads questions; not used with a service.
    pub reading: ReadingSettings,
    /// The service that answers; `None`: a model folder of ours.
    pub service: Option<ClientSettings>,
    /// The model's name at the service.
    pub model: String,
    /// The rubric's file; `None`: ours.
    pub template: Option<PathBuf>,
    /// How verdicts are read.
    pub verdict: VerdictForm,
    /// Tokens of an answer at most, where its text is the verdict.
    pub verdict_tokens: usize,
    /// Where a service's answers are kept; `None`: where the work is done.
    pub transcript: Option<PathBuf>,
}

impl JudgeSettings {
    /// Tokens of an answer at most where the recipe says nothing.
    pub const VERDICT_TOKENS: usize = 512;

    /// Whether it writes its answers with a model of ours, so that a sampler is needed.
    pub fn writes_here(&self) -> bool {
        self.service.is_none() && self.verdict == VerdictForm::Text
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub(crate) fn validate(&self) -> Problems {
        let mut problems = match &self.service {
            Some(service) => service.validate(),
            None => self.reading.validate(),
        };
        for problem in &mut problems.list {
            // The recipe has one endpoint under a name of its own.
            if problem.key.starts_with("endpoints") {
                problem.key = "endpoint".into();
            }
        }
        if self.service.is_some() && self.model.trim().is_empty() {
            problems.key("model", "absent: the model's name at score.endpoint");
        }
        problems.refuse(self.verdict_tokens == 0, "verdict_tokens", 0, "1 token or more");
        problems
    }
}
