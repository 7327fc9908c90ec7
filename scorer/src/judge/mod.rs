//! A judge: a chat model that is asked, by a rubric, which of two responses is better.
//!
//! Each pair is asked in both orders: P(i ≻ j) = (P(A | i, j) + 1 − P(A | j, i)) / 2, s = logit P with P kept 1e-6 away from 0 and 1.
//! P(A) comes from the log-probs of "A" and "B", or from the text of the answer: 1, 0, or ½ for a tie. An answer without a verdict is asked
//! about once more in the same conversation; where that gives none either, it is a tie, and counted. Responses with the same text tie
//! without being asked about.
//!
//! Who answers: a service (kept in a transcript, so that nothing is asked twice), a model of ours by log-probs (all questions of a
//! pass at once: `pair_lm`), or a model of ours that writes, through a [`ChatWriter`] that the caller brings; its answers are kept as well
//! ([`KeptWriter`]).
//!
//! ```text
//! rubric    the question                     verdict       what an answer says           settings
//! service   an OpenAI-compatible endpoint    chat_writer   a model of ours that writes   kept_writer   the same, answers kept
//! ```

mod chat_writer;
mod kept_writer;
mod rubric;
mod service;
mod settings;
mod verdict;

use std::ops::ControlFlow;

use selfplay_records::{Candidates, Message};

pub use self::chat_writer::{AnswerTaker, ChatWriter};
pub use self::kept_writer::KeptWriter;
pub(crate) use self::rubric::Rubric;
use self::service::ServiceJudge;
pub use self::settings::JudgeSettings;
pub use self::verdict::VerdictForm;
use crate::logit::logit;
use crate::row_judge::RowJudge;
use crate::{CompareProgress, Footprint, PreferenceModel, ScoreError};

/// What follows an answer without a verdict.
const AGAIN_BY_TEXT: &str = "Give the verdict alone: [[A]], [[B]] or [[C]].";
const AGAIN_BY_LETTER: &str = "Reply with one letter, A or B.";

/// A judge that a service answers for. What s is multiplied by in what is stored is `factor`.
///
/// # Errors
/// A rubric that does not read; settings of the service that are wrong; a transcript that does not open.
pub(crate) fn load_service(
    settings: &JudgeSettings,
    factor: f64,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let rubric = Rubric::load(settings.template.as_deref(), settings.verdict)?;
    let source = VerdictSource::Service(Box::new(ServiceJudge::open(settings)?));
    Ok(Box::new(Judge { rubric, source, factor }))
}

/// A judge that writes its answers.
///
/// # Errors
/// A rubric that does not read.
pub(crate) fn load_writer(
    settings: &JudgeSettings,
    factor: f64,
    writer: KeptWriter,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let rubric = Rubric::load(settings.template.as_deref(), settings.verdict)?;
    let source = VerdictSource::Writer { writer, most_tokens: settings.verdict_tokens };
    Ok(Box::new(Judge { rubric, source, factor }))
}

/// Who answers.
enum VerdictSource {
    Service(Box<ServiceJudge>),
    Writer { writer: KeptWriter, most_tokens: usize },
}

/// An answer with what it says.
pub(crate) struct JudgeAnswer {
    /// Its text.
    pub(crate) text: String,
    /// P(A); `None` without a verdict.
    pub(crate) p_first: Option<f64>,
}

impl VerdictSource {
    /// The answers at the front, all of them unless `progress` stops.
    fn answer(
        &self,
        conversations: &[Vec<Message>],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<JudgeAnswer>, ScoreError> {
        match self {
            Self::Service(service) => service.answer(conversations, progress),
            Self::Writer { writer, most_tokens } => {
                let texts = writer.write(conversations, *most_tokens, progress)?;
                let read = |text: String| JudgeAnswer { p_first: verdict::of_text(&text), text };
                Ok(texts.into_iter().map(read).collect())
            }
        }
    }

    fn again(&self) -> &'static str {
        match self {
            Self::Service(service) => service.again(),
            Self::Writer { .. } => AGAIN_BY_TEXT,
        }
    }
}

/// A judge at work.
struct Judge {
    rubric: Rubric,
    source: VerdictSource,
    factor: f64,
}

/// P(A) of each ordered pair of a row, \[K]\[K]; ½ on the diagonal.
struct JudgedRow(Vec<Vec<f64>>);

impl JudgedRow {
    /// P(i ≻ j), freed of the order.
    fn probability(&self, i: usize, j: usize) -> f64 {
        (self.0[i][j] + 1.0 - self.0[j][i]) / 2.0
    }
}

impl Judge {
    /// Asks about every ordered pair of each row; after a stop, the complete rows at the front.
    fn ask(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<JudgedRow>, ScoreError> {
        let mut places = Vec::new();
        let mut conversations = Vec::new();
        // Questions before the end of each row.
        let mut ends = Vec::with_capacity(rows.len());
        for (number, row) in rows.iter().enumerate() {
            let k = row.responses.len();
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
                if i != j && row.responses[i].text != row.responses[j].text {
                    places.push((number, i, j));
                    conversations.push(vec![Message::user(self.rubric.of_row(row, i, j)?)]);
                }
            }
            ends.push(places.len());
        }
        let complete = |answered: usize| ends.iter().take_while(|&&end| end <= answered).count();
        let mut on_answers = |answered: usize| progress(complete(answered));
        let mut answers = self.source.answer(&conversations, &mut on_answers)?;
        let whole = answers.len() == conversations.len();
        if whole {
            self.ask_again(&conversations, &mut answers, &mut |_| ControlFlow::Continue(()))?;
        }
        let mut judged: Vec<JudgedRow> = rows
            .iter()
            .map(|row| JudgedRow(vec![vec![0.5; row.responses.len()]; row.responses.len()]))
            .collect();
        for (&(row, i, j), answer) in places.iter().zip(&answers) {
            judged[row].0[i][j] = answer.p_first.unwrap_or(0.5);
        }
        judged.truncate(if whole { rows.len() } else { complete(answers.len()) });
        Ok(judged)
    }

    /// Asks once more where an answer had no verdict.
    fn ask_again(
        &self,
        conversations: &[Vec<Message>],
        answers: &mut [JudgeAnswer],
        progress: &mut CompareProgress<'_>,
    ) -> Result<(), ScoreError> {
        let open: Vec<usize> = (0..answers.len()).filter(|&place| answers[place].p_first.is_none()).collect();
        if open.is_empty() {
            return Ok(());
        }
        let again = |&place: &usize| {
            let mut turns = conversations[place].clone();
            turns.push(Message::assistant(answers[place].text.as_str()));
            turns.push(Message::user(self.source.again()));
            turns
        };
        let longer: Vec<Vec<Message>> = open.iter().map(again).collect();
        let found = self.source.answer(&longer, progress)?;
        let mut silent = open.len() - found.len();
        for (place, answer) in open.iter().zip(found) {
            silent += usize::from(answer.p_first.is_none());
            answers[*place].p_first = answer.p_first;
        }
        if silent > 0 {
            tracing::warn!(
                "score.kind = \"judge\": {silent} of {} questions have no verdict, asked twice: they count as ties",
                answers.len()
            );
        }
        Ok(())
    }
}

impl RowJudge for Judge {
    type Judgement = JudgedRow;

    fn judge(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<JudgedRow>, ScoreError> {
        self.ask(rows, progress)
    }

    /// Each question is answered by itself.
    fn runs(&self, rows: &[Candidates]) -> Result<Vec<Vec<usize>>, ScoreError> {
        Ok((0..rows.len()).map(|row| vec![row]).collect())
    }

    fn score(&self, judged: &JudgedRow, i: usize, j: usize) -> f64 {
        logit(judged.probability(i, j))
    }

    fn shown(&self, judged: &JudgedRow) -> Option<[f64; 2]> {
        Some([judged.0[0][1], 1.0 - judged.0[1][0]])
    }

    fn factor(&self) -> f64 {
        self.factor
    }

    fn footprint(&self) -> Footprint {
        match &self.source {
            VerdictSource::Service(_) => Footprint::elsewhere(),
            VerdictSource::Writer { writer, .. } => writer.footprint(),
        }
    }
}

#[cfg(test)]
mod tests;
