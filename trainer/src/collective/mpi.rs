//! Ranks that are processes started by `mpirun`, `srun` or what else starts MPI programs, with the order of sums of
//! [`crate::collective`].
//!
//! Tensors travel as bytes through the host's memory, in pieces: of each tensor a rank gets its own range from all others, adds
//! the ranges from the left and, where all are to have the sum, gathers what the others have added. So a rank sends and
//! receives twice the tensors' bytes times (n − 1) / n, and a piece of each rank is in memory besides them.
//!
//! MPI ends a job in which a process ends without saying so. [`Collective::leave`] says so in time: the process has a grace
//! period to print its error and to end; where all ranks leave together MPI is ended in order, and otherwise the job is aborted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use mpi::collective::CommunicatorCollectives;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::{Threading, Universe};
use mpi::topology::{Communicator, SimpleCommunicator};

use super::bytes::{add_bytes, bytes_of, put_bytes};
use super::sliced::{part, pieces};
use super::{Collective, Sliced};
use crate::TrainError;

/// Numbers of a piece of all ranks together.
const PIECE: usize = 1 << 20;
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

    /// Sends each rank its part of `bytes` and returns what all have sent to this one, by rank; the lengths are known to both.
    fn all_to_all(&self, bytes: &[u8], sends: &[usize], receives: &[usize]) -> Result<Vec<u8>, TrainError> {
        let total = receives.iter().sum();
        let mut received = room(total);
        let (sends, send_places) = layout(sends)?;
        let (receives, receive_places) = layout(receives)?;
        let from = Partition::new(placed(bytes), sends, send_places);
        let mut into = PartitionMut::new(&mut received[..], receives, receive_places);
        self.0.all.all_to_all_varcount_into(&from, &mut into);
        received.truncate(total);
        Ok(received)
    }

    /// The bytes of all ranks, by rank; the lengths are known to all.
    fn gather_bytes(&self, own: &[u8], lengths: &[usize]) -> Result<Vec<u8>, TrainError> {
        let total = lengths.iter().sum();
        let mut received = room(total);
        let (lengths, places) = layout(lengths)?;
        let mut into = PartitionMut::new(&mut received[..], lengths, places);
        self.0.all.all_gather_varcount_into(placed(own), &mut into);
        received.truncate(total);
        Ok(received)
    }

    /// Runs `work` with the pieces of a tensor's ranges that travel together: one of each rank, some of them empty.
    fn over_pieces(
        &self,
        sliced: &Sliced<'_>,
        mut work: impl FnMut(&[std::ops::Range<usize>]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let most = (PIECE / self.0.size).max(1);
        let of_ranks: Vec<Vec<_>> = sliced.ranges.iter().map(|range| pieces(range, most).collect()).collect();
        let rounds = of_ranks.iter().map(Vec::len).max().unwrap_or(0);
        for round in 0..rounds {
            let piece = |of_rank: &Vec<std::ops::Range<usize>>| of_rank.get(round).cloned().unwrap_or(0..0);
            work(&of_ranks.iter().map(piece).collect::<Vec<_>>())?;
        }
        Ok(())
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
        for sliced in tensors {
            let dtype = sliced.tensor.dtype();
            let width = dtype.size_in_bytes();
            self.over_pieces(sliced, |pieces| {
                let mut bytes = Vec::new();
                for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                    bytes_of(&part(sliced.tensor, piece)?, &mut bytes)?;
                }
                let own = &pieces[self.0.rank];
                let sends: Vec<usize> = pieces.iter().map(|piece| width * piece.len()).collect();
                let terms = self.all_to_all(&bytes, &sends, &vec![width * own.len(); self.0.size])?;
                if own.is_empty() {
                    return Ok(());
                }
                let mut terms = terms.chunks_exact(width * own.len());
                let mut sum = terms.next().unwrap_or_default().to_vec();
                for term in terms {
                    add_bytes(dtype, &mut sum, term)?;
                }
                Ok(put_bytes(&part(sliced.tensor, own)?, &sum)?)
            })?;
        }
        Ok(())
    }

    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        if self.0.size == 1 {
            return Ok(());
        }
        for sliced in tensors {
            let width = sliced.tensor.dtype().size_in_bytes();
            self.over_pieces(sliced, |pieces| {
                let mut bytes = Vec::new();
                let own = &pieces[self.0.rank];
                if !own.is_empty() {
                    bytes_of(&part(sliced.tensor, own)?, &mut bytes)?;
                }
                let lengths: Vec<usize> = pieces.iter().map(|piece| width * piece.len()).collect();
                let all = self.gather_bytes(&bytes, &lengths)?;
                let mut rest = &all[..];
                for (rank, (piece, &length)) in pieces.iter().zip(&lengths).enumerate() {
                    let (theirs, others) = rest.split_at(length);
                    rest = others;
                    if rank != self.0.rank && !piece.is_empty() {
                        put_bytes(&part(sliced.tensor, piece)?, theirs)?;
                    }
                }
                Ok(())
            })?;
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
        if self.has_left.load(Ordering::SeqCst) {
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

/// Memory for so many bytes, which is somewhere also where they are none: the address that Rust gives an empty list of bytes is 1,
/// and to Open MPI this is `MPI_IN_PLACE`.
fn room(bytes: usize) -> Vec<u8> {
    vec![0u8; bytes.max(1)]
}

/// The same bytes, at an address of a memory: see [`room`].
fn placed(bytes: &[u8]) -> &[u8] {
    static SOMEWHERE: [u8; 1] = [0];
    if bytes.is_empty() { &SOMEWHERE[..0] } else { bytes }
}

/// Lengths and places of parts that lie one behind the other, as MPI takes them.
fn layout(lengths: &[usize]) -> Result<(Vec<i32>, Vec<i32>), TrainError> {
    let mut next = 0i32;
    let (mut counts, mut places) = (Vec::with_capacity(lengths.len()), Vec::with_capacity(lengths.len()));
    for &length in lengths {
        let count = i32::try_from(length).ok();
        let Some((count, end)) = count.and_then(|count| Some((count, next.checked_add(count)?))) else {
            return Err(failed("a piece of a tensor is too large for its counts"));
        };
        counts.push(count);
        places.push(next);
        next = end;
    }
    Ok((counts, places))
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
    fn nothing_is_at_an_address_too() {
        let empty: Vec<u8> = Vec::new();
        assert!(placed(&empty).is_empty() && placed(&empty).as_ptr() as usize > 1);
        assert!(room(0).as_ptr() as usize > 1);
        assert_eq!(placed(&[7, 8]), [7, 8]);
    }

    #[test]
    fn ranges_are_even_and_layouts_follow() {
        assert_eq!(even_ranges(10, 3), [0..4, 4..7, 7..10]);
        assert_eq!(even_ranges(2, 3), [0..1, 1..2, 2..2]);
        assert_eq!(layout(&[4, 0, 3]).unwrap(), (vec![4, 0, 3], vec![0, 4, 4]));
        assert!(layout(&[usize::MAX]).is_err() && layout(&[1 << 30, 1 << 30]).is_err());
    }
}
