//! Which files are large: the hub decides, by name, size and first bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::super::HubError;
use super::session::{JSON, PushSession};
use super::{FileContent, LocalFile};

/// Bytes of a file that the hub looks at.
const SAMPLE: u64 = 512;

/// Files that are asked about at a time.
const AT_A_TIME: usize = 256;

/// Larger files never go into the commit, whatever the hub says.
const MOST_INLINE: u64 = 10 << 20;

/// Names of the files that go by Git LFS.
pub(super) fn large_files(
    session: &PushSession<'_>,
    files: &[LocalFile],
) -> Result<BTreeSet<String>, HubError> {
    let path = format!("/api/models/{}/preupload/{}", session.target.id, session.revision());
    let mut large: BTreeSet<String> =
        files.iter().filter(|file| file.bytes > MOST_INLINE).map(|file| file.name.clone()).collect();
    for some in files.chunks(AT_A_TIME) {
        let mut asked = Vec::new();
        for file in some {
            let sample = BASE64_STANDARD.encode(first_bytes(file)?);
            asked.push(json!({"path": file.name, "size": file.bytes, "sample": sample}));
        }
        let body = json!({"files": asked}).to_string();
        let answer = session.ask("POST", &path, JSON, body.as_bytes(), &[])?;
        let modes = answer.body["files"].as_array().ok_or_else(|| HubError::Answer {
            what: session.target.id.clone(),
            server: session.client.endpoint.address.server(),
            problem: "no list of files, which says how each is uploaded".to_owned(),
        })?;
        let is_large = |mode: &&Value| mode["uploadMode"] == "lfs";
        large
            .extend(modes.iter().filter(is_large).filter_map(|mode| Some(mode["path"].as_str()?.to_owned())));
    }
    Ok(large)
}

fn first_bytes(file: &LocalFile) -> Result<Vec<u8>, HubError> {
    match &file.content {
        FileContent::Bytes(bytes) => Ok(bytes.iter().copied().take(SAMPLE as usize).collect()),
        FileContent::Path(path) => {
            let mut bytes = Vec::new();
            let read = File::open(path).and_then(|file| file.take(SAMPLE).read_to_end(&mut bytes));
            read.map_err(|source| HubError::Io { path: path.clone(), source })?;
            Ok(bytes)
        }
    }
}
