//! Ranks that are processes started by `mpirun`, `srun` or what else starts MPI programs, with the order of sums of
//! [`crate::collective`].
//!
//! Tensors travel as bytes, between the tensors' own memory where that is the host's: of each tensor a rank gets its own range
//! from all others, piece by piece, adds the ranges from the left and, where all are to have the sum, gathers what the others
//! have added. So a rank sends and receives twice the tensors' bytes times (n − 1) / n, and a piece of each rank is in memory
//! besides them.
//!
//! MPI ends a job in which a process ends without saying so. [`Collective::leave`] says so in time: the process has a grace
//! period to print its error and to end; where all ranks leave together MPI is ended in order, and otherwise the job is aborted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use mpi::collective::CommunicatorCollectives;
use mpi::environment::{Threading, Universe};
use mpi::point_to_point::{Destination, Source};
use mpi::request::multiple_scope;
use mpi::topology::{Communicator, SimpleCommunicator};

use super::bytes::{add_bytes, on_bytes, split};
use super::{Collective, Sliced};
use crate::TrainError;

/// Bytes of a piece that is summed at a time: with one of each other rank in a processor's cache.
const PIECE: usize = 1 << 18;
/// Bytes of one message at most.
const MESSAGE: usize = 1 << 26;
/// How long other ranks are waited for when this one leaves.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a rank that has left may live on.
const GRACE: Duration = Duration::from_secs(60);

static STARTED: Mutex<Weak<World>> = Mutex::new(Weak::new());

/// One process of an MPI job. MPI ends when the last handle is dropped, and can't be started again in this process.
#[derive(Clone)]
pub struct Mpi(Arc<World>);

/// Fields are dropped in this order: MPI ends last.
struct World {
    rank: usize,
    size: usize,
    has_left: AtomicBool,
    /// For ranks that leave, so that their calls meet no others.
    farewells: Option<SimpleCommunicator>,
    all: SimpleCommunicator,
    _universe: Universe,
}

// SAFETY: handles of communicators may be used from any thread; MPI was asked to allow calls from several threads one at a
// time, which is how a `Collective` is called.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl Mpi {
    /// Starts MPI in this process, or gives another handle where it is started.
    ///
    /// # Errors
    /// MPI has ended in this process, was started by something else, or allows no calls but of its first thread.
    pub fn start() -> Result<Self, TrainError> {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(world) = started.upgrade() {
            return Ok(Self(world));
        }
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
            return Err(failed("MPI was started in this process before, and can't be started twice"));
        };
        if threading < Threading::Serialized {
            return Err(failed("this MPI library lets its first thread alone call it"));
        }
        let all = universe.world();
        let (rank, size) = (all.rank() as usize, all.size() as usize);
        let farewells = Some(all.duplicate());
        let has_left = AtomicBool::new(false);
        let world = Arc::new(World { rank, size, has_left, farewells, all, _universe: universe });
        *started = Arc::downgrade(&world);
        Ok(Self(world))
    }

    /// Sends each other rank its bytes and receives its bytes for this one, of lengths that both know; by rank, this rank's own
    /// and empty ones are left out.
    fn exchange(&self, sends: &[&[u8]], receives: &mut [&mut [u8]]) {
        let others = |rank: &usize| *rank != self.0.rank;
        let count = sends.len() + receives.len();
        multiple_scope(count, |scope, requests| {
            for (rank, bytes) in
                receives.iter_mut().enumerate().filter(|(rank, bytes)| others(rank) && !bytes.is_empty())
            {
                requests
                    .add(self.0.all.process_at_rank(rank as i32).immediate_receive_into(scope, &mut **bytes));
            }
            for (rank, bytes) in
                sends.iter().enumerate().filter(|(rank, bytes)| others(rank) && !bytes.is_empty())
            {
                requests.add(self.0.all.process_at_rank(rank as i32).immediate_send(scope, *bytes));
            }
            requests.wait_all(&mut Vec::with_capacity(count));
        });
    }

    /// In how many rounds the parts travel, a piece of at most so many bytes of each in a round.
    fn rounds(parts: &[&mut [u8]], most: usize) -> usize {
        parts.iter().map(|part| part.len().div_ceil(most)).max().unwrap_or(0)
    }

    /// Sums each rank's part of one tensor for it. A term's place in a sum is its rank's.
    fn sum_parts(
        &self,
        dtype: DType,
        parts: &mut [&mut [u8]],
        scratch: &mut Vec<u8>,
    ) -> candle_core::Result<()> {
        let (own, size) = (self.0.rank, self.0.size);
        scratch.resize(size * PIECE, 0);
        for round in 0..Self::rounds(parts, PIECE) {
            let piece = |part: &[u8]| (round * PIECE).min(part.len())..((round + 1) * PIECE).min(part.len());
            let place = piece(parts[own]);
            let mut terms: Vec<&mut [u8]> =
                scratch.chunks_exact_mut(PIECE).map(|term| &mut term[..place.len()]).collect();
            let sends: Vec<&[u8]> = parts.iter().map(|part| &part[piece(part)]).collect();
            self.exchange(&sends, &mut terms);
            let sum = &mut parts[own][place];
            let (first, others) = terms.split_at_mut(own);
            // Before the own term, those of lower ranks; two numbers have one sum in either order.
            if let [first, lower @ ..] = first {
                lower.iter().try_for_each(|term| add_bytes(dtype, first, term))?;
                add_bytes(dtype, sum, first)?;
            }
            others.iter().skip(1).try_for_each(|term| add_bytes(dtype, sum, term))?;
        }
        Ok(())
    }

    /// Brings each rank's part of one tensor to all.
    fn gather_parts(&self, parts: &mut [&mut [u8]]) {
        for round in 0..Self::rounds(parts, MESSAGE) {
            let mut own: &[u8] = &[];
            let mut receives: Vec<&mut [u8]> = Vec::with_capacity(parts.len());
            for (rank, part) in parts.iter_mut().enumerate() {
                let piece = (round * MESSAGE).min(part.len())..((round + 1) * MESSAGE).min(part.len());
                if rank == self.0.rank {
                    own = &part[piece];
                    receives.push(&mut []);
                } else {
                    receives.push(&mut part[piece]);
                }
            }
            self.exchange(&vec![own; self.0.size], &mut receives);
        }
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.0.rank
    }

    fn world(&self) -> usize {
        self.0.size
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        if self.0.size == 1 {
            return Ok(());
        }
        let ranges: Vec<_> =
            tensors.iter().map(|tensor| even_ranges(tensor.elem_count(), self.0.size)).collect();
        let sliced: Vec<Sliced<'_>> =
            tensors.iter().zip(&ranges).map(|(&tensor, ranges)| Sliced { tensor, ranges }).collect();
        self.reduce_scatter(&sliced)?;
        self.all_gather_slices(&sliced)
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        if self.0.size == 1 {
            return Ok(values.to_vec());
        }
        // Lengths that differ would end in MPI's own abort.
        let mut lengths = vec![0u64; self.0.size];
        self.0.all.all_gather_into(&(values.len() as u64), &mut lengths[..]);
        if lengths.iter().any(|&length| length != lengths[0]) {
            return Err(TrainError::RanksOutOfStep { what: "numbers of values" });
        }
        let mut gathered = vec![0f64; values.len() * self.0.size];
        if !values.is_empty() {
            self.0.all.all_gather_into(values, &mut gathered[..]);
        }
        Ok(gathered)
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        if self.0.size == 1 {
            return Ok(());
        }
        for &tensor in tensors {
            let mut ranges = vec![0..0; self.0.size];
            let Some(range) = ranges.get_mut(root) else {
                return Err(TrainError::RanksOutOfStep { what: "roots" });
            };
            *range = 0..tensor.elem_count();
            self.all_gather_slices(&[Sliced { tensor, ranges: &ranges }])?;
        }
        Ok(())
    }

    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        if self.0.size == 1 {
            return Ok(());
        }
        let mut scratch = Vec::new();
        for Sliced { tensor, ranges } in tensors {
            let dtype = tensor.dtype();
            on_bytes(tensor, |bytes| {
                self.sum_parts(dtype, &mut split(bytes, ranges, dtype.size_in_bytes())?, &mut scratch)
            })??;
        }
        Ok(())
    }

    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        if self.0.size == 1 {
            return Ok(());
        }
        for Sliced { tensor, ranges } in tensors {
            on_bytes(tensor, |bytes| -> candle_core::Result<()> {
                self.gather_parts(&mut split(bytes, ranges, tensor.dtype().size_in_bytes())?);
                Ok(())
            })??;
        }
        Ok(())
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        Some(Arc::new(self.clone()))
    }

    /// Others that wait for this rank do so until its process ends, or for a minute: then the job is aborted.
    fn leave(&self) {
        if self.0.size == 1 || self.0.has_left.swap(true, Ordering::SeqCst) {
            return;
        }
        let watched = Arc::downgrade(&self.0);
        thread::spawn(move || {
            thread::sleep(GRACE);
            // Still in use: this process hangs.
            if let Some(world) = watched.upgrade() {
                world.all.abort(1);
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(farewells) = self.farewells.take() else { return };
        if self.has_left.load(Ordering::SeqCst) || thread::panicking() {
            // MPI's end waits for all ranks: is that to be had?
            let mut request = farewells.immediate_barrier();
            let deadline = Instant::now() + FAREWELL;
            loop {
                match request.test() {
                    Ok(_) => break,
                    Err(_) if Instant::now() >= deadline => self.all.abort(1),
                    Err(pending) => request = pending,
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn failed(problem: impl Into<String>) -> TrainError {
    TrainError::Exchange { library: "MPI", problem: problem.into() }
}

/// So many numbers in as many ranges as ranks, the first ones one longer where they do not come out even.
fn even_ranges(numbers: usize, ranks: usize) -> Vec<std::ops::Range<usize>> {
    let (each, longer) = (numbers / ranks, numbers % ranks);
    let first = |rank: usize| rank * each + rank.min(longer);
    (0..ranks).map(|rank| first(rank)..first(rank + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_even() {
        assert_eq!(even_ranges(10, 3), [0..4, 4..7, 7..10]);
        assert_eq!(even_ranges(2, 3), [0..1, 1..2, 2..2]);
    }
}
