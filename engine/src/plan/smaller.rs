//! Settings of a training that take less memory and give the same result.

use selfplay_trainer::{Recompute, TrainSettings};

use super::memory;

/// The keys, without their section, and the settings with them; the least change first.
pub(crate) fn smaller(settings: &TrainSettings) -> Vec<(Vec<String>, TrainSettings)> {
    let mut found = Vec::new();
    let mut set = Vec::new();
    let mut settings = settings.clone();
    if settings.recompute == Recompute::Never {
        settings.recompute = Recompute::Always;
        set.push("recompute=true".to_owned());
        found.push((set.clone(), settings.clone()));
    }
    let mut tokens = settings.micro_batch_tokens.or_standard();
    while tokens > memory::longest_pair(&settings).max(1) {
        tokens /= 2;
        settings.micro_batch_tokens = tokens.into();
        let tokens = format!("micro_batch_tokens={tokens}");
        found.push((set.iter().cloned().chain([tokens]).collect(), settings.clone()));
    }
    found
}
