//! `events.jsonl`: one line per event, for people and for the seconds that `show` adds up.
//!
//! A record, never a source: no decision of a resume reads it. A line that a kill tore is skipped by the reader.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use selfplay_records::atomic::{self, AppendLog};
use selfplay_records::read_regular;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::process::memory::peak_bytes;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process began to work in the folder.
    Started {
        /// `run`, `resume` or `branch`.
        command: String,
        /// The program's version.
        version: String,
        /// Worker threads.
        threads: usize,
    },
    /// A shard of candidates was written.
    Sampled {
        /// From 1.
        iteration: usize,
        /// From 0.
        shard: usize,
        /// Rows.
        prompts: usize,
        /// New tokens.
        tokens: usize,
        /// Wall clock.
        seconds: f64,
    },
    /// A shard of preferences was written, beside the sampling of the next.
    Scored {
        /// From 1.
        iteration: usize,
        /// From 0.
        shard: usize,
        /// Rows.
        prompts: usize,
        /// Wall clock of the scorer's thread, which overlaps with sampling.
        busy_seconds: f64,
    },
    /// The scorer's remaining work after the last shard was sampled.
    ScoringDrained {
        /// From 1.
        iteration: usize,
        /// Wall clock.
        seconds: f64,
    },
    /// `pairs.parquet` was written.
    Paired {
        /// From 1.
        iteration: usize,
        /// Rows.
        pairs: usize,
        /// Prompts that gave none.
        without_pair: usize,
        /// Wall clock.
        seconds: f64,
    },
    /// The sampler's log-probs were compared with the trainer's, before training.
    LogProbsCompared {
        /// From 1.
        iteration: usize,
        /// Tokens that were compared.
        tokens: usize,
        /// Mean of |sampler − trainer|, in nats.
        mean: f64,
        /// The largest, in nats.
        max: f64,
        /// An estimate of KL(sampler ‖ trainer) a token, in nats.
        kl: f64,
    },
    /// `policy/` was written.
    Trained {
        /// From 1.
        iteration: usize,
        /// Optimizer steps of this process.
        steps: usize,
        /// Wall clock of this process.
        seconds: f64,
    },
    /// Held-out prompts were answered and measured; iteration 0 is the starting policy.
    Evaluated {
        /// From 0.
        iteration: usize,
        /// Wall clock.
        seconds: f64,
    },
    /// An iteration is complete.
    Finished {
        /// From 1.
        iteration: usize,
    },
    /// SIGINT or SIGTERM.
    Stopped {
        /// Its name.
        signal: String,
    },
}

impl Event {
    /// Iteration and wall-clock seconds that the event adds to it.
    fn cost(&self) -> Option<(usize, f64)> {
        match self {
            Self::Sampled { iteration, seconds, .. }
            | Self::ScoringDrained { iteration, seconds }
            | Self::Paired { iteration, seconds, .. }
            | Self::Trained { iteration, seconds, .. }
            | Self::Evaluated { iteration, seconds } => Some((*iteration, *seconds)),
            Self::Started { .. }
            | Self::Scored { .. }
            | Self::LogProbsCompared { .. }
            | Self::Finished { .. }
            | Self::Stopped { .. } => None,
        }
    }
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Seconds since 1970.
    pub time: f64,
    /// Most memory that the process had resident at once so far, in bytes; absent in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The rank that did it, where it was not rank 0: its seconds passed beside those of rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The open log. Lines of several threads do not mix.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    log: Mutex<AppendLog>,
}

impl Events {
    /// Opens the log at `path`, without the line that a kill tore.
    ///
    /// # Errors
    /// When it cannot be opened for writing.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let log = AppendLog::open(path)?;
        Ok(Self { path: path.to_path_buf(), log: Mutex::new(log) })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn record(&self, event: Event) -> Result<(), EngineError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let time = (now * 1e3).round() / 1e3;
        self.append(&EventLine { time, peak_bytes: peak_bytes(), rank: None, event })
    }

    /// Takes over what another rank has noted of an iteration's shards.
    ///
    /// # Errors
    /// When a line cannot be written.
    pub(crate) fn adopt(&self, rank: usize, path: &Path, iteration: usize) -> Result<(), EngineError> {
        let of_iteration = |line: &EventLine| match line.event {
            Event::Sampled { iteration: of, .. } | Event::Scored { iteration: of, .. } => of == iteration,
            _ => false,
        };
        for line in read(path).into_iter().filter(of_iteration) {
            self.append(&EventLine { rank: Some(rank), ..line })?;
        }
        Ok(())
    }

    fn append(&self, line: &EventLine) -> Result<(), EngineError> {
        let text = serde_json::to_string(line)
            .map_err(|error| EngineError::io(&self.path, "write", io::Error::other(error)))?;
        let mut log = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(log.append_line(&text)?)
    }
}

/// Every whole line of the log; an absent log is empty.
pub fn read(path: &Path) -> Vec<EventLine> {
    let text = read_regular(path, u64::MAX).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Replaces a log, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write<'a>(path: &Path, lines: impl Iterator<Item = &'a EventLine>) -> Result<(), EngineError> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)
            .map_err(|error| EngineError::io(path, "write", io::Error::other(error)))?;
        text.push(b'\n');
    }
    Ok(atomic::write_bytes(path, &text)?)
}

/// Wall-clock seconds that an iteration's finished pieces of work took, over all processes one after the other; of ranks that worked at
/// the same time those of rank 0.
pub fn seconds_of(lines: &[EventLine], iteration: usize) -> f64 {
    let costs = lines.iter().filter(|line| line.rank.is_none()).filter_map(|line| line.event.cost());
    costs.filter(|(of, _)| *of == iteration).map(|(_, seconds)| seconds).sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_pipe_in_the_log_s_place_is_an_empty_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name is a C string; a pipe is made in a folder of this test.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(read(&path).is_empty());
    }

    #[test]
    fn lines_survive_a_torn_one_and_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let sampled = |shard| Event::Sampled { iteration: 2, shard, prompts: 4, tokens: 9, seconds: 1.5 };
        Events::open(&path).unwrap().record(sampled(0)).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"time\": 3, \"event\": \"sam").unwrap();
        let events = Events::open(&path).unwrap();
        events.record(sampled(1)).unwrap();
        events.record(Event::Evaluated { iteration: 1, seconds: 7.0 }).unwrap();
        let lines = read(&path);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].event, sampled(1));
        assert_eq!(seconds_of(&lines, 2), 3.0);

        // What another rank did beside it is noted, and takes no time of its own.
        let other = folder.path().join("events_0001.jsonl");
        let of_other = Events::open(&other).unwrap();
        of_other.record(sampled(2)).unwrap();
        of_other.record(Event::Evaluated { iteration: 2, seconds: 7.0 }).unwrap();
        events.adopt(1, &other, 2).unwrap();
        events.adopt(1, &other, 3).unwrap();
        let lines = read(&path);
        assert_eq!((lines.len(), lines[3].rank, &lines[3].event), (4, Some(1), &sampled(2)));
        assert_eq!(seconds_of(&lines, 2), 3.0);
    }
}
