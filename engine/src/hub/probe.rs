//! Whether the hub answers and takes the token: two requests, each tried once.

use std::time::Duration;

use chrono::DateTime;

use super::client::{HttpResponse, HubClient, TryFailure};
use super::environment::{self, Endpoint};
use super::error::HubError;
use crate::signals::StopFlag;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(8);

/// What was found of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HubProbe {
    /// HF_HUB_OFFLINE is set.
    Offline,
    /// A variable of the environment is wrong.
    Wrong(String),
    /// No answer.
    Unreachable {
        /// Scheme, host and port.
        server: String,
        problem: String,
    },
    /// It answers.
    Reached {
        /// Scheme, host and port.
        server: String,
        /// Its clock: time since 1970.
        date: Option<Duration>,
        token: TokenAnswer,
    },
}

/// What the hub says of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenAnswer {
    Taken,
    Refused,
    NotAsked,
}

/// Asks the environment's hub.
pub(crate) fn probe() -> HubProbe {
    if environment::is_offline() {
        return HubProbe::Offline;
    }
    let endpoint = match Endpoint::from_env() {
        Ok(endpoint) => endpoint,
        // A token that is none is told by itself.
        Err(HubError::Setting { name, problem }) if name == "HF_ENDPOINT" => {
            return HubProbe::Wrong(format!("{name} {problem}"));
        }
        Err(_) => match Endpoint::without_token() {
            Ok(endpoint) => endpoint,
            Err(error) => return HubProbe::Wrong(error.to_string()),
        },
    };
    let server = endpoint.address.server();
    let Ok(stop) = StopFlag::of_process() else {
        return HubProbe::Unreachable { server, problem: "signal handlers cannot be installed".to_owned() };
    };
    let client = HubClient::new(endpoint, stop, PATIENCE);
    let ask = |path: &str| client.send("the hub", client.endpoint.address.under(path), None);
    let date = match ask("/api/models?limit=1") {
        Ok(answer) => date_of(&answer),
        Err(TryFailure::Passing(error, _) | TryFailure::Final(error)) => {
            let problem = match error {
                HubError::Unreachable { problem, .. } => problem,
                other => other.brief(),
            };
            return HubProbe::Unreachable { server, problem };
        }
    };
    let token = match client.endpoint.is_authorised() {
        false => TokenAnswer::NotAsked,
        true => match ask("/api/whoami-v2").map(|answer| answer.head.status) {
            Ok(200) => TokenAnswer::Taken,
            Ok(401 | 403) => TokenAnswer::Refused,
            _ => TokenAnswer::NotAsked,
        },
    };
    HubProbe::Reached { server, date, token }
}

fn date_of(answer: &HttpResponse) -> Option<Duration> {
    let date = DateTime::parse_from_rfc2822(answer.head.header("date")?.trim()).ok()?;
    u64::try_from(date.timestamp()).ok().map(Duration::from_secs)
}
