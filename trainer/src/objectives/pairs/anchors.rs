//! The policies that a training on pairs holds its own against, and their log-probs, one model in memory at a time.
//!
//! ```text
//! loss                reference                           initial                     earlier
//! with a reference    Δ's: by train.reference             –                           –
//! inpo                the iteration's own policy, λ_0     the run's first, or that    the policies before it, λ_1 …,
//!                                                         of "every-N"; weight ρ      as many as there are yet
//! ```
//!
//! Log-probs under the weights that training starts from are the training's own business ([`super::PairObjective`]'s
//! `prepare`). Those under any other policy are taken before these weights are loaded: [`load_anchors`] asks for one policy after
//! the other, each of them only if its shards are not all on disk, and drops it before it asks for the next; ranks may have loaded it by
//! ranges. Shards are those of `reference.rs`, with the policy's name in the hash of their names.

use selfplay_model::Decoder;

use super::PairObjective;
use super::data::{PairMembers, StoredPair};
use super::reference::ReferencePass;
use super::token_pair::check_vocabulary;
use crate::TrainError;
use crate::context::{LengthRemedy, check_context};
use crate::loss::PairLogProbs;
use crate::training::{Preparation, TrainRun};
use crate::zero::with_passes;

/// A policy that log-probs are taken under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AnchorPolicy {
    /// The weights that training starts from.
    #[default]
    Start,
    /// Another policy, by a name that tells it from every other one whose log-probs lie in the run's folder.
    Other(String),
}

/// Which policy plays which part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchors {
    /// The reference, which Δ is taken against.
    pub reference: AnchorPolicy,
    /// The initial policy of `inpo`. `None`: the pairs bring its log-probs.
    pub initial: Option<AnchorPolicy>,
    /// The policies before the reference, newest first; with the reference they are weighed by `history_weights`.
    pub earlier: Vec<AnchorPolicy>,
}

/// The part that an anchor's log-probs play in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnchorPart {
    Reference,
    Initial,
    /// The so-manieth of [`Anchors::earlier`].
    Earlier(usize),
}

impl AnchorPart {
    /// Whether a pair has its log-probs of this part.
    pub(super) fn is_in(self, pair: &StoredPair) -> bool {
        match self {
            Self::Reference => pair.reference.is_some(),
            Self::Initial => pair.initial.is_some(),
            Self::Earlier(place) => pair.earlier.len() > place,
        }
    }

    /// Gives a pair its log-probs of this part; earlier policies come in their order.
    pub(super) fn put(self, pair: &mut StoredPair, value: PairLogProbs) {
        match self {
            Self::Reference => pair.reference = Some(value),
            Self::Initial => pair.initial = Some(value),
            Self::Earlier(_) => pair.earlier.push(value),
        }
    }
}

/// Takes the log-probs of an objective's pairs under every policy but the one that training starts from. To be called
/// before that one is loaded; `load` is asked for a policy by its name.
///
/// # Errors
/// A pair that cannot be trained on, a policy that does not load or does not fit the pairs, a log-prob that is not finite,
/// a failed read or write.
pub fn load_anchors<E: From<TrainError>>(
    objective: &mut PairObjective,
    run: &TrainRun<'_>,
    load: &mut dyn FnMut(&str) -> Result<Decoder, E>,
) -> Result<Preparation, E> {
    objective.cut()?;
    for (part, policy) in objective.parts() {
        let AnchorPolicy::Other(name) = policy else { continue };
        let members = objective.lacking(part, run.seed);
        if members.is_empty() {
            continue;
        }
        let pairs = PairMembers { data: objective.pairs(), members: &members };
        let folder = run.folder.join("reference");
        let pass = ReferencePass { policy: &name, ..objective.reference_pass(run, &folder) };
        let values = match pass.read_all(pairs)? {
            Some(values) => values,
            None if (run.stop)() => return Ok(Preparation::Stopped),
            None => {
                let mut decoder = load(&name)?;
                fits(&decoder, pairs)?;
                let taken = with_passes(&mut decoder, run.collective, |decoder, collective| {
                    ReferencePass { collective, ..pass }.log_probs(decoder, pairs)
                });
                match taken? {
                    Some(values) => values,
                    None => return Ok(Preparation::Stopped),
                }
            }
        };
        objective.fill(part, &members, values);
    }
    Ok(Preparation::Complete)
}

/// That a policy can read every pair.
fn fits(decoder: &Decoder, pairs: PairMembers<'_>) -> Result<(), TrainError> {
    for &index in pairs.members {
        let pair = pairs.data.get(index)?;
        check_vocabulary(decoder, &pair.name, [&pair.prompt[..], &pair.chosen[..], &pair.rejected[..]])?;
        let length = pairs.data.lengths(index).longest();
        check_context(
            decoder,
            &pair.name,
            length,
            length.saturating_sub(1),
            LengthRemedy::Key("train.max_length"),
        )?;
    }
    Ok(())
}

/// Σ_j λ_j log π_{t−j} of a pair: its reference and the earlier policies, by weights that are divided by their sum.
/// `weights` are those of all of the history, the reference's first; those of policies that are not there yet fall out.
pub(super) fn mixed(
    reference: PairLogProbs,
    earlier: &[PairLogProbs],
    weights: Option<&[f64]>,
) -> PairLogProbs {
    if earlier.is_empty() {
        return reference;
    }
    let weight = |place: usize| weights.and_then(|weights| weights.get(place)).copied().unwrap_or(1.0);
    let total: f64 = (0..=earlier.len()).map(weight).sum();
    let all = std::iter::once(&reference).chain(earlier).enumerate();
    all.fold(PairLogProbs { chosen: 0.0, rejected: 0.0 }, |sum, (place, value)| PairLogProbs {
        chosen: sum.chosen + weight(place) / total * value.chosen,
        rejected: sum.rejected + weight(place) / total * value.rejected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_policies_are_weighed_by_what_there_is_of_them() {
        let value = |x: f64| PairLogProbs { chosen: x, rejected: -x };
        let newest = PairLogProbs { chosen: 0.1 + 0.2, rejected: -1e-17 };
        assert_eq!(mixed(newest, &[], Some(&[0.3, 0.7])), newest);
        assert_eq!(mixed(value(8.0), &[value(4.0)], None), value(6.0));
        // 3 : 1 of three weights whose third policy is not there yet.
        assert_eq!(mixed(value(8.0), &[value(4.0)], Some(&[3.0, 1.0, 12.0])), value(7.0));
        assert_eq!(mixed(value(8.0), &[value(4.0), value(0.0)], Some(&[1.0, 1.0, 2.0])), value(3.0));
    }
}
