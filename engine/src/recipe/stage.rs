//! Which stage of an iteration reads a key.

/// The stages of an iteration, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Prompts → candidates.
    Candidates,
    /// Candidates → preferences.
    Preferences,
    /// Preferences → pairs.
    Pairs,
    /// Pairs → policy.
    Policy,
    /// What is measured of the new policy.
    Report,
}

/// The first stage whose results change with `key` (`section.key`); `None` where no stage of a run reads it
/// (`name`, `iterations`, `[log]`, `[ranks]`, `[sft]`, `[preference]`).
pub fn stage_of(key: &str) -> Option<Stage> {
    let section = key.split('.').next().unwrap_or(key);
    match (section, key) {
        // The prompts held out for evaluation are kept out of training where they come from the split itself.
        (_, "seed" | "eval.prompts" | "eval.max_prompts") => Some(Stage::Candidates),
        ("policy" | "prompts" | "sample", _) => Some(Stage::Candidates),
        ("score", _) => Some(Stage::Preferences),
        // Earlier candidates are compared too.
        (_, "pair.opponents") => Some(Stage::Preferences),
        ("pair", _) => Some(Stage::Pairs),
        ("train", _) => Some(Stage::Policy),
        ("eval", _) => Some(Stage::Report),
        _ => None,
    }
}
