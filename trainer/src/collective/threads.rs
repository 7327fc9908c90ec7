//! Ranks that are threads of one process, with the order of sums of [`crate::collective`].
//!
//! Every call is a round: each rank hands in its values or handles to its tensors and waits until all have. Nothing is sent:
//! a rank reads and writes the others' tensors, each tensor by one rank, and a second round keeps all ranks waiting until all
//! are written. Meant for the memory of a CPU; tensors on a GPU work if the threads share one device and stream.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::sliced::{at_a_time, part, pieces};
use super::{Collective, Sliced, add_to};
use crate::TrainError;

/// One rank of a group of threads. Dropping it, and its handles, is leaving.
pub struct Threads(Arc<ThreadRank>);

struct ThreadRank {
    rank: usize,
    group: Arc<ThreadGroup>,
}

struct ThreadGroup {
    world: usize,
    round: Mutex<Round>,
    changed: Condvar,
}

/// The current round and the result of the one before it. No rank can hand in for a round before it has
/// read the result of the last one, so one result is enough.
struct Round {
    number: u64,
    given: Vec<Option<Given>>,
    result: Arc<Vec<Given>>,
    /// The first rank that left.
    left: Option<usize>,
}

/// What a rank hands in.
enum Given {
    Values(Vec<f64>),
    /// Handles to the rank's own memory.
    Tensors(Vec<Tensor>),
}

impl Threads {
    /// The ranks of a group of `world` threads, in order; each is moved to its thread.
    pub fn group(world: usize) -> Vec<Threads> {
        let group = Arc::new(ThreadGroup {
            world,
            round: Mutex::new(Round {
                number: 0,
                given: (0..world).map(|_| None).collect(),
                result: Arc::default(),
                left: None,
            }),
            changed: Condvar::new(),
        });
        (0..world).map(|rank| Threads(Arc::new(ThreadRank { rank, group: group.clone() }))).collect()
    }
}

impl ThreadRank {
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.group.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in, waits for all ranks, and returns what they have handed in, by rank.
    fn exchange(&self, own: Given) -> Result<Arc<Vec<Given>>, TrainError> {
        let mut round = self.lock();
        if let Some(rank) = round.left {
            return Err(TrainError::RankLost { rank });
        }
        let number = round.number;
        round.given[self.rank] = Some(own);
        if round.given.iter().all(Option::is_some) {
            round.result = Arc::new(round.given.iter_mut().filter_map(Option::take).collect());
            round.number += 1;
            self.group.changed.notify_all();
        }
        loop {
            // A round that is complete counts, also when a rank has left since.
            if round.number != number {
                return Ok(round.result.clone());
            }
            if let Some(rank) = round.left {
                return Err(TrainError::RankLost { rank });
            }
            round = self.group.changed.wait(round).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs `work` on every `world`-th tensor of all ranks, which is this rank's share of the list, and waits until
    /// the other ranks have done theirs. `work` gets one tensor of each rank, by rank.
    fn on_tensors(
        &self,
        tensors: &[&Tensor],
        work: impl Fn(&[&Tensor]) -> candle_core::Result<()>,
    ) -> Result<(), TrainError> {
        let places = (self.rank..tensors.len()).step_by(self.group.world);
        self.on_places(tensors, places, |_, each| work(each))
    }

    /// As [`ThreadRank::on_tensors`], on the tensors at these places of the list; `work` gets the place as well.
    fn on_places(
        &self,
        tensors: &[&Tensor],
        places: impl Iterator<Item = usize>,
        work: impl Fn(usize, &[&Tensor]) -> candle_core::Result<()>,
    ) -> Result<(), TrainError> {
        let all = self.exchange(Given::Tensors(tensors.iter().map(|&tensor| tensor.clone()).collect()))?;
        let lists = tensor_lists(&all)?;
        for place in places {
            let each: Vec<&Tensor> = lists.iter().map(|list| &list[place]).collect();
            if let Err(error) = work(place, &each) {
                self.leave();
                return Err(error.into());
            }
        }
        self.exchange(Given::Values(Vec::new())).map(drop)
    }

    fn leave(&self) {
        self.lock().left.get_or_insert(self.rank);
        self.group.changed.notify_all();
    }
}

/// All ranks' tensors, by rank.
///
/// Every rank checks the same lists, so all of them fail where one differs.
fn tensor_lists(all: &[Given]) -> Result<Vec<&[Tensor]>, TrainError> {
    let lists: Option<Vec<&[Tensor]>> = all
        .iter()
        .map(|given| match given {
            Given::Tensors(tensors) => Some(tensors.as_slice()),
            Given::Values(_) => None,
        })
        .collect();
    let lists = lists.ok_or(TrainError::RanksOutOfStep { what: "calls" })?;
    let same = |a: &[Tensor], b: &[Tensor]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.dims() == b.dims() && a.dtype() == b.dtype())
    };
    match lists.first() {
        Some(first) if lists.iter().any(|list| !same(first, list)) => {
            Err(TrainError::RanksOutOfStep { what: "tensors" })
        }
        _ => Ok(lists),
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.0.rank
    }

    fn world(&self) -> usize {
        self.0.group.world
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        self.0.on_tensors(tensors, |each| {
            let [sum, rest @ ..] = each else { return Ok(()) };
            rest.iter().try_for_each(|term| add_to(sum, term))?;
            rest.iter().try_for_each(|copy| copy.slice_set(sum, 0, 0))
        })
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        let all = self.0.exchange(Given::Values(values.to_vec()))?;
        let mut gathered = Vec::with_capacity(all.len() * values.len());
        let length = match all.first() {
            Some(Given::Values(first)) => first.len(),
            _ => return Err(TrainError::RanksOutOfStep { what: "calls" }),
        };
        for given in all.iter() {
            match given {
                Given::Values(theirs) if theirs.len() == length => gathered.extend_from_slice(theirs),
                Given::Values(_) => return Err(TrainError::RanksOutOfStep { what: "numbers of values" }),
                Given::Tensors(_) => return Err(TrainError::RanksOutOfStep { what: "calls" }),
            }
        }
        Ok(gathered)
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        self.0.on_tensors(tensors, |each| {
            let copies = each.iter().enumerate().filter(|&(rank, _)| rank != root);
            copies.into_iter().try_for_each(|(_, copy)| copy.slice_set(each[root], 0, 0))
        })
    }

    /// Every rank sums its own ranges, a piece of one at a time, while the others only read there.
    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        let whole: Vec<&Tensor> = tensors.iter().map(|sliced| sliced.tensor).collect();
        self.0.on_places(&whole, 0..tensors.len(), |place, each| {
            let most = at_a_time(tensors[place].tensor.device());
            for piece in pieces(&tensors[place].ranges[self.0.rank], most) {
                let part = |tensor: &Tensor| part(tensor, &piece);
                let Some((first, rest)) = each.split_first() else { return Ok(()) };
                let mut sum = part(first)?;
                for term in rest {
                    sum = (sum + part(term)?)?;
                }
                // Alone it is the tensor itself.
                if !rest.is_empty() {
                    part(each[self.0.rank])?.slice_set(&sum, 0, 0)?;
                }
            }
            Ok(())
        })
    }

    /// Every rank copies the others' ranges into its own tensors, through memory that no other rank knows: a copy from tensor to
    /// tensor holds the one while it waits for the other, and two ranks that copy from each other would wait for ever.
    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        let whole: Vec<&Tensor> = tensors.iter().map(|sliced| sliced.tensor).collect();
        self.0.on_places(&whole, 0..tensors.len(), |place, each| {
            let ranges = tensors[place].ranges.iter().enumerate();
            let most = at_a_time(tensors[place].tensor.device());
            for (owner, range) in ranges.filter(|&(owner, range)| owner != self.0.rank && !range.is_empty()) {
                for piece in pieces(range, most) {
                    let theirs = part(each[owner], &piece)?.force_contiguous()?;
                    part(each[self.0.rank], &piece)?.slice_set(&theirs, 0, 0)?;
                }
            }
            Ok(())
        })
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        Some(Arc::new(Threads(self.0.clone())))
    }

    fn leave(&self) {
        self.0.leave();
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        self.leave();
    }
}
