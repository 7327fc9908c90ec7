//! The policy that a stage works with, loaded when one first asks for it and handed from stage to stage.

use selfplay_model::Decoder;

use super::policy_share::agreed_share;
use super::session::Session;
use crate::error::EngineError;
use crate::recipe::WeightDType;
use crate::stages::prepare;

/// The policy after an iteration, as written; 0 is the starting policy.
pub struct Policy {
    after: usize,
    decoder: Option<Decoder>,
}

impl Policy {
    /// Loads nothing yet: a resume whose shards are whole needs no policy before it trains.
    pub fn after(iteration: usize) -> Self {
        Self { after: iteration, decoder: None }
    }

    /// The iteration that it is the result of.
    pub fn iteration(&self) -> usize {
        self.after
    }

    /// What an iteration's training left: kept where its weights are, bit for bit, those that were written, so that a run
    /// goes on as its resume would.
    pub(super) fn trained(iteration: usize, mut decoder: Decoder, session: &Session) -> Self {
        let written = session.recipe.policy.dtype.map_or(decoder.stored_dtype(), WeightDType::to_candle);
        decoder.parameters_mut().drop_masters();
        let decoder = Some(decoder).filter(|decoder| decoder.dtype() == written);
        Self { after: iteration, decoder }
    }

    /// Packed for sampling.
    ///
    /// # Errors
    /// When it does not load.
    pub fn for_sampling(&mut self, session: &Session) -> Result<&Decoder, EngineError> {
        let decoder = self.load(session)?;
        prepare(decoder, &session.recipe.sample)?;
        Ok(decoder)
    }

    /// Packed for answers that tell of the policy itself: with its own weights, whatever draws candidates.
    ///
    /// # Errors
    /// When it does not load.
    pub fn for_evaluation(&mut self, session: &Session) -> Result<&Decoder, EngineError> {
        let decoder = self.load(session)?;
        prepare(decoder, &session.recipe.sample.clone().with_own_weights())?;
        Ok(decoder)
    }

    /// For log-probs as the trainer computes them: the packed weights are dropped.
    ///
    /// # Errors
    /// When it does not load.
    pub fn for_scoring(&mut self, session: &Session) -> Result<&Decoder, EngineError> {
        let decoder = self.load(session)?;
        decoder.drop_inference();
        Ok(decoder)
    }

    /// To be trained: the packed weights are dropped. Of several ranks each may have its share alone
    /// ([`Decoder::is_divided`]); all of them ask.
    ///
    /// # Errors
    /// When it does not load; a rank that is lost.
    pub fn for_training(self, session: &Session) -> Result<Decoder, EngineError> {
        let share = agreed_share(session, self.decoder.is_some())?;
        let mut decoder = match self.decoder {
            Some(decoder) => decoder,
            None => session.load_policy(self.after, share)?,
        };
        decoder.drop_inference();
        Ok(decoder)
    }

    /// Gives its memory back unless the device has room for `bytes` beside it; it loads again when asked for.
    ///
    /// # Errors
    /// What the device says.
    pub fn make_room(&mut self, session: &Session, bytes: u64) -> Result<(), EngineError> {
        if self.decoder.is_some() && !session.runtime.has_room(bytes)? {
            self.decoder = None;
        }
        Ok(())
    }

    /// Gives its memory back unless the device has room for another one as large beside it.
    ///
    /// # Errors
    /// What the device says.
    pub fn make_room_for_another(&mut self, session: &Session) -> Result<(), EngineError> {
        match self.decoder.as_ref().map(|decoder| decoder.footprint() as u64) {
            Some(bytes) => self.make_room(session, bytes),
            None => Ok(()),
        }
    }

    /// Gives its memory back; it loads again when asked for.
    pub fn put_away(&mut self) {
        self.decoder = None;
    }

    fn load(&mut self, session: &Session) -> Result<&mut Decoder, EngineError> {
        let decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => session.policy_after(self.after)?,
        };
        Ok(self.decoder.insert(decoder))
    }
}
