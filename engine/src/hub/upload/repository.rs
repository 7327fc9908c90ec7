//! The repository and the branch: made where they are not there.

use serde_json::json;

use super::super::HubError;
use super::session::{JSON, PushSession};

/// Makes the repository; whether it was not there.
pub(super) fn create(session: &PushSession<'_>) -> Result<bool, HubError> {
    let (org, name) = session.target.id.split_once('/').unwrap_or(("", &session.target.id));
    let body = json!({"name": name, "organization": org, "type": "model", "private": session.target.private});
    let made = session.ask("POST", "/api/repos/create", JSON, body.to_string().as_bytes(), &[409, 403])?;
    match made.status {
        409 => Ok(false),
        // A token for one repository alone may not make any.
        403 => exists(session).map(|()| false),
        _ => Ok(true),
    }
}

fn exists(session: &PushSession<'_>) -> Result<(), HubError> {
    let found =
        session.ask("GET", &format!("/api/models/{}", session.target.id), JSON, b"", &[401, 403, 404])?;
    match found.status {
        200..300 => Ok(()),
        status => Err(HubError::PushRefused {
            what: session.target.id.clone(),
            answer: format!("403 to making the repository, {status} to reading it"),
            advice: "the token may not make repositories there: check --to and the token's rights",
        }),
    }
}

/// Makes the branch, where one is named.
pub(super) fn branch(session: &PushSession<'_>) -> Result<(), HubError> {
    if session.branch() == "main" {
        return Ok(());
    }
    let path = format!("/api/models/{}/branch/{}", session.target.id, session.revision());
    session.ask("POST", &path, JSON, b"{}", &[409]).map(drop)
}
