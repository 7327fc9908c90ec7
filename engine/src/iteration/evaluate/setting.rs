//! How held-out prompts are answered, and what messages call it.

use selfplay_sampler::SampleSettings;

use crate::iteration::session::Session;

/// The iteration number that keys the randomness of held-out samples: no training iteration has it.
const EVAL_STREAM: u64 = 1 << 32;

/// How held-out prompts are answered.
pub(super) fn settings_of(session: &Session) -> SampleSettings {
    let eval = &session.recipe.eval;
    SampleSettings {
        num_samples: eval.num_samples,
        temperature: eval.temperature,
        seed: session.recipe.seed,
        iteration: EVAL_STREAM,
        ..session.recipe.sample.clone().with_own_weights()
    }
}

/// What messages call the evaluation of a policy.
pub(super) fn title(iteration: usize) -> String {
    if iteration == 0 { "start".to_owned() } else { format!("iteration {iteration}") }
}

/// What ranks call it among each other.
pub(super) fn shared_name(iteration: usize) -> String {
    format!("evaluation_{iteration:02}")
}
