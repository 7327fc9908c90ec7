//! The commit: a line of JSON for its message and one for each file. Small files are inside it, large ones by their hash.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::super::HubError;
use super::super::error::shown;
use super::session::PushSession;
use super::{FileContent, LocalFile};

/// Makes the commit: its name, where the hub tells it.
pub(super) fn commit(
    session: &PushSession<'_>,
    small: &[&LocalFile],
    large: &[&LocalFile],
) -> Result<Option<String>, HubError> {
    let mut lines =
        vec![json!({"key": "header", "value": {"summary": session.target.message, "description": ""}})];
    for file in small {
        let content = BASE64_STANDARD.encode(content(file)?);
        let value = json!({"path": file.name, "content": content, "encoding": "base64"});
        lines.push(json!({"key": "file", "value": value}));
    }
    for file in large {
        let value = json!({"path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes});
        lines.push(json!({"key": "lfsFile", "value": value}));
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = format!("/api/models/{}/commit/{}", session.target.id, session.revision());
    let answer = session.ask("POST", &path, "application/x-ndjson", text.as_bytes(), &[])?;
    let commit = answer.body["commitOid"].as_str();
    Ok(commit.map(|commit| shown(commit).trim_matches('"').to_owned()))
}

fn content(file: &LocalFile) -> Result<Vec<u8>, HubError> {
    match &file.content {
        FileContent::Bytes(bytes) => Ok(bytes.clone()),
        FileContent::Path(path) => {
            std::fs::read(path).map_err(|source| HubError::Io { path: path.clone(), source })
        }
    }
}
