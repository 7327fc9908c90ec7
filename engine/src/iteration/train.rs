//! Pairs, or single responses → the iteration's policy: the trainer's loop, then `policy/` in Hugging Face layout, or `adapter/` in PEFT's.
//!
//! The optimizer starts fresh in each iteration.

use std::path::Path;
use std::time::Instant;

use selfplay_model::Decoder;
use selfplay_records::{Completion, ExampleKind, Pair, atomic};
use selfplay_trainer::{
    GroupBuilder, GroupObjective, LossKind, PairData, PairObjective, ReadsPolicies, SftData, SftObjective,
    TrainSettings, TrainSummary, TurnRules, UnpairedBuilder, best_example, token_pair,
};
use serde::{Deserialize, Serialize};

use super::drift::drift;
use super::log_prob_claims::divides_log_probs;
use super::log_prob_difference;
use super::policy::Policy;
use super::policy_share::own_share;
use super::workspace::Iteration;
use crate::error::EngineError;
use crate::json_file::write_json;
use crate::ranks::shared_work::SharedWork;
use crate::recipe::Stage;
use crate::run::anchors::{anchors, policy_of};
use crate::run::events::Event;
use crate::run::leaves::{Leaves, settings_of};
use crate::run::policy_files;
use crate::stages::{
    Product, TrainingRows, Workspace, prepare_training, save_adapter, save_model, take_anchors,
    train_after as train_steps,
};

/// `train/summary.json`: what `summary.json` tells of the training, kept while `policy/` is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs, single responses or groups.
    pub pairs: usize,
    /// Pairs that were cut.
    pub truncated: usize,
    /// Pairs that the cut left nothing of.
    #[serde(default)]
    pub skipped: usize,
    /// Pairs whose responses are the same tokens.
    #[serde(default)]
    pub identical: usize,
    /// Loss of the first step.
    pub loss_first: Option<f64>,
    /// Loss of the last step.
    pub loss_last: Option<f64>,
    /// Tokens of a pass at most, where it is not `train.micro_batch_tokens` that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
}

impl From<&TrainSummary> for TrainRecord {
    fn from(summary: &TrainSummary) -> Self {
        Self {
            steps: summary.steps,
            pairs: summary.examples,
            truncated: summary.truncated,
            skipped: summary.skipped,
            identical: summary.identical,
            loss_first: summary.loss_first,
            loss_last: summary.loss_last,
            micro_batch_tokens: summary.micro_batch_tokens,
        }
    }
}

/// Trains what is left, writes the policy and gives it on; trains nothing when it is there. Of several ranks the first writes; where it
/// trains alone, the others compute log-probs for it and end before the first step.
///
/// # Errors
/// When training fails, the policy cannot be written, or a signal asks for a stop (a checkpoint is then written).
pub fn train(iteration: &Iteration<'_>, policy: Policy, rows: &TrainingRows) -> Result<Policy, EngineError> {
    if !iteration.left.train {
        return Ok(Policy::after(iteration.number));
    }
    iteration.check_stop()?;
    let ranks = &iteration.session.ranks;
    if ranks.train_together() {
        ranks.gather_for_training(iteration.number)?;
    } else if divides_log_probs(iteration.session) {
        ranks.announce(SharedWork::Reference { iteration: iteration.number })?;
    }
    ranks.enter("train");
    match rows.kind() {
        ExampleKind::Pairs => train_on(iteration, policy, of_pairs(iteration, rows)?),
        ExampleKind::Unpaired => train_on(iteration, policy, of_unpaired(iteration, rows)?),
        ExampleKind::Best => train_on(iteration, policy, of_best(iteration, rows)?),
        ExampleKind::Groups => train_on(iteration, policy, of_groups(iteration, rows)?),
    }
}

/// Trains on an objective, whichever it is.
fn train_on(
    iteration: &Iteration<'_>,
    mut policy: Policy,
    mut objective: impl ReadsPolicies,
) -> Result<Policy, EngineError> {
    let (session, number) = (iteration.session, iteration.number);
    if objective.has_other_anchors() {
        policy.put_away();
        let share = own_share(session);
        take_anchors(iteration, &mut objective, &mut |name| match policy_of(name) {
            Some(after) => session.load_policy(after, share),
            None => Err(EngineError::failure(format!("no policy of this run is {name}"))),
        })?;
    }
    let mut decoder = policy.for_training(session)?;
    if !iteration.is_first() && !session.ranks.train_together() {
        prepare_training(iteration, &mut decoder, &mut objective)?;
        return Ok(Policy::after(number - 1));
    }
    if decoder.is_divided() {
        let title = iteration.title(Stage::Policy);
        let world = session.ranks.world();
        iteration
            .progress()
            .line(format!("{title}: each of {world} ranks has loaded its share of the policy"));
    }
    let mut started = Instant::now();
    let summary = train_steps(iteration, &mut decoder, objective, &mut |decoder| {
        if iteration.is_first() {
            log_prob_difference::report(iteration, decoder)?;
        }
        started = Instant::now();
        Ok(())
    })?;
    let is_divided = decoder.is_divided();
    if !is_divided {
        session.ranks.spare();
    }
    if iteration.is_first() {
        session.ranks.enter("save the policy");
    }
    let saved = match iteration.is_first() {
        true => save(iteration, &mut decoder, &TrainRecord::from(&summary)),
        false => Ok(()),
    };
    // The others bring what rank 0 writes; they wait for its end also after an error.
    let ended = decoder.end_division().map_err(EngineError::from);
    session.ranks.spare();
    saved.and(ended)?;
    if !iteration.is_first() {
        return Ok(Policy::after(number));
    }
    let seconds = started.elapsed().as_secs_f64();
    iteration.record(Event::Trained { iteration: number, steps: summary.steps, seconds })?;
    // Another process would read the adapter, and add its numbers in another order: so does this one. Of a share nothing is left to go on with.
    let leaves = Leaves::of(&session.recipe.train, number >= session.recipe.iterations);
    Ok(if leaves.adapter || is_divided {
        Policy::after(number)
    } else {
        Policy::trained(number, decoder, session)
    })
}

/// Writes what the training leaves.
fn save(iteration: &Iteration<'_>, decoder: &mut Decoder, record: &TrainRecord) -> Result<(), EngineError> {
    let (session, dir, number) = (iteration.session, &iteration.dir, iteration.number);
    let (recipe, source) = (&session.recipe, &session.inputs.policy);
    write_json(&iteration.path(Product::Training).join("summary.json"), record)?;
    policy_files::forget(dir)?;
    let leaves = Leaves::of(&recipe.train, number >= recipe.iterations);
    if leaves.adapter {
        let base = session.base_before(number);
        // One may be there, of a process that was killed before the policy was whole.
        atomic::replace_dir(&dir.adapter(), |folder| save_adapter(decoder, &base, folder))?;
    }
    if leaves.model {
        let write = |folder: &Path| save_model(recipe, &source.codec, decoder, folder);
        if leaves.adapter {
            atomic::replace_dir(&dir.policy(), write)?;
        } else {
            atomic::write_dir(&dir.policy(), write)?;
        }
    }
    policy_files::keep(dir)
}

/// What makes tokens of the iteration's rows.
fn rules<'a>(iteration: &Iteration<'a>) -> TurnRules<'a> {
    let session = iteration.session;
    let source = &session.inputs.policy;
    TurnRules { end_token: session.recipe.train.end_token, ..TurnRules::new(&source.codec, &source.stop_ids) }
}

/// The settings of the iteration's own training.
fn own_settings(iteration: &Iteration<'_>) -> TrainSettings {
    settings_of(&iteration.session.recipe.train, iteration.number)
}

/// The iteration's pairs in tokens, with the policies that the loss reads them by.
fn of_pairs(iteration: &Iteration<'_>, rows: &TrainingRows) -> Result<PairObjective, EngineError> {
    let settings = own_settings(iteration);
    let mut data = PairData::new(iteration.dir.root());
    rows.each(&mut |row, pair: Pair| {
        Ok(data.push(token_pair(row, &pair, rules(iteration), settings.loss)?)?)
    })?;
    Ok(PairObjective::new(data, &settings).with_anchors(anchors(&settings, iteration.number)))
}

/// Desirable and undesirable responses.
fn of_unpaired(iteration: &Iteration<'_>, rows: &TrainingRows) -> Result<PairObjective, EngineError> {
    let settings = own_settings(iteration);
    let mut data = UnpairedBuilder::new(rules(iteration), settings.loss, iteration.dir.root());
    rows.each(&mut |row, completion: Completion| Ok(data.push(row, &completion)?))?;
    Ok(PairObjective::new(data.finish()?, &settings).with_anchors(anchors(&settings, iteration.number)))
}

/// Each prompt's best response, to be imitated.
fn of_best(iteration: &Iteration<'_>, rows: &TrainingRows) -> Result<SftObjective, EngineError> {
    let settings = own_settings(iteration);
    let mut data = SftData::new(iteration.dir.root());
    rows.each(&mut |row, completion: Completion| {
        let example = best_example(row, &completion, rules(iteration), settings.loss_tokens)?;
        Ok(data.push(row, &example)?)
    })?;
    Ok(SftObjective::new(data, &settings))
}

/// Groups, with the axes' weights by the monitor.
fn of_groups(iteration: &Iteration<'_>, rows: &TrainingRows) -> Result<GroupObjective, EngineError> {
    let settings = own_settings(iteration);
    let drift = match settings.loss {
        LossKind::Gprl => Some(drift(iteration, rows)?),
        _ => None,
    };
    let axis_weights = drift.as_ref().map(|drift| drift.axis_weights.as_slice());
    let mut groups = GroupBuilder::new(rules(iteration), settings.loss, axis_weights, iteration.dir.root());
    rows.each(&mut |row, completion: Completion| Ok(groups.push(row, &completion)?))?;
    Ok(GroupObjective::new(groups.finish()?, &settings)
        .with_reference(anchors(&settings, iteration.number).reference)
        .with_kl_factor(drift.map_or(1.0, |drift| drift.kl_factor)))
}
