//! The trained parameters by the segments of the decoder, with the memory that comes and goes.

use candle_core::Tensor;
use selfplay_model::decoder::Segment;
use selfplay_model::{Decoder, Gradients, Parameters};

use super::owned::Owned;

/// A segment's trained parameters.
pub(crate) struct Group {
    /// Places among the owned parameters.
    pub members: Vec<usize>,
    /// Those of the weights that are held by rank.
    pub away: Vec<usize>,
    /// The memory of these.
    pub weights: Vec<Tensor>,
    /// The memory of the members' gradients; none where gradients are whole.
    pub gradients: Vec<Tensor>,
}

impl Group {
    /// The groups of a decoder, in the order of a forward pass; `gradients` where they are held by rank.
    pub fn all(decoder: &Decoder, owned: &[Owned], gradients: Option<&Gradients>) -> Vec<Self> {
        let parameters = decoder.parameters();
        decoder
            .segments()
            .map(|segment| {
                let ids = trained_of(decoder, segment);
                let members: Vec<usize> =
                    (0..owned.len()).filter(|&place| ids.contains(&owned[place].id)).collect();
                let away: Vec<usize> =
                    members.iter().copied().filter(|&place| owned[place].is_away).collect();
                let owners =
                    parameters.owners(&away.iter().map(|&place| owned[place].id).collect::<Vec<_>>());
                let weights = owners.into_iter().map(|owner| owner.tensor).collect();
                let gradients = gradients.map_or_else(Vec::new, |gradients| {
                    gradients.owners(&ids).into_iter().map(|owner| owner.tensor).collect()
                });
                Self { members, away, weights, gradients }
            })
            .collect()
    }
}

/// The trained parameters of a segment.
pub(crate) fn trained_of(decoder: &Decoder, segment: Segment) -> Vec<selfplay_model::ParameterId> {
    let parameters: &Parameters = decoder.parameters();
    let ids = decoder.segment_parameters(segment);
    ids.into_iter().filter(|&id| parameters.get(id).trainable).collect()
}
