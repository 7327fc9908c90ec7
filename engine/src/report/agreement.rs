//! Two preference models on the same candidates: what of their verdicts is the same, for `compare`.
//!
//! A branch with another preference model shares its candidates with the run that it comes from, and a run with the same policy
//! and seed samples the same ones: rows are matched by prompt and by the digest of their candidates.

use std::collections::HashMap;

use selfplay_records::{Preference, read_rows};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::run::dir::{IterationDir, RunDir};
use crate::stages::shard_path;

/// How two runs' preference models judge the candidates of one iteration that they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeAgreement {
    /// The run whose verdicts are held against the first run's.
    pub run: String,
    /// From 1.
    pub iteration: usize,
    /// Prompts with the same candidates in both.
    pub prompts: usize,
    /// Share of pairs of responses with the same winner.
    pub same_winner: Option<f64>,
    /// Share of prompts with the same best and the same worst response.
    pub same_best_and_worst: f64,
    /// Prompts whose best or worst response is another.
    pub changed: usize,
    /// Of those, the ones whose best response alone is another.
    #[serde(default)]
    pub best_changed: usize,
    /// Whose worst response alone is another.
    #[serde(default)]
    pub worst_changed: usize,
    /// Whose best response is the other's worst, and the other way round.
    #[serde(default)]
    pub turned_round: usize,
    /// Mean |P − P′| over pairs of responses.
    pub difference: Option<f64>,
}

/// The agreement of each later run with the first, where they share candidates.
///
/// # Errors
/// When a file of preferences does not read.
pub(super) fn with_first(runs: &[RunDir], iterations: usize) -> Result<Vec<JudgeAgreement>, EngineError> {
    let Some((first, others)) = runs.split_first() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for iteration in 1..=iterations {
        let mut tables: Option<HashMap<String, Preference>> = None;
        for other in others {
            if !other.iteration(iteration).preferences().is_dir() {
                continue;
            }
            if tables.is_none() {
                tables = Some(by_prompt(&first.iteration(iteration))?);
            }
            let Some(first_tables) = &tables else { break };
            if first_tables.is_empty() {
                break;
            }
            let rows = rows_of(&other.iteration(iteration))?;
            let shared: Vec<(&Preference, &Preference)> = rows
                .iter()
                .filter_map(|row| Some((first_tables.get(&row.prompt_id)?, row)))
                .filter(|(one, two)| {
                    one.candidates_digest.is_some() && one.candidates_digest == two.candidates_digest
                })
                .collect();
            if !shared.is_empty() {
                found.push(agreement(other.root().display().to_string(), iteration, &shared));
            }
        }
    }
    Ok(found)
}

fn rows_of(iteration: &IterationDir) -> Result<Vec<Preference>, EngineError> {
    let mut rows = Vec::new();
    for shard in iteration.state()?.preferences {
        rows.extend(read_rows::<Preference>(&shard_path(&iteration.preferences(), shard))?);
    }
    Ok(rows)
}

fn by_prompt(iteration: &IterationDir) -> Result<HashMap<String, Preference>, EngineError> {
    if !iteration.preferences().is_dir() {
        return Ok(HashMap::new());
    }
    Ok(rows_of(iteration)?.into_iter().map(|row| (row.prompt_id.clone(), row)).collect())
}

fn agreement(run: String, iteration: usize, shared: &[(&Preference, &Preference)]) -> JudgeAgreement {
    let (mut same, mut pairs, mut difference, mut unchanged) = (0_usize, 0_usize, 0.0, 0);
    let (mut best_changed, mut worst_changed, mut turned_round) = (0, 0, 0);
    for (one, two) in shared {
        let k = one.scores.len();
        for (i, j) in (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j))) {
            let side = |table: &Preference| table.scores[i][j].partial_cmp(&0.0);
            same += usize::from(side(one) == side(two));
            difference += (one.probabilities[i][j] - two.probabilities[i][j]).abs();
            pairs += 1;
        }
        let ((best, worst), (other_best, other_worst)) = (extremes(one), extremes(two));
        match (best == other_best, worst == other_worst) {
            (true, true) => unchanged += 1,
            (false, true) => best_changed += 1,
            (true, false) => worst_changed += 1,
            (false, false) => turned_round += usize::from(best == other_worst && worst == other_best),
        }
    }
    let share = |sum: f64| (pairs > 0).then(|| sum / pairs as f64);
    JudgeAgreement {
        run,
        iteration,
        prompts: shared.len(),
        same_winner: share(same as f64),
        same_best_and_worst: unchanged as f64 / shared.len() as f64,
        changed: shared.len() - unchanged,
        best_changed,
        worst_changed,
        turned_round,
        difference: share(difference),
    }
}

/// The places of the best and the worst response by mean score, the first of equals.
fn extremes(table: &Preference) -> (usize, usize) {
    let means = &table.mean_scores;
    let first = |better: fn(f64, f64) -> bool| {
        (1..means.len()).fold(0, |best, at| if better(means[at], means[best]) { at } else { best })
    };
    (first(|a, b| a > b), first(|a, b| a < b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(upper: [f64; 3]) -> Preference {
        let [a, b, c] = upper;
        let scores = vec![vec![0.0, a, b], vec![-a, 0.0, c], vec![-b, -c, 0.0]];
        let mean = |row: &Vec<f64>| row.iter().sum::<f64>() / 3.0;
        Preference {
            mean_scores: scores.iter().map(mean).collect(),
            probabilities: scores
                .iter()
                .map(|row| row.iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect())
                .collect(),
            scores,
            ..Preference::default()
        }
    }

    #[test]
    fn verdicts_that_change_are_counted() {
        // 0 > 1 > 2 twice; then 1 and 2 change places.
        let (first, same, other) = (table([1.0, 2.0, 1.0]), table([3.0, 3.0, 1.0]), table([1.0, 2.0, -4.0]));
        let turned = table([-1.0, -2.0, -1.0]);
        let found = agreement("b".into(), 1, &[(&first, &same), (&first, &other), (&first, &turned)]);
        assert_eq!((found.best_changed, found.worst_changed, found.turned_round), (0, 1, 1));
        let found = agreement("b".into(), 1, &[(&first, &same), (&first, &other)]);
        assert_eq!((found.prompts, found.changed, found.same_best_and_worst), (2, 1, 0.5));
        assert!((found.same_winner.unwrap() - 5.0 / 6.0).abs() < 1e-12);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let wanted =
            (sigmoid(3.0) - sigmoid(1.0) + sigmoid(3.0) - sigmoid(2.0) + sigmoid(1.0) - sigmoid(-4.0)) / 6.0;
        assert!((found.difference.unwrap() - wanted).abs() < 1e-12);
    }
}
