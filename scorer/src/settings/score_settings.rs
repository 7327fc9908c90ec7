//! `ScoreSettings`: what a preference model is loaded with.

use selfplay_records::Problems;

use super::kind::ScoreDifference;
use crate::{KindSettings, LengthPenalty};

/// How candidates are compared: what every kind has, and the settings of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreSettings {
    /// Whether s is stored as the paper defines it or as the reference pipeline stores it.
    pub score_difference: ScoreDifference,
    /// What longer responses lose, if anything.
    pub length: Option<LengthPenalty>,
    /// The kind of preference model, with its own settings.
    pub kind: KindSettings,
}

impl ScoreSettings {
    /// Every wrong value of this section, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = self.length.map(|length| length.validate()).unwrap_or_default();
        problems.extend(match &self.kind {
            KindSettings::Auto(own)
            | KindSettings::Gpm(own)
            | KindSettings::BradleyTerry(own)
            | KindSettings::Hrc(own) => own.validate(),
            KindSettings::PairRanker => Problems::default(),
            KindSettings::PairLm(own) => own.validate(),
            KindSettings::Command(own) => own.validate(),
            KindSettings::Judge(own) => own.validate(),
            KindSettings::Remote(own) => own.validate(),
            // Its members were checked when their keys were read.
            KindSettings::Ensemble(_) => Problems::default(),
        });
        problems
    }
}
