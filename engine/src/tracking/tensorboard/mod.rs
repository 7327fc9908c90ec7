//! TensorBoard's event files: scalars by step, in a file that TensorBoard reads while it grows.
//!
//! `selfplay` writes one beside each `metrics.jsonl`, and one in the run folder with a step per iteration, so that
//! `tensorboard --logdir RUN` shows every iteration's training and the run as a whole. A record is a message `Event` of
//! tensorflow/core/util/event.proto:
//!
//! ```text
//! Event { double wall_time = 1; int64 step = 2; string file_version = 3 (of the first record); Summary summary = 5 }
//! Summary { repeated Value value = 1 }        Value { string tag = 1; float simple_value = 2 }
//! ```

mod frame;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use selfplay_records::atomic::AppendLog;
use selfplay_records::read_regular;

use super::protobuf::{WireMessage, whole_in};
use super::scalars::TrackedScalar;
use crate::error::EngineError;
use frame::{first_record, framed, framed_length};

/// The file's name: TensorBoard looks for `tfevents`. The same in every process, so that a resume goes on in it.
pub(crate) const EVENT_FILE: &str = "events.out.tfevents.selfplay";

/// What the first record says.
const VERSION: &str = "brain.Event:2";

/// An open event file.
#[derive(Debug)]
pub(crate) struct EventFile {
    log: AppendLog,
    last_step: Option<usize>,
}

impl EventFile {
    /// Opens the event file of `folder`, made where it is absent. Records of steps from `next_step` on are removed, and so is
    /// everything from the first record on that is torn or damaged.
    ///
    /// # Errors
    /// The error of the file system.
    pub(crate) fn open(folder: &Path, next_step: usize) -> Result<Self, EngineError> {
        let path = folder.join(EVENT_FILE);
        let bytes = match read_regular(&path, u64::MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(EngineError::io(&path, "read", source)),
        };
        let kept = kept(&bytes, next_step);
        let log = AppendLog::open_at(&path, kept.bytes as u64)?;
        let mut file = Self { log, last_step: kept.last_step };
        if kept.bytes == 0 {
            file.record(WireMessage::default().double(1, now()).text(3, VERSION))?;
        }
        Ok(file)
    }

    /// The last step that it has.
    pub(crate) fn last_step(&self) -> Option<usize> {
        self.last_step
    }

    /// Appends the scalars of a step.
    ///
    /// # Errors
    /// The error of the file system; the file is then as before.
    pub(crate) fn append(&mut self, step: usize, scalars: &[TrackedScalar]) -> Result<(), EngineError> {
        let summary = scalars.iter().fold(WireMessage::default(), |summary, scalar| {
            // TensorBoard's own scalars are 32 bits wide.
            summary.message(1, WireMessage::default().text(1, scalar.tag).float(2, scalar.value as f32))
        });
        self.record(WireMessage::default().double(1, now()).whole(2, step as u64).message(5, summary))?;
        self.last_step = Some(step);
        Ok(())
    }

    fn record(&mut self, event: WireMessage) -> Result<(), EngineError> {
        Ok(self.log.append(&framed(&event.into_bytes()))?)
    }
}

/// What of a file's bytes stays.
struct KeptRecords {
    bytes: usize,
    last_step: Option<usize>,
}

/// The whole records at the front, up to the first of `next_step` or later; nothing of a file that does not begin as ours do.
fn kept(bytes: &[u8], next_step: usize) -> KeptRecords {
    let mut kept = KeptRecords { bytes: 0, last_step: None };
    while let Some(event) = first_record(&bytes[kept.bytes..]) {
        let Some(step) = whole_in(event, 2).and_then(|step| usize::try_from(step).ok()) else { break };
        let is_first = kept.bytes == 0;
        if is_first && !event.ends_with(VERSION.as_bytes()) || !is_first && step >= next_step {
            break;
        }
        kept.bytes += framed_length(event);
        if !is_first {
            kept.last_step = Some(step);
        }
    }
    kept
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    fn steps(folder: &Path) -> Vec<usize> {
        let bytes = std::fs::read(folder.join(EVENT_FILE)).unwrap();
        let (mut at, mut steps) = (0, Vec::new());
        while let Some(event) = first_record(&bytes[at..]) {
            steps.push(whole_in(event, 2).unwrap() as usize);
            at += framed_length(event);
        }
        assert_eq!(at, bytes.len(), "bytes that are no record");
        steps
    }

    #[test]
    fn a_file_that_is_opened_again_goes_on_without_repeated_steps() {
        let folder = tempfile::tempdir().unwrap();
        let scalar = |value| [TrackedScalar { tag: "train/loss", value }];
        let mut file = EventFile::open(folder.path(), 1).unwrap();
        for step in 1..=5 {
            file.append(step, &scalar(step as f64)).unwrap();
        }
        drop(file);
        // The record that a kill tore.
        let path = folder.path().join(EVENT_FILE);
        let mut torn = std::fs::read(&path).unwrap();
        let whole = torn.clone();
        torn.extend_from_slice(&framed(b"x")[..9]);
        atomic::write_bytes(&path, &torn).unwrap();
        let file = EventFile::open(folder.path(), 9).unwrap();
        assert_eq!(file.last_step(), Some(5));
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let mut file = EventFile::open(folder.path(), 4).unwrap();
        assert_eq!(file.last_step(), Some(3));
        file.append(4, &scalar(0.5)).unwrap();
        // The first record is the version's, of step 0.
        assert_eq!(steps(folder.path()), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_record_of_a_step_has_its_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::open(folder.path(), 1).unwrap();
        file.append(3, &[TrackedScalar { tag: "a", value: 1.0 }]).unwrap();
        let bytes = std::fs::read(folder.path().join(EVENT_FILE)).unwrap();
        let version = first_record(&bytes).unwrap();
        assert!(version.ends_with(b"\x1a\x0dbrain.Event:2"), "{version:?}");
        let event = first_record(&bytes[framed_length(version)..]).unwrap();
        // After 9 bytes of wall time: step 3, then summary { value { tag "a", simple_value 1 } }.
        let wanted = [0x10, 3, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0x3f];
        assert_eq!(event[9..], wanted);
    }

    #[test]
    fn a_file_of_another_program_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        atomic::write_bytes(&folder.path().join(EVENT_FILE), &framed(b"\x08\x01")).unwrap();
        assert_eq!(EventFile::open(folder.path(), 1).unwrap().last_step(), None);
        assert_eq!(steps(folder.path()), [0]);
    }
}
