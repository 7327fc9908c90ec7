//! What is made: an instruction with its answer, or a pair of answers to a prompt.

use selfplay_records::{FinishReason, Message};
use serde_json::{Map, Value, json};

use super::question::ModelReply;

/// A row, before and after the filters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SynthesizedRow {
    /// Of its own in the output.
    pub(super) id: String,
    /// The conversation up to the answer.
    pub(super) prompt: Vec<Message>,
    /// The answer; of a pair the chosen one.
    pub(super) response: Answer,
    /// The rejected answer of a pair.
    pub(super) rejected: Option<Answer>,
    /// The seed that it came from, where it came from one.
    pub(super) seed: Option<String>,
    /// A right answer to hold it against, where the seed has one.
    pub(super) reference: Option<String>,
}

/// An answer with what a judge says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Whether it ended because of its length.
    pub(super) is_cut: bool,
    /// Why there is none.
    pub(super) refused: Option<String>,
    pub(super) verdict: Option<Verdict>,
}

/// A judge's score, with its reason.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) score: f64,
    pub(super) reason: String,
}

/// A row that is not kept, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LeftOut {
    pub(super) row: SynthesizedRow,
    pub(super) reason: LeftOutReason,
    /// What in particular: the row that it is a duplicate of, the server's words.
    pub(super) detail: Option<String>,
}

/// Why a row is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeftOutReason {
    /// There is no answer: the question does not fit the model's context, or the server refuses it.
    Unanswerable,
    /// An answer ended because of its length.
    Cut,
    /// The prompt or an answer is shorter than the filter allows.
    TooShort,
    /// The prompt or an answer is longer than the filter allows.
    TooLong,
    /// Both answers of a pair are the same.
    SameAnswers,
    /// Its prompt is nearly another one's.
    NearDuplicate,
    /// The judge's reply has no score.
    NoVerdict,
    /// The judge's score is too low.
    LowScore,
    /// The judge does not think the chosen answer enough better than the rejected one.
    LowMargin,
}

impl LeftOutReason {
    /// In `counts.json` and `left_out.jsonl`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unanswerable => "unanswerable",
            Self::Cut => "cut_off",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::SameAnswers => "same_answers",
            Self::NearDuplicate => "near_duplicate",
            Self::NoVerdict => "no_verdict",
            Self::LowScore => "low_score",
            Self::LowMargin => "low_margin",
        }
    }
}

impl Answer {
    /// A model's.
    pub(super) fn of(reply: ModelReply) -> Self {
        Self {
            text: reply.text.trim().to_owned(),
            is_cut: reply.finish_reason == Some(FinishReason::Length),
            refused: reply.refused,
            verdict: None,
        }
    }

    /// A seed's own.
    pub(super) fn given(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

impl SynthesizedRow {
    /// The user's last turn: what near duplicates are looked for in.
    pub(super) fn instruction(&self) -> &str {
        self.prompt.iter().rev().find(|turn| turn.role == "user").map_or("", |turn| turn.content.as_str())
    }

    /// The answers, the chosen one first.
    pub(super) fn answers(&self) -> impl Iterator<Item = &Answer> {
        std::iter::once(&self.response).chain(&self.rejected)
    }

    /// As a line of `instructions.jsonl` or `pairs.jsonl`.
    pub(super) fn to_json(&self, method: &str) -> Value {
        let mut row = Map::new();
        row.insert("prompt_id".to_owned(), self.id.as_str().into());
        let with = |answer: &Answer| {
            let mut turns = self.prompt.clone();
            turns.push(Message::assistant(&answer.text));
            json!(turns)
        };
        match &self.rejected {
            Some(rejected) => {
                row.insert("prompt".to_owned(), json!(self.prompt));
                row.insert("chosen".to_owned(), with(&self.response));
                row.insert("rejected".to_owned(), with(rejected));
                verdict(&mut row, "chosen_judge", &self.response);
                verdict(&mut row, "rejected_judge", rejected);
            }
            None => {
                row.insert("messages".to_owned(), with(&self.response));
                verdict(&mut row, "judge", &self.response);
            }
        }
        row.insert("method".to_owned(), method.into());
        if let Some(seed) = &self.seed {
            row.insert("seed_id".to_owned(), seed.as_str().into());
        }
        row.into()
    }

    /// As a line of `prompts.jsonl`.
    pub(super) fn prompt_json(&self) -> Value {
        json!({"prompt_id": self.id, "messages": self.prompt})
    }
}

fn verdict(row: &mut Map<String, Value>, name: &str, answer: &Answer) {
    if let Some(verdict) = &answer.verdict {
        row.insert(format!("{name}_score"), verdict.score.into());
        row.insert(format!("{name}_reason"), verdict.reason.as_str().into());
    }
}

impl LeftOut {
    pub(super) fn new(row: SynthesizedRow, reason: LeftOutReason, detail: Option<String>) -> Self {
        Self { row, reason, detail }
    }

    /// As a line of `left_out.jsonl`: the row, with the reason.
    pub(super) fn to_json(&self, method: &str) -> Value {
        let mut row = self.row.to_json(method);
        row["left_out"] = self.reason.name().into();
        if let Some(detail) = &self.detail {
            row["detail"] = detail.as_str().into();
        }
        row
    }
}
