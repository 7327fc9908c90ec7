//! What can be wrong with candidates and preferences that are to become pairs.

use selfplay_records::{HasKind, Kind, Problems};

/// Wrong settings, rows that do not belong together, or rows that cannot be paired. The message names the row.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PairingError(PairingFault);

#[derive(Debug, thiserror::Error)]
pub(crate) enum PairingFault {
    /// Wrong values in `[pair]`, all of them.
    #[error("{0}")]
    Settings(Problems),
    /// A prompt without its preference row.
    #[error(
        "candidates row {row}: no preference row has prompt_id {prompt_id:?}; score these candidates with `selfplay score`"
    )]
    MissingPreference {
        /// 0-based number of the candidates' row.
        row: usize,
        /// Its prompt.
        prompt_id: String,
    },
    /// The same prompt twice in one file.
    #[error("{file} row {row}: prompt_id {prompt_id:?} is there twice; expected one row per prompt")]
    Twice {
        /// `candidates` or `preferences`.
        file: &'static str,
        /// 0-based number of the second row.
        row: usize,
        /// The prompt.
        prompt_id: String,
    },
    /// A preference row of other candidates.
    #[error(
        "preferences of prompt_id {prompt_id:?}: {field} has not {k} entries where the candidates have {k} responses; \
         they are of other candidates: score these with `selfplay score`"
    )]
    Shape {
        /// The prompt.
        prompt_id: String,
        /// `scores`, `probabilities`, `mean_scores` or `mean_probabilities`.
        field: &'static str,
        /// Responses of the candidates' row.
        k: usize,
    },
    /// A preference row of other responses to the same prompt.
    #[error(
        "preferences of prompt_id {prompt_id:?}: they compare other responses than the candidates hold \
         (candidates_digest {found:?}, and theirs is {expected:?}): score these candidates with `selfplay score`"
    )]
    OtherCandidates {
        /// The prompt.
        prompt_id: String,
        /// The preferences' digest.
        found: String,
        /// The candidates' digest.
        expected: String,
    },
    /// A score that is not a number.
    #[error("preferences of prompt_id {prompt_id:?}, response {response}: {field} is not finite")]
    NotFinite {
        /// The prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
        /// The field that holds it.
        field: &'static str,
    },
    /// A length filter over responses that have no ids to count.
    #[error(
        "candidates of prompt_id {prompt_id:?}, response {response}: no `ids`, which pair.min_tokens and \
         pair.max_tokens count; leave both out or give the ids"
    )]
    NoIds {
        /// The prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
    },
    /// A response to a prompt of token ids that has none itself, or an empty list of them.
    #[error(
        "candidates of prompt_id {prompt_id:?}, response {response}: {found}, and it is to be learnt from; give its `ids`{}",
        if *has_text { ", or leave them out" } else { ", or the prompt as text" }
    )]
    NotLearnable {
        /// The prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
        /// What it has in their place.
        found: &'static str,
        /// Whether the prompt and the response are there as text.
        has_text: bool,
    },
    /// A row without any prompt.
    #[error(
        "candidates of prompt_id {prompt_id:?}: no `prompt`, `messages` or `prompt_ids`; expected one of them"
    )]
    NoPrompt {
        /// The prompt.
        prompt_id: String,
    },
}

impl From<PairingFault> for PairingError {
    fn from(fault: PairingFault) -> Self {
        Self(fault)
    }
}

impl HasKind for PairingError {
    /// Always the input: this stage has no other way to fail.
    fn kind(&self) -> Kind {
        Kind::Input
    }
}
