//! Forward passes for log-probs, one after the other: a device is given the next one before the last one's numbers are read, so that it
//! does not stand still while the host packs.

use selfplay_model::gpu::{LateRead, LateReads};
use selfplay_model::{Decoder, PackedBatch};

use crate::TrainError;
use crate::batch::Targets;

/// Passes of a decoder that keep nothing for a backward. `M` is what the caller knows a pass by.
pub(crate) struct LogProbPasses<'a, M> {
    decoder: &'a Decoder,
    reads: LateReads,
    under_way: Option<(M, Vec<LateRead>)>,
}

impl<'a, M> LogProbPasses<'a, M> {
    /// None so far.
    pub(crate) fn new(decoder: &'a Decoder) -> Self {
        Self { decoder, reads: LateReads::default(), under_way: None }
    }

    /// Starts a pass, and gives the targets' log-probs (nats) of one that is done: of this one on a CPU, else of the one before, if any.
    /// [`LogProbPasses::finish`] gives the last one.
    ///
    /// # Errors
    /// An error of the decoder.
    pub(crate) fn start(
        &mut self,
        pass: M,
        batch: &PackedBatch,
        targets: &Targets,
    ) -> Result<Option<(M, Vec<f32>)>, TrainError> {
        let hidden = self.decoder.hidden_rows(batch, &targets.rows)?; // [n, h]
        let rows: Vec<usize> = (0..targets.rows.len()).collect();
        let started =
            self.decoder.start_token_log_probs(&hidden, &rows, &targets.targets, &mut self.reads)?;
        let are_here = started.iter().all(LateRead::is_here);
        let before = self.under_way.replace((pass, started));
        if are_here { self.read_under_way() } else { self.read(before) }
    }

    /// The last pass, if it was not given yet.
    ///
    /// # Errors
    /// An error of the device.
    pub(crate) fn finish(mut self) -> Result<Option<(M, Vec<f32>)>, TrainError> {
        self.read_under_way()
    }

    fn read_under_way(&mut self) -> Result<Option<(M, Vec<f32>)>, TrainError> {
        let last = self.under_way.take();
        self.read(last)
    }

    fn read(&mut self, pass: Option<(M, Vec<LateRead>)>) -> Result<Option<(M, Vec<f32>)>, TrainError> {
        let Some((pass, parts)) = pass else { return Ok(None) };
        let mut log_probs = Vec::new();
        for part in parts {
            log_probs.extend(self.reads.finish(part)?);
        }
        Ok(Some((pass, log_probs)))
    }
}
