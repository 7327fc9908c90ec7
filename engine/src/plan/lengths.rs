//! The lengths that a plan's times are given for: as long as the recipe allows.

use selfplay_model::Architecture;
use selfplay_records::ExampleKind;

use crate::recipe::Recipe;

/// The lengths that times are given for, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) prompt: usize,
    pub(crate) response: usize,
    /// Prompt and response as the preference model takes them.
    pub(super) scored: (usize, usize),
    /// Prompt and either response of a pair.
    pub(super) trained: (usize, usize),
    /// Responses that a step reads beside a prompt: two of a pair, all of a group.
    pub(super) responses: usize,
}

impl Lengths {
    pub(crate) fn of(recipe: &Recipe, policy: &Architecture) -> Self {
        let train = &recipe.train;
        let scored = recipe.score.settings.kind.read_tokens(usize::MAX);
        // Where the context is too short for both, a response's token costs the most: it is sampled, scored and trained
        // once for each response, a prompt's once for all of them.
        let response = recipe.sample.max_new_tokens.min(policy.max_positions.saturating_sub(1));
        let prompt = train.max_prompt_length.min(policy.max_positions - response);
        let scored_response = response.min(scored.saturating_sub(1));
        // A shorter prompt leaves both responses more room: this one leaves them just what they can take.
        let pair_prompt = prompt.min(train.max_length.saturating_sub(response));
        Self {
            prompt,
            response,
            scored: (prompt.min(scored - scored_response), scored_response),
            trained: (pair_prompt, response.min(train.max_length - pair_prompt)),
            responses: match train.loss.examples() {
                ExampleKind::Pairs | ExampleKind::Unpaired => 2,
                ExampleKind::Best => 1,
                ExampleKind::Groups => recipe.sample.num_samples,
            },
        }
    }

    /// What a step's rows are called.
    pub(crate) fn rows(&self) -> &'static str {
        if self.responses == 2 { "pairs" } else { "examples" }
    }

    /// Tokens of a pair, or of what the loss has in its place, its prompt once.
    pub(crate) fn pair(&self) -> usize {
        self.trained.0 + self.responses * self.trained.1
    }
}
