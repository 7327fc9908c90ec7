//! Measuring policies on the held-out prompts.

use super::job::Job;
use super::measured::Measured;
use super::rows::StageTime;
use crate::plan::rates::{RatedStage, Work};

/// Measuring a policy on the held-out prompts: its answers, log-probs by two policies, two comparisons of each answer. The
/// starting policy answers too.
pub(in crate::plan) fn held_out(job: &Job<'_>, measured: &Measured<'_>) -> StageTime {
    held_out_by(job, measured, 1)
}

/// The same by so many GPUs, each with as many of the prompts.
pub(in crate::plan) fn held_out_by(job: &Job<'_>, measured: &Measured<'_>, gpus: usize) -> StageTime {
    let eval = &job.recipe.eval;
    let (prompts, samples) = (eval.max_prompts.div_ceil(gpus.max(1)) as f64, eval.num_samples as f64);
    let seconds = |stage, work: Work| measured.of(stage).map(|rate| job.seconds(stage, rate, work));
    let lengths = (job.lengths.prompt, job.lengths.response);
    let answers = seconds(RatedStage::Sample, job.sample(samples, prompts, job.own_bytes()));
    let log_probs = seconds(RatedStage::Reference, job.log_probs(lengths, samples) * (2.0 * prompts));
    let comparisons = if job.models.preference.is_elsewhere() {
        Some(0.0)
    } else {
        seconds(RatedStage::Score, job.score(2.0) * (2.0 * samples * prompts))
    };
    let each = [answers, log_probs, comparisons].into_iter().sum::<Option<f64>>();
    let whole = each.zip(answers).map(|(each, answers)| each * job.recipe.iterations as f64 + answers);
    StageTime { what: format!("{} held-out prompts", eval.max_prompts), seconds: each, whole }
}
