//! Training steps whose optimizer is the host's, made as training makes them: beside the device's passes
//! (`trainer/src/offload/updates.rs`).

use std::sync::Arc;

use selfplay_model::Decoder;
use selfplay_trainer::loss::LossSettings;
use selfplay_trainer::optimizer::Optimizer;
use selfplay_trainer::{BatchGradients, HostUpdates, MicroBatches, TokenPair, TrainSettings, pair_gradients};

use super::{Bench, timed};
use crate::error::{EngineError, Result};

/// What is trained, and on what.
pub(super) struct BesideSteps<'a> {
    pub(super) pairs: &'a [&'a TokenPair],
    pub(super) settings: &'a TrainSettings,
    pub(super) pass: MicroBatches<'a>,
    /// A step's gradient is clipped to this norm; 0: it is not, and weights move before the norm is known.
    pub(super) max_norm: f64,
}

impl BesideSteps<'_> {
    /// Seconds of a step: several in a row, with the end of the last one's update. The decoder's passes are told of to nobody
    /// afterwards.
    ///
    /// # Errors
    /// The device's, or the host's.
    pub(super) fn seconds(
        &self,
        bench: &Bench,
        decoder: &mut Decoder,
        gradients: &mut BatchGradients,
        optimizer: &mut Optimizer,
    ) -> Result<f64> {
        let updates = Arc::new(HostUpdates::new(decoder, gradients)?);
        decoder.set_segment_hooks(Some(updates.clone()));
        // The first step moves nothing before its end.
        self.step(decoder, gradients, optimizer, &updates)?;
        updates.settle()?;
        let repeats = bench.repeats.max(1);
        let all = timed(&bench.device, || {
            for _ in 0..repeats {
                self.step(decoder, gradients, optimizer, &updates)?;
            }
            Ok(updates.settle()?)
        })?;
        decoder.set_segment_hooks(None);
        Ok(all / repeats as f64)
    }

    fn step(
        &self,
        decoder: &Decoder,
        gradients: &mut BatchGradients,
        optimizer: &mut Optimizer,
        updates: &HostUpdates,
    ) -> Result<()> {
        let parameters = decoder.parameters();
        updates.begin(
            optimizer,
            parameters,
            gradients.whole(),
            self.settings.learning_rate,
            self.max_norm,
        )?;
        updates.zero()?;
        let loss = LossSettings::from(self.settings);
        let report = pair_gradients(decoder, self.pairs, &loss, self.pass, gradients.added_to());
        let report = report.map_err(|error| updates.explain(error))?;
        updates.settle_gradients()?;
        gradients.settle()?;
        if report.not_finite.is_some() || !report.loss.is_finite() {
            return Err(EngineError::failure("the bench's loss is not finite"));
        }
        let measured = updates.norm(parameters, self.max_norm)?;
        Ok(updates.commit(measured.clip_scale)?)
    }
}
