//! Which endpoint gave which answer, so that those of one that turns out to be another model can be taken back.

use crate::client::Client;
use crate::lock::lock;
use crate::{ClientError, work::GivenAnswer};

impl Client {
    /// How many answers each endpoint gave since they were last believed, in the order of the endpoints; what the transcript
    /// had is not among them.
    pub fn given(&self) -> Vec<usize> {
        let mut counts = vec![0; self.endpoints()];
        for answer in lock(&self.service.given).iter() {
            if let Some(count) = counts.get_mut(answer.endpoint) {
                *count += 1;
            }
        }
        counts
    }

    /// Believes all answers so far.
    pub fn believe(&self) {
        lock(&self.service.given).clear();
    }

    /// Takes back what an endpoint gave since the answers were last believed: it is asked for again. Returns how many.
    ///
    /// # Errors
    /// A transcript that cannot be written.
    pub fn take_back(&self, endpoint: usize) -> Result<usize, ClientError> {
        let mut given = lock(&self.service.given);
        let (theirs, others): (Vec<GivenAnswer>, Vec<GivenAnswer>) =
            given.iter().partition(|answer| answer.endpoint == endpoint);
        if let Some(transcript) = &self.service.transcript {
            let mut transcript = lock(transcript);
            for answer in &theirs {
                transcript.take_back(&answer.key)?;
            }
        }
        *given = others;
        Ok(theirs.len())
    }
}
