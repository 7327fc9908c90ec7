//! The policies besides `--model` that a training on pairs reads: `--reference`, `--initial`, `--history`.
//!
//! A run knows its own policies; a stage command is told them. Nothing is guessed: what neither the rows nor a flag bring is
//! wrong input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use selfplay_trainer::loss::{needs_initial, needs_reference};
use selfplay_trainer::{
    AnchorPolicy, Anchors, PairData, ReadsPolicies, ReferenceRule, TrainError, TrainSettings,
};

use super::stage::StageCommand;
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::model_files::ModelFiles;
use crate::inputs::policy::load_weights;
use crate::recipe::{ModelSource, PolicySection, Recipe};
use crate::stages::{Workspace, take_anchors};

/// Flags that name policies besides the one in training.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AnchorArgs {
    /// The policy that log-ratios are taken against
    ///
    /// In the place of --model.
    #[arg(long, value_name = "DIR")]
    pub reference: Option<String>,
    /// The initial policy of loss = "inpo"
    #[arg(long, value_name = "DIR")]
    pub initial: Option<String>,
    /// For train.history: a policy before --model; repeats
    ///
    /// The newest first.
    #[arg(long, value_name = "DIR")]
    pub history: Vec<String>,
}

/// The policies that the flags name.
pub(super) struct NamedPolicies {
    /// Which part each plays.
    pub(super) anchors: Anchors,
    /// By the name of the anchor.
    policies: BTreeMap<String, NamedPolicy>,
}

/// One of them.
struct NamedPolicy {
    source: ModelSource,
    folder: PathBuf,
}

impl AnchorArgs {
    /// Finds the policies; `own` is the folder of `--model`.
    ///
    /// # Errors
    /// A flag that the loss does not read, more or fewer policies than it reads, a model that is not to be had.
    pub(super) fn find(
        &self,
        settings: &TrainSettings,
        iteration: usize,
        own: &Path,
    ) -> Result<NamedPolicies> {
        self.check(settings, iteration)?;
        let mut policies = BTreeMap::new();
        let mut part = |text: &String| -> Result<AnchorPolicy> {
            let source = ModelSource::parse(text, None);
            let folder = Hub::default().model_folder(&source)?;
            let folder = folder.canonicalize().map_err(|error| EngineError::named(&folder, error))?;
            let is_random = matches!(source, ModelSource::Random(_));
            if !is_random && own.canonicalize().is_ok_and(|own| own == folder) {
                return Ok(AnchorPolicy::Start);
            }
            let name = if is_random { text.clone() } else { folder.display().to_string() };
            policies.insert(name.clone(), NamedPolicy { source, folder });
            Ok(AnchorPolicy::Other(name))
        };
        let reference = self.reference.as_ref().map_or(Ok(AnchorPolicy::Start), &mut part)?;
        let initial = self.initial.as_ref().map(&mut part).transpose()?;
        let earlier = self.history.iter().map(&mut part).collect::<Result<_>>()?;
        Ok(NamedPolicies { anchors: Anchors { reference, initial, earlier }, policies })
    }

    fn check(&self, settings: &TrainSettings, iteration: usize) -> Result<()> {
        let loss = settings.loss;
        let refused = |flag: &str, why: String| Err(EngineError::input(format!("{flag}: {why}")));
        if self.reference.is_some() && !needs_reference(loss) {
            return refused("--reference", format!("loss = \"{loss}\" has no reference; leave the flag out"));
        }
        for (flag, is_given) in
            [("--initial", self.initial.is_some()), ("--history", !self.history.is_empty())]
        {
            if is_given && !needs_initial(loss) {
                return refused(flag, format!("loss = \"{loss}\" reads no such policy; leave the flag out"));
            }
        }
        let (given, most) = (self.history.len(), settings.history().saturating_sub(1));
        let there = iteration.saturating_sub(1);
        let wanted = most.min(there);
        if needs_initial(loss) && (given > most || given < wanted) {
            let wanted = if wanted == most { most.to_string() } else { format!("{wanted} to {most}") };
            return refused(
                "--history",
                format!(
                    "given {given} times; train.history = {} at iteration {iteration} wants it {wanted} times, for the \
                     policies before --model, the newest first",
                    settings.history()
                ),
            );
        }
        Ok(())
    }

    /// That every pair brings what no flag does.
    ///
    /// # Errors
    /// The first pair that does not, with the flag.
    pub(super) fn check_pairs(&self, settings: &TrainSettings, pairs: &PairData) -> Result<()> {
        let lacks = |policy: &str, flag: &str, why: String, first: Option<&str>| match first {
            None => Ok(()),
            Some(pair) => Err(EngineError::from(TrainError::Example {
                example: pair.to_owned(),
                problem: format!("no `{policy}_chosen_logps` and `{policy}_rejected_logps`"),
                want: format!("both with {why}, or {flag} DIR to compute them with"),
            })),
        };
        if needs_initial(settings.loss) {
            if self.initial.is_none() {
                let why = format!("loss = \"{}\"", settings.loss);
                lacks("initial", "--initial", why, pairs.first_without_initial())?;
            }
        } else if settings.reference != ReferenceRule::Previous && self.reference.is_none() {
            let why = format!("train.reference = \"{}\"", settings.reference);
            lacks("ref", "--reference", why, pairs.first_without_reference())?;
        }
        Ok(())
    }
}

impl AnchorArgs {
    /// That a reference is named for rows of single responses, which bring no log-probs under it.
    ///
    /// # Errors
    /// None is, and `train.reference` is not the policy in training at its start.
    pub(super) fn check_reference(&self, settings: &TrainSettings) -> Result<()> {
        let (loss, rule) = (settings.loss, settings.reference);
        if !needs_reference(loss) || rule == ReferenceRule::Previous || self.reference.is_some() {
            return Ok(());
        }
        Err(EngineError::input(format!(
            "--reference is missing: loss = \"{loss}\" with train.reference = \"{rule}\" is held against that policy; name its folder"
        )))
    }
}

impl NamedPolicies {
    /// Folder by folder, with the flag's part.
    pub(super) fn folders(&self) -> Vec<(String, PathBuf)> {
        let Anchors { reference, initial, earlier } = &self.anchors;
        let parts = [("--reference".to_owned(), reference)]
            .into_iter()
            .chain(initial.iter().map(|policy| ("--initial".to_owned(), policy)))
            .chain(earlier.iter().enumerate().map(|(place, policy)| (format!("--history {place}"), policy)));
        parts
            .filter_map(|(part, policy)| match policy {
                AnchorPolicy::Start => None,
                AnchorPolicy::Other(name) => Some((part, self.policies.get(name)?.folder.clone())),
            })
            .collect()
    }

    /// Takes the log-probs under these policies, one in memory at a time.
    ///
    /// # Errors
    /// When a policy does not load or does not fit the pairs, or a file cannot be read or written.
    pub(super) fn take(
        &self,
        command: &StageCommand,
        device: &Device,
        objective: &mut impl ReadsPolicies,
    ) -> Result<()> {
        let recipe = command.recipe();
        take_anchors(command, objective, &mut |name| {
            let Some(NamedPolicy { source, .. }) = self.policies.get(name) else {
                return Err(EngineError::failure(format!("no flag names {name}")));
            };
            let policy = PolicySection { model: source.clone(), ..recipe.policy.clone() };
            let files = ModelFiles::find(source, &ModelSource::Unset, &Hub::default())?;
            let recipe = Recipe { policy, ..recipe.clone() };
            let mut decoder = load_weights(&recipe, &files.folder, device, false)?;
            files.adapter.map_or(Ok(()), |adapter| decoder.load_adapter(&adapter))?;
            Ok(decoder)
        })
    }
}

#[cfg(test)]
mod tests {
    use selfplay_trainer::{LossKind, TokenPair};

    use super::*;

    fn problem(args: &AnchorArgs, settings: &TrainSettings, iteration: usize) -> Option<String> {
        args.check(settings, iteration).err().map(|error| {
            assert_eq!(error.exit_status(), 2);
            error.to_string()
        })
    }

    #[test]
    fn flags_that_a_loss_does_not_read_are_refused() {
        let of = |loss: LossKind| TrainSettings { loss, ..TrainSettings::default() };
        let some = || Some("x".to_owned());
        let reference = AnchorArgs { reference: some(), ..AnchorArgs::default() };
        let initial = AnchorArgs { initial: some(), ..AnchorArgs::default() };
        assert!(problem(&reference, &of(LossKind::Simpo), 1).unwrap().starts_with("--reference: "));
        assert!(problem(&initial, &of(LossKind::Dpo), 1).unwrap().starts_with("--initial: "));
        assert_eq!(problem(&reference, &of(LossKind::Dpo), 1), None);
        assert_eq!(problem(&initial, &of(LossKind::Inpo), 1), None);
    }

    #[test]
    fn a_history_is_as_long_as_the_iteration_lets_it_be() {
        let mnpo = TrainSettings { loss: LossKind::Inpo, history: Some(3), ..TrainSettings::default() };
        let given =
            |count: usize| AnchorArgs { history: vec!["x".to_owned(); count], ..AnchorArgs::default() };
        // Without --iteration nothing says how many there are.
        for count in 0..=2 {
            assert_eq!(problem(&given(count), &mnpo, 1), None);
        }
        assert!(problem(&given(3), &mnpo, 9).unwrap().contains("wants it 2 times"));
        assert!(problem(&given(0), &mnpo, 2).unwrap().contains("wants it 1 to 2 times"));
        assert!(problem(&given(1), &mnpo, 3).unwrap().contains("given 1 times"));
        assert_eq!(problem(&given(2), &mnpo, 3), None);
    }

    #[test]
    fn what_no_flag_brings_the_rows_must() {
        let value = Some(selfplay_trainer::PairLogProbs { chosen: -1.0, rejected: -2.0 });
        let bare = TokenPair { name: "pair 3".to_owned(), ..TokenPair::default() };
        let inpo = TrainSettings { loss: LossKind::Inpo, ..TrainSettings::default() };
        let none = AnchorArgs::default();
        let text = none.check_pairs(&inpo, &PairData::from(vec![bare.clone()])).unwrap_err().to_string();
        assert!(text.contains("pair 3") && text.contains("initial_chosen_logps"), "{text}");
        assert!(text.contains("--initial DIR"), "{text}");
        let given = AnchorArgs { initial: Some("x".to_owned()), ..AnchorArgs::default() };
        given.check_pairs(&inpo, &PairData::from(vec![bare.clone()])).unwrap();
        none.check_pairs(&inpo, &PairData::from(vec![TokenPair { initial: value, ..bare.clone() }])).unwrap();
        let dpo = TrainSettings {
            loss: LossKind::Dpo,
            reference: ReferenceRule::Every(2),
            ..TrainSettings::default()
        };
        let text = none.check_pairs(&dpo, &PairData::from(vec![bare.clone()])).unwrap_err().to_string();
        assert!(text.contains("ref_chosen_logps") && text.contains("--reference DIR"), "{text}");
        none.check_pairs(&dpo, &PairData::from(vec![TokenPair { reference: value, ..bare.clone() }]))
            .unwrap();
        none.check_pairs(
            &TrainSettings { loss: LossKind::Dpo, ..TrainSettings::default() },
            &PairData::from(vec![bare]),
        )
        .unwrap();
    }
}
