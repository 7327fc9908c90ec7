//! GPRL's monitor in a run: the axes of an iteration's groups against those of the first iteration that has any, in `train/drift.json`.
//!
//! It is a function of the rows and of the first iteration's file, so that a resume has the same one.

use selfplay_records::Completion;
use selfplay_trainer::{AxisDrift, AxisShares};

use super::workspace::Iteration;
use crate::error::EngineError;
use crate::json_file::{read_json, write_json};
use crate::run::dir::make_folder;
use crate::stages::{TrainingRows, Workspace};

/// What the axes of the iteration's rows say, written down.
///
/// # Errors
/// Rows without axes, or with others than the first iteration's; a file that does not read or cannot be written.
pub fn drift(iteration: &Iteration<'_>, rows: &TrainingRows) -> Result<AxisDrift, EngineError> {
    let mut shares = AxisShares::default();
    rows.each(&mut |_, row: Completion| {
        shares.push(&row);
        Ok(())
    })?;
    let Some(shares) = shares.shares() else {
        return Err(EngineError::input(format!(
            "iteration {}: no `axis_rewards` in its groups, which loss = \"gprl\" takes its advantages' axes from: the preferences were \
             made without score.advantages = \"per-axis\"",
            iteration.number
        )));
    };
    let start = match first(iteration)? {
        Some(start) => start,
        None => shares.clone(),
    };
    if start.len() != shares.len() {
        return Err(EngineError::input(format!(
            "iteration {}: its groups have {} axes, and the first iteration's have {}: another preference model has no common axes \
             with it",
            iteration.number,
            shares.len(),
            start.len()
        )));
    }
    let found = AxisDrift::of(&start, &shares, &iteration.recipe().train);
    if iteration.is_first() {
        make_folder(&iteration.dir.train())?;
        write_json(&iteration.dir.drift_file(), &found)?;
    }
    let list =
        |values: &[f64]| values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(" ");
    iteration.progress().line(format!(
        "iteration {}: axes: shares {}, drift {:.4} nats since the first, weights {}, divergence times {:.2}",
        iteration.number,
        list(&found.shares),
        found.drift,
        list(&found.axis_weights),
        found.kl_factor
    ));
    Ok(found)
}

/// The shares of the first iteration before this one that has any.
fn first(iteration: &Iteration<'_>) -> Result<Option<Vec<f64>>, EngineError> {
    for number in 1..iteration.number {
        let file = iteration.session.run.iteration(number).drift_file();
        if file.is_file() {
            return Ok(Some(read_json::<AxisDrift>(&file)?.shares));
        }
    }
    Ok(None)
}
