//! One file per command: reads its files, calls one stage, writes its file.

use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::error::{EngineError, Result};

pub mod bench;
pub mod branch;
pub mod check;
pub mod compare;
pub mod device_memory;
mod estimate;
mod fitting;
pub mod logprobs;
mod models;
pub mod pair;
mod parts;
pub mod plan;
mod rates;
pub mod resume;
pub mod run;
pub mod sample;
pub mod score;
pub mod sft;
pub mod show;
mod stage;
mod stage_times;
pub mod tokenize;
pub mod train;
pub mod train_preference;
mod training;

pub(crate) use estimate::show as show_bytes;

/// Writes `text` to standard output. A reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(EngineError::named(Path::new("standard output"), error))
        }
        _ => Ok(()),
    }
}
