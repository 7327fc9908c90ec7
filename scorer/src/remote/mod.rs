//! A reward server over HTTP: it is POSTed a row as JSON and answers as a user's program does.
//!
//! The body is `{"prompt_id", "prompt" or "messages", "responses": [K texts]}` with the other fields of the prompt's row; the answer is
//! `{"scores": [K]}` (or `"rewards"`, as other servers call them), s_ij = (r_i − r_j)/τ, or `{"table": [K][K]}` of P(i ≻ j). Rows go out many
//! at a time; what fails for a while is asked again. An answer that is none counts as such a failure, so that a server which
//! stumbles once does no harm.

mod settings;

use std::ops::ControlFlow;

use selfplay_client::{Answers, Client, JsonRequest, Transcript};
use selfplay_records::Candidates;
use serde_json::Value;

pub use self::settings::RemoteSettings;
use crate::command::{Judgement, judgement_of, question_fields};
use crate::conversation::conversation;
use crate::row_judge::RowJudge;
use crate::{CompareProgress, PreferenceModel, ScoreError};

/// Reads the key and opens the transcript; nothing is asked yet.
///
/// # Errors
/// Settings that are wrong, no key, a transcript that does not read.
pub(crate) fn load(settings: &RemoteSettings, factor: f64) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let transcript = settings.transcript.as_deref().map(Transcript::open).transpose()?;
    let client = Client::new(&settings.service, transcript)?;
    Ok(Box::new(RemoteModel { client, tau: settings.tau, factor }))
}

/// A server that compares.
struct RemoteModel {
    client: Client,
    tau: f64,
    factor: f64,
}

impl RowJudge for RemoteModel {
    type Judgement = Judgement;

    fn judge(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Judgement>, ScoreError> {
        let mut requests = Vec::with_capacity(rows.len());
        for row in rows {
            conversation(&row.prompt)?;
            let body = Value::Object(question_fields(row));
            requests.push(JsonRequest { path: String::new(), body, number: 0 });
        }
        // The answer's form depends on the row: how many responses it has, and its id.
        let shapes: Vec<Candidates> = rows.iter().map(shape).collect();
        let read = move |place: usize, answer: &Value| judgement_of(answer, &shapes[place]);
        let mut on_answers = |answered: usize| -> ControlFlow<()> { progress(answered) };
        let (Answers::All(judged) | Answers::Stopped(judged)) =
            self.client.ask(requests, read, &mut on_answers)?;
        Ok(judged)
    }

    fn score(&self, judged: &Judgement, i: usize, j: usize) -> f64 {
        judged.score(i, j, self.tau)
    }

    fn shown(&self, judged: &Judgement) -> Option<[f64; 2]> {
        judged.shown()
    }

    fn factor(&self) -> f64 {
        self.factor
    }
}

/// A row with its id and as many responses, without their texts.
fn shape(row: &Candidates) -> Candidates {
    let prompt = selfplay_records::Prompt { prompt_id: row.prompt.prompt_id.clone(), ..Default::default() };
    Candidates { prompt, responses: vec![selfplay_records::Response::default(); row.responses.len()] }
}
