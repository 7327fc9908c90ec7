//! One try: a request is sent, its answer read.

use std::time::{Duration, SystemTime};

use selfplay_records::shown::quoted;
use serde_json::Value;

use crate::address::EndpointAddress;
use crate::{ClientError, ClientSettings, Secret, retry};

/// Time in which a connection is made.
const CONNECT: Duration = Duration::from_secs(20);

/// Bytes of an answer at most.
const MOST_BYTES: u64 = 256 << 20;

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum RequestFailure {
    /// Another try may succeed, after the pause that the server asks for.
    Passing { problem: String, asked: Option<Duration> },
    /// No other try will.
    Final(ClientError),
}

impl RequestFailure {
    pub(crate) fn passing(problem: impl Into<String>) -> Self {
        Self::Passing { problem: problem.into(), asked: None }
    }
}

/// What sends requests: connections, the key, time-outs.
#[derive(Clone, Debug)]
pub(crate) struct JsonExchange {
    agent: ureq::Agent,
    secret: Option<Secret>,
}

impl JsonExchange {
    pub(crate) fn new(settings: &ClientSettings, secret: Option<Secret>) -> Self {
        let whole = Duration::from_secs_f64(settings.timeout_s);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The key goes to the address that the user named, and nowhere else.
            .max_redirects(0)
            .user_agent(concat!("selfplay/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections_per_host(settings.concurrency)
            .max_idle_connections(settings.concurrency * settings.endpoints.len().max(1))
            .timeout_connect(Some(CONNECT.min(whole)))
            .timeout_global(Some(whole))
            .build();
        Self { agent: config.new_agent(), secret }
    }

    /// POSTs `body`, or GETs where there is none. Returns the answer as JSON, without the key should the server repeat it.
    pub(crate) fn send(
        &self,
        address: &EndpointAddress,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, RequestFailure> {
        let text = self.send_for_text(address, path, body)?;
        serde_json::from_str(&text).map_err(|error| {
            RequestFailure::passing(format!("the answer is no JSON ({error}): {}", quoted(&text)))
        })
    }

    /// As [`JsonExchange::send`], for an answer that may be any text.
    pub(crate) fn send_for_text(
        &self,
        address: &EndpointAddress,
        path: &str,
        body: Option<&Value>,
    ) -> Result<String, RequestFailure> {
        let url = address.below(path);
        let response = match body {
            Some(body) => {
                let mut request = self.agent.post(&url).header("content-type", "application/json");
                if let Some(secret) = &self.secret {
                    request = request.header("authorization", secret.authorization());
                }
                request.send(body.to_string().as_bytes())
            }
            None => {
                let mut request = self.agent.get(&url);
                if let Some(secret) = &self.secret {
                    request = request.header("authorization", secret.authorization());
                }
                request.call()
            }
        };
        let response = response.map_err(|error| failure_of(&url, &error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let asked = header("retry-after").and_then(|text| retry::asked(text, SystemTime::now()));
        let bytes = response.into_body().into_with_config().limit(MOST_BYTES).read_to_vec();
        let bytes = bytes.map_err(|error| match failure_of(&url, &error) {
            RequestFailure::Passing { problem, .. } => RequestFailure::Passing { problem, asked },
            last => last,
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let text = self.secret.as_ref().map_or(text.as_ref().into(), |secret| secret.redacted(&text));
        if (200..300).contains(&status) {
            return Ok(text.into_owned());
        }
        Err(refusal(url, status, &text, asked))
    }
}

/// What a status other than success means.
fn refusal(url: String, status: u16, text: &str, asked: Option<Duration>) -> RequestFailure {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let answer = message_of(&body).map_or_else(|| quoted(text.trim()), quoted);
    // OpenAI answers 429 both when asked too fast and when nothing is left to pay with.
    let used_up = body["error"]["code"] == "insufficient_quota";
    let waits_too_long = asked.is_some_and(|asked| asked > retry::LONGEST_ASKED);
    match status {
        408 | 425 | 429 | 500..=599 if !used_up && !waits_too_long => {
            RequestFailure::Passing { problem: format!("status {status}: {answer}"), asked }
        }
        429 | 500..=599 if waits_too_long => {
            let seconds = asked.unwrap_or_default().as_secs();
            let answer = format!("{answer}; it asks to be left alone for {seconds} s");
            RequestFailure::Final(ClientError::Refused { url, status, answer })
        }
        _ => RequestFailure::Final(ClientError::Refused { url, status, answer }),
    }
}

/// The message in an error's body, in the layouts that servers have.
fn message_of(body: &Value) -> Option<&str> {
    [&body["error"]["message"], &body["error"], &body["message"], &body["detail"]]
        .into_iter()
        .find_map(Value::as_str)
}

fn failure_of(url: &str, error: &ureq::Error) -> RequestFailure {
    use ureq::Error;
    RequestFailure::passing(match error {
        Error::Io(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::UnexpectedEof => "the connection ended early".to_owned(),
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
            _ => error.to_string(),
        },
        Error::HostNotFound => "no such host".to_owned(),
        Error::Timeout(_) => "no answer in time".to_owned(),
        Error::Protocol(error) => format!("not HTTP: {error}"),
        Error::BodyExceedsLimit(_) => "the answer is too long".to_owned(),
        Error::ConnectProxyFailed(_) | Error::InvalidProxyUrl => "the proxy refuses".to_owned(),
        Error::Rustls(error) => return untrusted(url, format!("TLS: {error}")),
        Error::Tls(problem) => return untrusted(url, format!("TLS: {problem}")),
        _ => "the connection failed".to_owned(),
    })
}

fn untrusted(url: &str, problem: String) -> RequestFailure {
    RequestFailure::Final(ClientError::Untrusted { url: url.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_pass_or_end_the_work() {
        let passes = |status, text: &str, asked| {
            matches!(refusal("http://a".into(), status, text, asked), RequestFailure::Passing { .. })
        };
        for status in [408, 425, 429, 500, 502, 503, 504, 529] {
            assert!(passes(status, "", None), "{status}");
        }
        for status in [300, 307, 400, 401, 403, 404, 422] {
            assert!(!passes(status, "", None), "{status}");
        }
        assert!(!passes(429, r#"{"error": {"code": "insufficient_quota"}}"#, None));
        assert!(!passes(503, "", Some(Duration::from_secs(3600))));
    }

    #[test]
    fn the_servers_message_is_found_in_every_layout() {
        for text in [
            r#"{"error": {"message": "no"}}"#,
            r#"{"error": "no"}"#,
            r#"{"message": "no"}"#,
            r#"{"detail": "no"}"#,
            "no\n",
        ] {
            let RequestFailure::Final(error) = refusal("http://a".into(), 400, text, None) else { panic!() };
            assert!(error.to_string().starts_with("http://a: refused (400): no;"), "{error}");
        }
    }
}
