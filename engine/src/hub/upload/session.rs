//! Requests of a push, and what the statuses of their answers mean.

use serde_json::Value;

use super::super::HubError;
use super::super::address::{Address, percent_encoded};
use super::super::body::RequestBody;
use super::super::client::{HttpResponse, HubCall, HubClient, TryFailure};
use super::super::error::shown;
use super::PushTarget;

/// The largest answer that is read.
const ANSWER: usize = 16 << 20;

/// Bytes of an error's text that are read.
const ERROR_TEXT: usize = 1 << 16;

/// JSON, as the hub's own interface wants it.
pub(super) const JSON: &str = "application/json";

/// A push at work.
pub(super) struct PushSession<'a> {
    pub(super) client: &'a HubClient,
    pub(super) target: &'a PushTarget,
}

/// An answer that is no failure.
pub(super) struct PushAnswer {
    pub(super) status: u16,
    /// Null where it is no JSON.
    pub(super) body: Value,
}

impl PushSession<'_> {
    /// A path of the hub's interface.
    pub(super) fn address(&self, path: &str) -> Address {
        self.client.endpoint.address.under(path)
    }

    /// The repository's page.
    pub(super) fn page(&self) -> String {
        self.address(&format!("/{}", self.target.id)).url()
    }

    /// The branch, as a part of a path.
    pub(super) fn revision(&self) -> String {
        percent_encoded(self.branch(), "")
    }

    /// The branch.
    pub(super) fn branch(&self) -> &str {
        self.target.revision.as_deref().unwrap_or("main")
    }

    /// Asks the hub's own interface until it answers with success or with a status of `expected`.
    pub(super) fn ask(
        &self,
        method: &'static str,
        path: &str,
        content_type: &str,
        body: &[u8],
        expected: &[u16],
    ) -> Result<PushAnswer, HubError> {
        let what = self.target.id.clone();
        self.client.persist(&what, || {
            let mut headers = vec![("accept", content_type_of_answer(content_type).to_owned())];
            let body = match method {
                "GET" => RequestBody::None,
                _ => {
                    headers.push(("content-type", content_type.to_owned()));
                    RequestBody::Bytes(body.to_vec())
                }
            };
            let call = HubCall { method, headers, body };
            let answer = self.client.exchange(&what, self.address(path), call)?;
            self.read(&what, &answer, expected)
        })
    }

    /// The answer's JSON; a failure where its status is neither success nor `expected`.
    pub(super) fn read(
        &self,
        what: &str,
        answer: &HttpResponse,
        expected: &[u16],
    ) -> Result<PushAnswer, TryFailure> {
        let status = answer.head.status;
        if !(200..300).contains(&status) && !expected.contains(&status) {
            return Err(self.refusal(what, answer));
        }
        let text = self.client.whole(what, answer, ANSWER)?;
        Ok(PushAnswer { status, body: serde_json::from_slice(&text).unwrap_or_default() })
    }

    /// What a status other than success means.
    pub(super) fn refusal(&self, what: &str, answer: &HttpResponse) -> TryFailure {
        let status = answer.head.status;
        let by_hub = self.client.endpoint.address.same_server(&answer.address);
        let said = self.words(what, answer);
        let refused = |advice| {
            let (what, answer) = (what.to_owned(), format!("{status}{said}"));
            TryFailure::Final(HubError::PushRefused { what, answer, advice })
        };
        match status {
            408 | 425 | 429 | 500..=599 => self.busy(what, answer),
            // A signed address that has expired: the batch is asked for another one.
            _ if !by_hub => self.busy(what, answer),
            301 | 302 | 303 | 307 | 308 => {
                refused("the repository was renamed, or HF_ENDPOINT is another's: name the new one with --to")
            }
            401 => refused("the token is wrong or has expired: set HF_TOKEN to a token that may write"),
            403 => refused("the token may not write there: check --to and the token's rights"),
            404 => refused("no such repository or branch: check --to and --revision"),
            409 | 412 => TryFailure::Final(HubError::PushConflict {
                what: what.to_owned(),
                answer: format!("{status}{said}"),
            }),
            413 => refused("a file is larger than the hub takes: write smaller shards"),
            _ => refused("check --to, --revision and the files"),
        }
    }

    /// A failure that may pass.
    fn busy(&self, what: &str, answer: &HttpResponse) -> TryFailure {
        let asked = answer.head.number("retry-after").map(std::time::Duration::from_secs);
        let server = answer.address.server();
        let problem = match answer.head.status {
            429 => "is busy (429)".to_owned(),
            status => format!("({server}) answers {status}"),
        };
        TryFailure::Passing(HubError::Busy { what: what.to_owned(), problem }, asked)
    }

    /// The message of an error's body, where it has one.
    fn words(&self, what: &str, answer: &HttpResponse) -> String {
        let code = answer.head.header("x-error-code").map(|code| format!(" {}", shown(code)));
        let text = self.client.whole(what, answer, ERROR_TEXT).unwrap_or_default();
        let body: Value = serde_json::from_slice(&text).unwrap_or_default();
        let message = body["error"].as_str().or(body["message"].as_str());
        let message = message.map(|message| format!(" {}", shown(message)));
        code.unwrap_or_default() + &message.unwrap_or_default()
    }
}

/// What is accepted in answer to a body of this type.
fn content_type_of_answer(content_type: &str) -> &str {
    if content_type.contains("ndjson") { JSON } else { content_type }
}
