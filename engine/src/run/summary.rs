//! Numbers of a run as plain data: what `eval.json`, `summary.json` and `show --json` hold.

use std::collections::BTreeMap;

use selfplay_evaluation::suites::average::Average;
use serde::{Deserialize, Serialize};

/// `eval.json`: a policy on the held-out prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Held-out prompts.
    pub prompts: usize,
    /// Responses, `eval.num_samples` per prompt.
    pub responses: usize,
    /// Mean length of a response's text in characters.
    pub characters: f64,
    /// Mean number of a response's tokens, its stop token included.
    pub tokens: f64,
    /// Share of responses that the length limit ended.
    pub length_limited: f64,
    /// Share of right responses; absent without a checker.
    pub eval_accuracy: Option<f64>,
    /// Mean P(new ≻ old), old = the policy that the iteration started from; absent of the starting policy.
    pub win_rate_start: Option<f64>,
    /// Mean P(new ≻ first), first = the policy that the run started from.
    pub win_rate_first: Option<f64>,
    /// Standard error of `win_rate_start`.
    #[serde(default)]
    pub win_rate_error: Option<f64>,
    /// `win_rate_start` if the answers were equally long, by AlpacaEval's regression on lengths alone; absent of fewer than five contests.
    #[serde(default)]
    pub lc_win_rate_start: Option<f64>,
    /// `win_rate_first` in the same way.
    #[serde(default)]
    pub lc_win_rate_first: Option<f64>,
    /// Mean of log π_new − log π_old over the responses, summed over their tokens, in nats.
    pub kl: Option<f64>,
}

/// `eval_wins.json`: P(new ≻ old) of each held-out answer, in the order of the answers (prompt by prompt, sample by sample).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationWins {
    /// Against the policy that the iteration started from.
    pub start: Vec<f64>,
    /// Against the policy that the run started from.
    pub first: Vec<f64>,
}

/// `log_prob_difference.json`: the sampler's log-probs against the trainer's on the same tokens and weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogProbDifference {
    /// Tokens that were compared.
    pub tokens: usize,
    /// Mean of the absolute differences, in nats.
    pub mean: f64,
    /// The largest of them.
    pub max: f64,
    /// An estimate of KL(sampler ‖ policy) a token, in nats: the mean of r − 1 − log r for r = policy / sampler (temperature 1) over the
    /// sampled tokens.
    #[serde(default)]
    pub kl: f64,
}

/// `summary.json`: an iteration's line in `show`.
///
/// Lengths, win rates, kl and accuracy are of the held-out prompts; `mean_score` and `cyclic` are of the
/// iteration's candidates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IterationSummary {
    /// From 1.
    pub iteration: usize,
    /// Mean over the pairs of ŝ_w, the chosen response's mean score against all K.
    pub mean_score: Option<f64>,
    /// Mean P(new ≻ old) on the held-out prompts.
    pub win_rate_start: Option<f64>,
    /// Mean P(new ≻ first policy) on the held-out prompts.
    pub win_rate_first: Option<f64>,
    /// Standard error of `win_rate_start`.
    #[serde(default)]
    pub win_rate_error: Option<f64>,
    /// `win_rate_start` if the answers were equally long.
    #[serde(default)]
    pub lc_win_rate_start: Option<f64>,
    /// `win_rate_first` if the answers were equally long.
    #[serde(default)]
    pub lc_win_rate_first: Option<f64>,
    /// What is to be said where answers grew and the length-controlled win rate did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_warning: Option<String>,
    /// Mean characters of a held-out response.
    pub characters: Option<f64>,
    /// Mean tokens of a held-out response.
    pub tokens: Option<f64>,
    /// Share of held-out responses that the length limit ended.
    pub length_limited: Option<f64>,
    /// Share of the iteration's prompts with a preference cycle among three candidates.
    pub cyclic: Option<f64>,
    /// Mean log π_new − log π_old over held-out responses, in nats.
    pub kl: Option<f64>,
    /// Loss of the first optimizer step.
    pub loss_first: Option<f64>,
    /// Loss of the last optimizer step.
    pub loss_last: Option<f64>,
    /// Largest difference between the sampler's and the trainer's log-prob of a token, in nats.
    pub logprob_difference: Option<f64>,
    /// The mean of these differences.
    pub logprob_difference_mean: Option<f64>,
    /// An estimate of KL(sampler ‖ policy) a token, in nats.
    #[serde(default)]
    pub logprob_difference_kl: Option<f64>,
    /// Share of right held-out responses; absent without a checker.
    pub eval_accuracy: Option<f64>,
    /// Wall clock of all processes that worked on the iteration.
    pub seconds: f64,
    /// Prompts that were sampled.
    pub prompts: usize,
    /// Rows of the split that were left out for want of a usable prompt.
    pub skipped_prompts: usize,
    /// Candidates over all prompts.
    pub candidates: usize,
    /// Mean characters of a candidate.
    pub candidate_characters: Option<f64>,
    /// Mean tokens of a candidate.
    pub candidate_tokens: Option<f64>,
    /// Pairs that were trained on.
    pub pairs: usize,
    /// Pairs that were cut to fit `train.max_length`.
    pub truncated_pairs: usize,
    /// Pairs that the cut left nothing of: they were not trained on.
    #[serde(default)]
    pub skipped_pairs: usize,
    /// Pairs whose two responses are the same tokens after every cut: they teach no preference.
    #[serde(default)]
    pub identical_pairs: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Tokens of a training pass at most, where it is not `train.micro_batch_tokens` that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
}

/// `start` of `show --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartSummary {
    /// Share of right held-out responses of the starting policy; absent without a checker.
    pub eval_accuracy: Option<f64>,
    /// Mean characters.
    pub characters: Option<f64>,
    /// Mean tokens.
    pub tokens: Option<f64>,
}

/// `show --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The recipe's name.
    pub name: String,
    /// The run folder.
    pub directory: String,
    /// Wanted iterations.
    pub wanted: usize,
    /// Whether all are finished.
    pub finished: bool,
    /// Where the run was branched from, `FOLDER iteration_NN/stage`.
    pub branched_from: Option<String>,
    /// The starting policy on the held-out prompts.
    pub start: StartSummary,
    /// Finished iterations, in order.
    pub iterations: Vec<IterationSummary>,
    /// What `selfplay evaluate` found of the run's policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluations: Vec<EvaluationSummary>,
}

/// A suite's figures of one policy of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationSummary {
    /// From 1; 0 is the starting policy.
    pub iteration: usize,
    /// The suite.
    pub suite: String,
    /// Its rows.
    pub rows: usize,
    /// Its figures, by name.
    pub metrics: BTreeMap<String, Average>,
}

/// The mean, or nothing of nothing.
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut count = 0_usize;
    let mut sum = 0.0;
    for value in values {
        count += 1;
        sum += value;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_keys_are_there_and_null_where_unknown() {
        let run = RunSummary { iterations: vec![IterationSummary::default()], ..RunSummary::default() };
        let value = serde_json::to_value(&run).unwrap();
        for key in ["eval_accuracy", "characters", "tokens"] {
            assert!(value["start"].as_object().unwrap().contains_key(key), "{key}");
        }
        let keys = "iteration mean_score win_rate_start win_rate_first characters tokens length_limited cyclic kl \
                    loss_first loss_last logprob_difference eval_accuracy seconds";
        for key in keys.split_whitespace() {
            assert!(value["iterations"][0].as_object().unwrap().contains_key(key), "{key}");
        }
        assert!(value["iterations"][0]["eval_accuracy"].is_null());
    }

    #[test]
    fn a_mean_of_nothing_is_nothing() {
        assert_eq!(mean([]), None);
        assert_eq!(mean([1.0, 2.0]), Some(1.5));
    }
}
