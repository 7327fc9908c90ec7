//! Ranks: the processes or threads that train one model together, and what they exchange.
//!
//! Data parallelism: every rank has all examples (token ids only), and takes the gradient of one part of each optimizer batch.
//! Gradients are summed over the ranks, and weights move alike on all. What of weights, gradients and optimizer state a rank
//! holds is `train.zero` ([`crate::zero`]): all of it, or its own ranges. Rank 0 alone writes: metrics, checkpoints, reference
//! log-probs.
//!
//! # Order of sums
//!
//! An optimizer batch is cut into [`Collective::parts`] parts of whole examples (`training/division.rs`), one per
//! rank. Within a part, micro-batches are made and their gradients accumulated as in a training of one rank, from zero.
//! Then the gradient is g₀ + g₁ + … + gₙ₋₁, added from the left in the order of parts, in the gradient's own dtype; the
//! parts' shares of loss, rewards and log-probs are added in the same order in f64. [`Alone::in_parts`] does the same on
//! one rank, with one more copy of the gradients, so that **n ranks of [`Threads`] and one rank in n parts write the same
//! bits**. With one part nothing is added, and a step is that of a plain training.
//!
//! Those are not the bits of a plain training whose micro-batches happen to be the parts: there, the tokens of the second
//! are added one by one onto the sum of the first.
//!
//! Losses are means over the whole batch: its counts follow from the examples, which every rank has; `kto-pair` also
//! needs the whole batch's log-probs, which are gathered first.
//!
//! # Calls must match
//!
//! Ranks make the same calls in the same order, each with lists of the same lengths and shapes. Between two calls a
//! rank may fail by itself (a full disk, say) or be stopped: it reports that in the next call (`agree`,
//! `agree_to_stop`), so that all ranks end at the same place, with the error or with a checkpoint. A rank that can't make the
//! next call [leaves](Collective::leave), and every call that waits for it fails with [`TrainError::RankLost`].
//!
//! # Implementations
//!
//! | | ranks | sums |
//! |---|---|---|
//! | [`Alone`] | one | none, or of parts one after the other |
//! | [`Threads`] | threads of one process | in the order above |
//! | `Mpi`, feature `mpi` | processes, by `mpirun` or `srun`; tensors on the host | in the order above |
//! | `Nccl`, feature `nccl` | processes, one per GPU; the tensors' own memory | NCCL's, fixed by topology and size, not by time |
//!
//! All but the last have the same bits. With NCCL all ranks get the same bits, and a repeated run on the same machines gets
//! them again, but they are not those of `in_parts`.
//!
//! All are called from one thread at a time. Ranks need not share a file system: only rank 0 reads and writes the run's folder.

mod alone;
#[cfg(any(test, feature = "mpi"))]
mod bytes;
#[cfg(any(test, feature = "nccl"))]
mod id_exchange;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(any(test, feature = "nccl"))]
mod nccl;
mod shard_claims;
pub(crate) mod sliced;
mod threads;

use std::sync::Arc;

use candle_core::Tensor;

use crate::TrainError;

pub use alone::Alone;
#[cfg(feature = "nccl")]
pub use id_exchange::{ExchangeFile, ExchangeSocket, ID_BYTES, IdExchange, RankId, Through};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use shard_claims::ShardClaims;
pub use sliced::Sliced;
use sliced::{at_a_time, part, pieces};
pub use threads::Threads;

/// One rank's view of all ranks.
pub trait Collective: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn world(&self) -> usize;

    /// The parts that an optimizer batch is cut into: one per rank, or any number on a single rank.
    fn parts(&self) -> usize {
        self.world()
    }

    /// Sums each tensor over the ranks, in place, and leaves the same bits on all of them. Tensors are contiguous and
    /// may lie on a GPU.
    ///
    /// # Errors
    /// A rank is lost, the ranks' lists differ, or the device fails; the tensors are then of no use.
    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError>;

    /// Every rank's values one after the other, by rank. All ranks give the same number of them.
    ///
    /// # Errors
    /// A rank is lost, or the ranks' numbers of values differ.
    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError>;

    /// Copies the tensors of rank `root` into those of all others, in place.
    ///
    /// # Errors
    /// As [`Collective::all_reduce`].
    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError>;

    /// Sums each tensor over the ranks as [`Collective::all_reduce`] does, each range of it for the rank that owns it: a rank's
    /// own ranges then hold the sums, and the rest of its tensors is of no use.
    ///
    /// # Errors
    /// As [`Collective::all_reduce`].
    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.all_reduce(&tensors.iter().map(|sliced| sliced.tensor).collect::<Vec<_>>())
    }

    /// Begins [`Collective::reduce_scatter`]: the tensors must be left alone until [`Collective::settle_sums`] was called.
    ///
    /// # Errors
    /// As [`Collective::all_reduce`].
    fn begin_reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.reduce_scatter(tensors)
    }

    /// Has what is computed from now on wait for the sums that were begun: where they run beside the computation.
    ///
    /// # Errors
    /// A rank is lost, or the device fails.
    fn settle_sums(&self) -> Result<(), TrainError> {
        Ok(())
    }

    /// Copies each range of each tensor from the rank that owns it to all others, in place. The tensors may be read once
    /// [`Collective::settle`] was called, and their own ranges must not be written before.
    ///
    /// # Errors
    /// As [`Collective::all_reduce`].
    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        for root in 0..self.world() {
            let parts: Vec<Tensor> = tensors
                .iter()
                .filter_map(|sliced| sliced.part_of(root).transpose())
                .collect::<Result<_, _>>()?;
            self.broadcast(&parts.iter().collect::<Vec<_>>(), root)?;
        }
        Ok(())
    }

    /// Has what is computed from now on wait for the gathers that were begun: where they run beside the computation.
    ///
    /// # Errors
    /// A rank is lost, or the device fails.
    fn settle(&self) -> Result<(), TrainError> {
        Ok(())
    }

    /// Another handle to this same rank; `None` where there is none to be had. `train.zero` past 1 needs one.
    fn handle(&self) -> Option<Arc<dyn Collective>> {
        None
    }

    /// How ranks of which one trains divide the log-probs that are taken before. `None`: those that train divide them, by rounds.
    fn shard_claims(&self) -> Option<&dyn ShardClaims> {
        None
    }

    /// Ends this rank's part: calls of other ranks that wait for it, or will, fail. Called on an error that the ranks
    /// could not agree on.
    fn leave(&self);
}

/// Whether this rank writes files and messages.
pub(crate) fn is_first(collective: &dyn Collective) -> bool {
    collective.rank() == 0
}

/// `result` where no rank has failed; this rank's error, or [`TrainError::RankLost`], where one has.
pub(crate) fn agree<T>(collective: &dyn Collective, result: Result<T, TrainError>) -> Result<T, TrainError> {
    agree_to_stop(collective, result, false).map(|(value, _)| value)
}

/// As [`agree`], and whether any rank was stopped.
pub(crate) fn agree_to_stop<T>(
    collective: &dyn Collective,
    result: Result<T, TrainError>,
    stop: bool,
) -> Result<(T, bool), TrainError> {
    if collective.world() == 1 {
        return result.map(|value| (value, stop));
    }
    let number = |flag: bool| f64::from(u8::from(flag));
    let all = match collective.all_gather(&[number(result.is_err()), number(stop)]) {
        Ok(all) => all,
        // This rank's own error explains more than the loss of the others.
        Err(lost) => return Err(result.err().unwrap_or(lost)),
    };
    let value = result?;
    match all.chunks_exact(2).position(|flags| flags[0] != 0.0) {
        Some(rank) => Err(TrainError::RankLost { rank }),
        None => Ok((value, all.chunks_exact(2).any(|flags| flags[1] != 0.0))),
    }
}

/// The values of rank 0, however many; those of other ranks are ignored.
pub(crate) fn from_first(collective: &dyn Collective, values: &[f64]) -> Result<Vec<f64>, TrainError> {
    if collective.world() == 1 {
        return Ok(values.to_vec());
    }
    let counts = collective.all_gather(&[values.len() as f64])?;
    let count = counts.first().map_or(0, |&count| count as usize);
    let mut given = vec![0.0; count];
    if is_first(collective) {
        given.copy_from_slice(values);
    }
    let mut all = collective.all_gather(&given)?;
    all.truncate(count);
    Ok(all)
}

/// Checks by a hash that all ranks were given the same `what`.
pub(crate) fn same_on_all(
    collective: &dyn Collective,
    what: &'static str,
    hash: &str,
) -> Result<(), TrainError> {
    if collective.world() == 1 {
        return Ok(());
    }
    let own: Vec<f64> = hash.bytes().map(f64::from).collect();
    let all = collective.all_gather(&own)?;
    // All ranks compare with rank 0's, so that all see a difference.
    if all.chunks(own.len().max(1)).any(|theirs| theirs != &all[..own.len()]) {
        return Err(TrainError::RanksDiffer { what });
    }
    Ok(())
}

/// Adds `term` to `sum` in place, element by element; both are contiguous.
pub(crate) fn add_to(sum: &Tensor, term: &Tensor) -> candle_core::Result<()> {
    for piece in pieces(&(0..sum.elem_count()), at_a_time(sum.device())) {
        let place = part(sum, &piece)?;
        place.slice_set(&(&place + part(term, &piece)?)?, 0, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
