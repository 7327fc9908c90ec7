//! The policy that an iteration starts from, loaded when a stage first asks for it.

use selfplay_model::Decoder;

use crate::run_error::RunError;
use crate::session::Session;

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

    /// Packed for sampling.
    ///
    /// # Errors
    /// When it does not load.
    pub fn for_sampling(&mut self, session: &Session) -> Result<&Decoder, RunError> {
        let decoder = self.load(session)?;
        decoder.prepare_inference().map_err(selfplay_model::ModelError::from)?;
        Ok(decoder)
    }

    /// To be trained: the packed weights are dropped.
    ///
    /// # Errors
    /// When it does not load.
    pub fn for_training(mut self, session: &Session) -> Result<Decoder, RunError> {
        self.load(session)?.drop_inference();
        match self.decoder {
            Some(decoder) => Ok(decoder),
            None => session.policy_after(self.after),
        }
    }

    fn load(&mut self, session: &Session) -> Result<&mut Decoder, RunError> {
        let decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => session.policy_after(self.after)?,
        };
        Ok(self.decoder.insert(decoder))
    }
}
