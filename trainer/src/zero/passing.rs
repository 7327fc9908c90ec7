//! Passes over a decoder that ranks have loaded by ranges, where nothing is trained: of the policies that a training reads.

use selfplay_model::Decoder;

use super::{Lockstep, Shards};
use crate::TrainError;
use crate::collective::Collective;
use crate::settings::ZeroStage;

/// Whether ranks have loaded the decoder by ranges: those that have it whole cut it then, before anything is computed. All ranks call it,
/// and get the same.
///
/// # Errors
/// A rank is lost.
pub(crate) fn are_divided(collective: &dyn Collective, decoder: &Decoder) -> Result<bool, TrainError> {
    let own = decoder.is_divided();
    match collective.world() {
        1 => Ok(own),
        _ => Ok(collective.all_gather(&[f64::from(u8::from(own))])?.into_iter().any(|one| one != 0.0)),
    }
}

/// Runs `work`, which computes with a decoder, on all ranks alike; it ends with a call of all of them. Where they have loaded the decoder by
/// ranges they bring each other's weights meanwhile, and it computes nothing afterwards.
///
/// # Errors
/// Those of `work`; a rank is lost.
pub(crate) fn with_passes<T>(
    decoder: &mut Decoder,
    collective: &dyn Collective,
    work: impl FnOnce(&Decoder, &dyn Collective) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    if !are_divided(collective, decoder)? {
        return work(decoder, collective);
    }
    let Some((shards, gradients)) = Shards::open(decoder, ZeroStage::Weights, collective, false)? else {
        return work(decoder, collective);
    };
    // Nothing is trained.
    drop(gradients);
    let lockstep = Lockstep { inner: collective, shards: shards.clone() };
    let outcome = work(decoder, &lockstep);
    decoder.set_segment_hooks(None);
    outcome.map_err(|error| shards.explain(error))
}
