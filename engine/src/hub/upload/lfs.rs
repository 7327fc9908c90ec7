//! Large files, by Git LFS' batch interface: it names those that the hub does not have, and where each is to be sent.

use serde_json::{Value, json};

use super::super::HubError;
use super::super::address::Address;
use super::super::body::RequestBody;
use super::super::client::{HubCall, TryFailure};
use super::session::PushSession;
use super::{FileContent, LocalFile};

/// JSON, as Git LFS wants it.
const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// Parts of a file at most.
const MOST_PARTS: u64 = 10_000;

/// Times that a file's addresses are asked for anew: they expire.
const ROUNDS: usize = 4;

/// Sends the files that the hub does not have: how many those are.
pub(super) fn send_absent(session: &PushSession<'_>, files: &[&LocalFile]) -> Result<usize, HubError> {
    let mut sent = 0;
    // One at a time: the addresses of a file that waits for another would expire.
    for file in files {
        if send_one(session, file)? {
            sent += 1;
        }
    }
    Ok(sent)
}

/// Whether the file had to be sent.
fn send_one(session: &PushSession<'_>, file: &LocalFile) -> Result<bool, HubError> {
    let what = format!("{}/{}", session.target.id, file.name);
    let mut last = None;
    for round in 0..ROUNDS {
        let Some(upload) = batch(session, &what, file)? else {
            let state = if round == 0 { "is there already" } else { "is there" };
            tracing::info!("{what}: {state}");
            return Ok(round > 0);
        };
        if round == 0 {
            tracing::info!("{what}: {} bytes", file.bytes);
        }
        match upload.send(session, &what, file) {
            Ok(()) => return Ok(true),
            Err(error @ HubError::Busy { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or(HubError::Busy { what, problem: "does not take the file".to_owned() }))
}

/// Where a file is to be sent.
struct LfsUpload {
    href: Address,
    /// Bytes of a part and the parts' addresses, where the file goes in parts.
    parts: Option<LfsParts>,
    verify: Option<Address>,
}

struct LfsParts {
    bytes: u64,
    addresses: Vec<Address>,
}

/// Asks for a file's addresses; `None` where the hub has it.
fn batch(session: &PushSession<'_>, what: &str, file: &LocalFile) -> Result<Option<LfsUpload>, HubError> {
    let body = json!({
        "operation": "upload",
        "transfers": ["basic", "multipart"],
        "objects": [{"oid": file.sha256, "size": file.bytes}],
        "hash_algo": "sha256",
        "ref": {"name": session.branch()},
    });
    let path = format!("/{}.git/info/lfs/objects/batch", session.target.id);
    let answer = session.ask("POST", &path, LFS_JSON, body.to_string().as_bytes(), &[])?;
    let wrong = |problem: &str| HubError::Answer {
        what: what.to_owned(),
        server: session.client.endpoint.address.server(),
        problem: problem.to_owned(),
    };
    let object = answer.body["objects"]
        .as_array()
        .and_then(|objects| objects.iter().find(|object| object["oid"] == file.sha256.as_str()))
        .ok_or_else(|| wrong("a batch without the file that was asked about"))?;
    if let Some(message) = object["error"]["message"].as_str() {
        return Err(HubError::PushRefused {
            what: what.to_owned(),
            answer: super::super::error::shown(message),
            advice: "check the file and the room that the account has",
        });
    }
    let upload = &object["actions"]["upload"];
    if upload.is_null() {
        return Ok(None);
    }
    let address = |value: &Value| -> Result<Address, HubError> {
        let address = value.as_str().and_then(|text| session.client.endpoint.address.join(text));
        let address = address.ok_or_else(|| wrong("an address to send to that is none"))?;
        match session.client.endpoint.address.downgrades_to(&address) {
            true => Err(wrong("an address without encryption to send to")),
            false => Ok(address),
        }
    };
    let verify = &object["actions"]["verify"]["href"];
    Ok(Some(LfsUpload {
        href: address(&upload["href"])?,
        parts: parts(&upload["header"], file.bytes, &wrong, &address)?,
        verify: if verify.is_null() { None } else { Some(address(verify)?) },
    }))
}

/// `chunk_size` and the addresses of the parts `00001`, `00002`, …, where there is a `chunk_size`.
fn parts(
    header: &Value,
    bytes: u64,
    wrong: &dyn Fn(&str) -> HubError,
    address: &dyn Fn(&Value) -> Result<Address, HubError>,
) -> Result<Option<LfsParts>, HubError> {
    let size = match &header["chunk_size"] {
        Value::Null => return Ok(None),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let size =
        size.filter(|size| *size > 0).ok_or_else(|| wrong("a chunk_size that is no number of bytes"))?;
    let count = bytes.div_ceil(size);
    if count > MOST_PARTS {
        return Err(wrong("a chunk_size that makes more than 10,000 parts"));
    }
    let mut numbered: Vec<(u64, &Value)> = header
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.parse().ok()?, value)))
        .collect();
    numbered.sort_unstable_by_key(|(number, _)| *number);
    if !numbered.iter().map(|(number, _)| *number).eq(1..=count) {
        return Err(wrong("other parts than the file has"));
    }
    let addresses = numbered.iter().map(|(_, value)| address(value)).collect::<Result<_, _>>()?;
    Ok(Some(LfsParts { bytes: size, addresses }))
}

impl LfsUpload {
    fn send(&self, session: &PushSession<'_>, what: &str, file: &LocalFile) -> Result<(), HubError> {
        match &self.parts {
            None => {
                put(session, what, &self.href, body_of(file, 0, file.bytes))?;
            }
            Some(parts) => self.send_parts(session, what, file, parts)?,
        }
        let Some(verify) = &self.verify else { return Ok(()) };
        let body = json!({"oid": file.sha256, "size": file.bytes}).to_string();
        post(session, what, verify, body)
    }

    fn send_parts(
        &self,
        session: &PushSession<'_>,
        what: &str,
        file: &LocalFile,
        parts: &LfsParts,
    ) -> Result<(), HubError> {
        let mut tags = Vec::new();
        for (place, address) in parts.addresses.iter().enumerate() {
            let start = place as u64 * parts.bytes;
            let length = parts.bytes.min(file.bytes - start);
            let tag = put(session, what, address, body_of(file, start, length))?;
            let tag = tag.ok_or_else(|| HubError::Answer {
                what: what.to_owned(),
                server: address.server(),
                problem: format!("no ETag for part {}", place + 1),
            })?;
            tags.push(json!({"partNumber": place + 1, "etag": tag}));
        }
        post(session, what, &self.href, json!({"oid": file.sha256, "parts": tags}).to_string())
    }
}

fn body_of(file: &LocalFile, start: u64, length: u64) -> RequestBody {
    match &file.content {
        FileContent::Path(path) => RequestBody::FilePart { path: path.clone(), start, length },
        FileContent::Bytes(bytes) => {
            RequestBody::Bytes(bytes[start as usize..(start + length) as usize].to_vec())
        }
    }
}

/// Sends bytes to a signed address: its ETag. A connection that breaks is tried again, with these bytes alone.
fn put(
    session: &PushSession<'_>,
    what: &str,
    address: &Address,
    body: RequestBody,
) -> Result<Option<String>, HubError> {
    session.client.persist(what, || {
        let call = HubCall { method: "PUT", headers: Vec::new(), body: body.clone() };
        let answer = session.client.exchange(what, address.clone(), call)?;
        let tag = answer.head.header("etag").map(str::to_owned);
        match answer.head.status {
            // What has expired does not get better by waiting: the batch is asked anew.
            400..=407 => Err(TryFailure::Final(expired(what, &answer.address, answer.head.status))),
            _ => session.read(what, &answer, &[]).map(|_| tag),
        }
    })
}

fn expired(what: &str, address: &Address, status: u16) -> HubError {
    let problem = format!("leads to {}, which refuses ({status})", address.server());
    HubError::Busy { what: what.to_owned(), problem }
}

fn post(session: &PushSession<'_>, what: &str, address: &Address, body: String) -> Result<(), HubError> {
    session.client.persist(what, || {
        let headers = vec![("accept", LFS_JSON.to_owned()), ("content-type", LFS_JSON.to_owned())];
        let body = RequestBody::Bytes(body.clone().into_bytes());
        let answer =
            session.client.exchange(what, address.clone(), HubCall { method: "POST", headers, body })?;
        session.read(what, &answer, &[]).map(drop)
    })
}
