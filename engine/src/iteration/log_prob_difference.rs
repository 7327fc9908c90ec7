//! The sampler's log-probs against the trainer's, on the iteration's real candidates and the same weights.
//!
//! They come from two code paths (paged cache against packed forward) and must agree within 1e-4 in f32: a larger
//! difference means that the policy is trained on other probabilities than it was sampled with. Where rounded weights draw, or from
//! rounded keys and values (`sample.weights`, `sample.kv_cache_dtype = "fp8"`), the difference is theirs, and says what the rounding
//! changes.

use selfplay_model::Decoder;
use selfplay_records::Candidates;
use selfplay_sampler::SampleSettings;
use selfplay_trainer::{PromptResponse, log_probs};

use super::workspace::Iteration;
use crate::error::EngineError;
use crate::json_file::write_json;
use crate::run::events::Event;
use crate::run::summary::LogProbDifference;
use crate::stages::{Product, Workspace};

/// Response tokens that are compared, from the first shard on: enough for a maximum, a small part of a real run.
const TOKENS: usize = 16_384;

/// Compares and writes `log_prob_difference.json`, once per iteration.
///
/// # Errors
/// When a shard does not read, or the file cannot be written.
pub fn report(iteration: &Iteration<'_>, policy: &Decoder) -> Result<(), EngineError> {
    let path = iteration.dir.log_prob_difference_file();
    if path.is_file() || !iteration.dir.candidates_shard(0).is_file() {
        return Ok(());
    }
    let sampled = gather(&iteration.shards(Product::Candidates).read(0)?, TOKENS);
    let rows: Vec<PromptResponse> = sampled.iter().map(|one| one.row.clone()).collect();
    let computed = log_probs(policy, &rows, iteration.recipe().train.micro_batch_tokens.or_standard())?;
    let theirs = sampled.iter().flat_map(|one| &one.log_probs);
    let difference = compare(theirs.zip(computed.iter().flat_map(|row| &row.tokens)));
    write_json(&path, &difference)?;
    let LogProbDifference { tokens, mean, max, kl } = difference;
    let settings = &iteration.recipe().sample;
    let also = if settings.is_rounded() { format!(", KL about {kl:.1e}") } else { String::new() };
    let sampler = sampler_name(settings);
    iteration.progress().line(format!(
        "iteration {}: {sampler} and trainer differ by {mean:.1e} nats a token on average, {max:.1e} at most{also} ({tokens} tokens)",
        iteration.number
    ));
    iteration.record(Event::LogProbsCompared { iteration: iteration.number, tokens, mean, max, kl })
}

/// The sampler, with what it rounds.
fn sampler_name(settings: &SampleSettings) -> &'static str {
    match (settings.is_fp8(), settings.has_fp8_cache()) {
        (false, false) => "sampler",
        (true, false) => "sampler in FP8",
        (false, true) => "sampler with keys and values in FP8",
        (true, true) => "sampler in FP8, keys and values too,",
    }
}

/// A response with the sampler's log-probs.
struct SampledResponse {
    row: PromptResponse,
    log_probs: Vec<f32>,
}

/// Responses with ids and log-probs until `tokens` are reached.
fn gather(rows: &[Candidates], tokens: usize) -> Vec<SampledResponse> {
    let mut gathered = Vec::new();
    let mut count = 0;
    for row in rows {
        for response in &row.responses {
            let log_probs = response.sampler_logprobs.as_ref().or(response.logprobs.as_ref());
            let (Some(prompt), Some(ids), Some(log_probs)) =
                (&row.prompt.prompt_ids, &response.ids, log_probs)
            else {
                continue;
            };
            if count >= tokens {
                return gathered;
            }
            if ids.is_empty() || ids.len() != log_probs.len() {
                continue;
            }
            count += ids.len();
            let row = PromptResponse {
                name: row.prompt.prompt_id.clone(),
                prompt: prompt.clone(),
                response: ids.clone(),
            };
            gathered.push(SampledResponse { row, log_probs: log_probs.clone() });
        }
    }
    gathered
}

/// Mean and maximum of the absolute differences, and the divergence.
fn compare<'a>(tokens: impl Iterator<Item = (&'a f32, &'a f32)>) -> LogProbDifference {
    let mut difference = LogProbDifference::default();
    let (mut sum, mut kl) = (0.0, 0.0);
    for (sampler, trainer) in tokens {
        let log_ratio = f64::from(*trainer) - f64::from(*sampler);
        let apart = log_ratio.abs();
        // r − 1 − log r: never below 0, and KL(sampler ‖ trainer) in the mean over the sampler's draws.
        kl += log_ratio.exp_m1() - log_ratio;
        difference.tokens += 1;
        sum += apart;
        difference.max = difference.max.max(apart);
    }
    if difference.tokens > 0 {
        difference.mean = sum / difference.tokens as f64;
        difference.kl = kl / difference.tokens as f64;
    }
    difference
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Prompt, Response};

    use super::*;

    #[test]
    fn differences_by_hand() {
        let difference = compare([-1.0_f32, -2.0].iter().zip(&[-1.5_f32, -1.75]));
        // (e^-0.5 − 1 + 0.5 + e^0.25 − 1 − 0.25) / 2
        assert!((difference.kl - 0.070_278_038).abs() < 1e-8, "{}", difference.kl);
        assert_eq!(
            LogProbDifference { kl: 0.0, ..difference },
            LogProbDifference { tokens: 2, mean: 0.375, max: 0.5, kl: 0.0 }
        );
        assert_eq!(compare([].iter().zip(&[])), LogProbDifference::default());
    }

    #[test]
    fn responses_without_log_probs_are_left_out_and_tokens_bounded() {
        let response = |ids: Vec<u32>, logprobs: Option<Vec<f32>>| Response {
            ids: Some(ids),
            logprobs,
            ..Response::default()
        };
        let row = Candidates {
            prompt: Prompt { prompt_ids: Some(vec![1]), ..Prompt::default() },
            responses: vec![
                response(vec![2, 3], None),
                response(vec![2, 3], Some(vec![-1.0, -2.0])),
                response(vec![4], Some(vec![-1.0])),
                response(vec![5], Some(vec![-1.0])),
            ],
        };
        assert_eq!(gather(std::slice::from_ref(&row), 100).len(), 3);
        assert_eq!(gather(std::slice::from_ref(&row), 3).len(), 2);
    }
}
