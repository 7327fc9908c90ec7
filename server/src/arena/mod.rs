//! Two policies' answers to a prompt, side by side: what the preference model says, and what people say.

mod votes;

use std::path::Path;

use selfplay_records::{HasKind, Kind, Prompt, RecordError};
use selfplay_scorer::{Contest, PreferenceModel};

use votes::Votes;
pub(crate) use votes::{Vote, VotedAnswer, Winning};

/// The page of `/arena`.
pub(crate) const PAGE: &str = include_str!("page.html");

/// A preference model, where there is one, and a file of votes.
pub struct Arena {
    model: Option<Box<dyn PreferenceModel>>,
    votes: Votes,
}

impl Arena {
    /// An arena whose votes go to a file, which is made with the first vote, or to the end of an earlier arena's.
    ///
    /// # Errors
    /// A file of something else than votes.
    pub fn new(model: Option<Box<dyn PreferenceModel>>, votes: &Path) -> Result<Self, RecordError> {
        Votes::check(votes)?;
        Ok(Self { model, votes: Votes::new(votes) })
    }

    /// Whether it has a preference model.
    pub(crate) fn judges(&self) -> bool {
        self.model.is_some()
    }

    /// P(first ≻ second).
    ///
    /// # Errors
    /// The model's, with whose fault it is; no model.
    pub(crate) fn probability(&self, prompt: &str, first: &str, second: &str) -> Result<f64, (Kind, String)> {
        let Some(model) = &self.model else { return Err((Kind::Input, "no preference model".to_owned())) };
        let contest = Contest {
            prompt: Prompt {
                prompt_id: "arena".to_owned(),
                prompt: Some(prompt.to_owned()),
                ..Prompt::default()
            },
            first: first.to_owned(),
            second: second.to_owned(),
        };
        let won = model.win_probabilities(&[contest]).map_err(|error| (error.kind(), error.to_string()))?;
        won.first().copied().ok_or_else(|| (Kind::Defect, "the preference model gave no verdict".to_owned()))
    }

    /// Keeps a vote; returns how many were kept by this process.
    ///
    /// # Errors
    /// The file system's, in words.
    pub(crate) fn keep(&self, vote: &Vote) -> Result<usize, String> {
        self.votes.keep(vote).map_err(|error| error.to_string())
    }
}
