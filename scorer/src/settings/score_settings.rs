//! `ScoreSettings`: what a preference model is loaded with.

use std::path::{Path, PathBuf};

use selfplay_records::Problems;

use super::kind::ScoreDifference;
use crate::{ANSWERS, KindSettings, LengthPenalty, TRANSCRIPT};

/// How candidates are compared: what every kind has, and the settings of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreSettings {
    /// Whether s is stored as the paper defines it or as the reference pipeline stores it.
    pub score_difference: ScoreDifference,
    /// What longer responses lose, if anything.
    pub length: Option<LengthPenalty>,
    /// The kind of preference model, with its own settings.
    pub kind: KindSettings,
    /// Where a kind that is computed here, question by question, keeps its answers; `None`: nowhere.
    pub kept: Option<PathBuf>,
}

impl ScoreSettings {
    /// Keeps answers below `folder` as they come, so that work which was killed goes on where it was: a service's in
    /// [`TRANSCRIPT`] where the settings name no file, and in [`ANSWERS`] what is computed here question by question. Kinds that embed
    /// each response keep nothing: a shard of theirs is a matter of seconds.
    pub fn keep_answers(&mut self, folder: &Path) {
        self.keep_answers_as(folder, "");
    }

    /// With `suffix` before the end of each file's name.
    fn keep_answers_as(&mut self, folder: &Path, suffix: &str) {
        let file = |name: &str| folder.join(name.replace(".jsonl", &format!("{suffix}.jsonl")));
        let transcript = |own: &mut Option<PathBuf>| {
            own.get_or_insert_with(|| file(TRANSCRIPT));
        };
        match &mut self.kind {
            KindSettings::Judge(own) if own.service.is_some() => transcript(&mut own.transcript),
            KindSettings::Remote(own) => transcript(&mut own.transcript),
            KindSettings::Ensemble(own) => {
                for (place, member) in own.members.iter_mut().enumerate() {
                    // Each has a file of its own: a file has one writer.
                    member.settings.keep_answers_as(folder, &format!("_{place}"));
                }
            }
            KindSettings::Gpm(_) | KindSettings::BradleyTerry(_) | KindSettings::Hrc(_) => {}
            KindSettings::Auto(_)
            | KindSettings::PairRanker
            | KindSettings::PairLm(_)
            | KindSettings::Judge(_)
            | KindSettings::Command(_) => self.kept = Some(file(ANSWERS)),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandSettings, EnsembleSettings, MemberKeys, MemberScale, PreferenceKind};

    #[test]
    fn each_member_of_an_ensemble_has_a_file_of_its_own() {
        let command = || ScoreSettings {
            kind: KindSettings::Command(CommandSettings::default()),
            ..ScoreSettings::default()
        };
        let mut one = command();
        one.keep_answers(Path::new("run"));
        assert_eq!(one.kept, Some(PathBuf::from("run/answers.jsonl")));
        let words = Some(vec!["check".to_owned()]);
        let member = MemberKeys { kind: PreferenceKind::Command, command: words, ..MemberKeys::default() };
        let mut problems = Problems::default();
        let settings = EnsembleSettings::resolve(&[member.clone(), member], MemberScale::None, &mut problems);
        assert!(problems.list.is_empty(), "{problems}");
        let mut all = ScoreSettings { kind: KindSettings::Ensemble(settings), ..ScoreSettings::default() };
        all.keep_answers(Path::new("run"));
        let of = |place: usize| all.kind.ensemble().unwrap().members[place].settings.kept.clone();
        assert_eq!((of(0), of(1)), (Some("run/answers_0.jsonl".into()), Some("run/answers_1.jsonl".into())));
        assert_eq!(all.kept, None);
    }
}
