//! What a request carries: bytes, or a part of a file, read as they are sent.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Take};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::signals::StopFlag;

/// The body of a request.
#[derive(Clone, Debug)]
pub(super) enum RequestBody {
    None,
    Bytes(Vec<u8>),
    /// So many bytes of a file.
    FilePart {
        path: PathBuf,
        start: u64,
        length: u64,
    },
}

impl RequestBody {
    /// The file that it is read from.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::FilePart { path, .. } => Some(path.clone()),
            _ => None,
        }
    }
}

enum Source {
    Bytes(Cursor<Vec<u8>>),
    File(Take<File>),
}

/// A body that counts what was read of it, and ends with an error at a stop signal.
pub(super) struct CountedBody {
    source: Source,
    length: u64,
    sent: Arc<AtomicU64>,
    stop: StopFlag,
}

impl CountedBody {
    /// Opens the file where it is one; `None` of no body.
    pub(super) fn open(body: RequestBody, sent: Arc<AtomicU64>, stop: StopFlag) -> io::Result<Option<Self>> {
        let (source, length) = match body {
            RequestBody::None => return Ok(None),
            RequestBody::Bytes(bytes) => {
                let length = bytes.len() as u64;
                (Source::Bytes(Cursor::new(bytes)), length)
            }
            RequestBody::FilePart { path, start, length } => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(start))?;
                (Source::File(file.take(length)), length)
            }
        };
        Ok(Some(Self { source, length, sent, stop }))
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

impl Read for CountedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.requested().is_some() {
            return Err(io::Error::other("stopped"));
        }
        let read = match &mut self.source {
            Source::Bytes(bytes) => bytes.read(buffer),
            Source::File(file) => file.read(buffer),
        }?;
        self.sent.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
