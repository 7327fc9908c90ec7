//! Ranks that are processes with a GPU each: NCCL's collectives on the tensors' own memory.
//!
//! | call | NCCL's |
//! |---|---|
//! | `all_reduce` | `ncclAllReduce`, summed, in place |
//! | `reduce_scatter` | `ncclReduceScatter` where ranges are of one length, else `ncclReduce` of each range to its owner |
//! | `all_gather_slices` | `ncclAllGather`, else `ncclBroadcast` of each range from its owner |
//! | `broadcast` | `ncclBroadcast` |
//! | `all_gather` | `ncclAllGather` of a small tensor, then the host waits |
//!
//! The tensors of one call go in one group. Exchanges run on a stream of their own, in the order of the calls, each after what was
//! computed before it. What is computed after a call waits for it, but for `all_gather_slices` and `begin_reduce_scatter`: there
//! `settle` and `settle_sums` have it wait, each for the last of its own calls, so that neither waits for the other.
//!
//! A peer that is gone shows as an error of the communicator, which the host asks for while it waits; ranks exchange some numbers
//! before each pass and after each step, so that no rank goes on for longer than that.
//!
//! What the library does is behind `Library`, whose calls tests record.

#[cfg(feature = "nccl")]
mod library;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use selfplay_model::gpu::address;

use super::{Collective, Sliced};
use crate::TrainError;

#[cfg(feature = "nccl")]
use super::id_exchange::IdExchange;
#[cfg(feature = "nccl")]
pub(crate) use library::Cuda;

/// One rank, on one GPU.
#[cfg(feature = "nccl")]
pub type Nccl = GpuRank<Cuda>;

/// Numbers of one type in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    address: u64,
    count: usize,
    dtype: DType,
}

/// One of the library's collectives, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// All ranks get the sum.
    AllReduce(Numbers),
    /// `root` gets the sum.
    Reduce(Numbers, usize),
    /// Each rank gets its range of the sum, all of one length; the numbers are all ranges.
    ReduceScatter(Numbers),
    /// Each rank brings its range, all of one length; the numbers are all ranges.
    AllGather(Numbers),
    /// From `root`.
    Broadcast(Numbers, usize),
}

/// Calls that run beside what is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Of weights.
    Gathers,
    /// Of gradients.
    Sums,
}

/// The library, and the streams that its calls run on.
pub trait Library: Send + Sync {
    /// Begins the calls as one group, after all that was computed so far.
    fn run(&self, rank: usize, calls: &[Call]) -> Result<(), TrainError>;

    /// Has what is computed from now on wait for the calls so far.
    fn order(&self) -> Result<(), TrainError>;

    /// Marks the calls so far as the last ones of a kind.
    fn mark(&self, beside: Beside) -> Result<(), TrainError>;

    /// Has what is computed from now on wait for the calls up to the mark of a kind, if there is one.
    fn order_marked(&self, beside: Beside) -> Result<(), TrainError>;

    /// Waits on the host until all calls are done, or a peer is gone.
    fn wait(&self) -> Result<(), TrainError>;

    /// Where the numbers of this rank are.
    fn device(&self) -> &Device;

    /// Ends the communicator.
    fn abort(&self);
}

/// One rank, over some library.
pub struct GpuRank<L> {
    rank: usize,
    world: usize,
    library: Arc<L>,
}

#[cfg(feature = "nccl")]
impl Nccl {
    /// Joins `world` ranks as `rank`, each with a device of its own; all of them call it.
    ///
    /// # Errors
    /// No NCCL on this machine, a device that is no GPU, or ranks that do not come.
    pub fn start(
        device: &Device,
        rank: usize,
        world: usize,
        exchange: &dyn IdExchange,
    ) -> Result<Self, TrainError> {
        let library = Arc::new(Cuda::start(device, rank, world, exchange)?);
        Ok(Self { rank, world, library })
    }
}

impl<L: Library> GpuRank<L> {
    fn run(&self, calls: &[Call]) -> Result<(), TrainError> {
        if self.world == 1 || calls.is_empty() { Ok(()) } else { self.library.run(self.rank, calls) }
    }

    fn run_in_order(&self, calls: &[Call]) -> Result<(), TrainError> {
        self.run(calls)?;
        if self.world == 1 { Ok(()) } else { self.library.order() }
    }

    fn run_beside(&self, calls: &[Call], beside: Beside) -> Result<(), TrainError> {
        self.run(calls)?;
        if self.world == 1 { Ok(()) } else { self.library.mark(beside) }
    }

    fn settle_marked(&self, beside: Beside) -> Result<(), TrainError> {
        if self.world == 1 { Ok(()) } else { self.library.order_marked(beside) }
    }
}

/// All numbers of a contiguous tensor.
fn numbers(tensor: &Tensor) -> candle_core::Result<Numbers> {
    Ok(Numbers { address: address(tensor)?, count: tensor.elem_count(), dtype: tensor.dtype() })
}

impl Numbers {
    fn range(self, range: &Range<usize>) -> Self {
        let offset = (range.start * self.dtype.size_in_bytes()) as u64;
        Self { address: self.address + offset, count: range.len(), ..self }
    }
}

/// The calls for a list of tensors with ranges: one of `even` where ranges are of one length, else one of `each` for every range,
/// with its owner.
fn calls_of(
    tensors: &[Sliced<'_>],
    even: impl Fn(Numbers) -> Call,
    each: impl Fn(Numbers, usize) -> Call,
) -> candle_core::Result<Vec<Call>> {
    let mut calls = Vec::new();
    for sliced in tensors {
        let whole = numbers(sliced.tensor)?;
        let length = sliced.ranges.first().map_or(0, Range::len);
        if length > 0 && sliced.ranges.iter().all(|range| range.len() == length) {
            calls.push(even(whole));
            continue;
        }
        let owned = sliced.ranges.iter().enumerate().filter(|(_, range)| !range.is_empty());
        calls.extend(owned.map(|(owner, range)| each(whole.range(range), owner)));
    }
    Ok(calls)
}

impl<L: Library + 'static> Collective for GpuRank<L> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        let calls = tensors.iter().map(|tensor| Ok(Call::AllReduce(numbers(tensor)?)));
        self.run_in_order(&calls.collect::<candle_core::Result<Vec<_>>>()?)
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        if self.world == 1 {
            return Ok(values.to_vec());
        }
        // The count goes first: NCCL would wait for ever for what the others do not send.
        let counts = self.gather_numbers(&[values.len() as f64])?;
        if counts.iter().any(|&count| count != values.len() as f64) {
            return Err(TrainError::RanksOutOfStep { what: "numbers of values" });
        }
        if values.is_empty() { Ok(Vec::new()) } else { self.gather_numbers(values) }
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        let calls = tensors.iter().map(|tensor| Ok(Call::Broadcast(numbers(tensor)?, root)));
        self.run_in_order(&calls.collect::<candle_core::Result<Vec<_>>>()?)
    }

    fn reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.run_in_order(&calls_of(tensors, Call::ReduceScatter, Call::Reduce)?)
    }

    fn begin_reduce_scatter(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.run_beside(&calls_of(tensors, Call::ReduceScatter, Call::Reduce)?, Beside::Sums)
    }

    fn settle_sums(&self) -> Result<(), TrainError> {
        self.settle_marked(Beside::Sums)
    }

    fn all_gather_slices(&self, tensors: &[Sliced<'_>]) -> Result<(), TrainError> {
        self.run_beside(&calls_of(tensors, Call::AllGather, Call::Broadcast)?, Beside::Gathers)
    }

    fn settle(&self) -> Result<(), TrainError> {
        self.settle_marked(Beside::Gathers)
    }

    fn handle(&self) -> Option<Arc<dyn Collective>> {
        let Self { rank, world, library } = self;
        Some(Arc::new(Self { rank: *rank, world: *world, library: library.clone() }))
    }

    fn leave(&self) {
        self.library.abort();
    }
}

impl<L: Library> GpuRank<L> {
    /// As many numbers of each rank, by rank.
    fn gather_numbers(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        let mut all = vec![0f64; self.world * values.len()];
        all[self.rank * values.len()..][..values.len()].copy_from_slice(values);
        let all = Tensor::from_vec(all, self.world * values.len(), self.library.device())?;
        self.run(&[Call::AllGather(numbers(&all)?)])?;
        self.library.wait()?;
        Ok(all.to_vec1()?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::collective::tests::tensor;

    /// What was asked of the library; it computes nothing.
    struct Recorder {
        log: Mutex<Vec<String>>,
        base: u64,
    }

    impl Library for Recorder {
        fn run(&self, rank: usize, calls: &[Call]) -> Result<(), TrainError> {
            let mut log = self.log.lock().unwrap();
            let of = |n: &Numbers| format!("{}+{}", (n.address - self.base) / 4, n.count);
            log.push(format!("group of {} by {rank}", calls.len()));
            log.extend(calls.iter().map(|call| match call {
                Call::AllReduce(n) => format!("all-reduce {}", of(n)),
                Call::Reduce(n, root) => format!("reduce {} to {root}", of(n)),
                Call::ReduceScatter(n) => format!("reduce-scatter {}", of(n)),
                Call::AllGather(n) if n.dtype == DType::F64 => format!("all-gather of {} values", n.count),
                Call::AllGather(n) => format!("all-gather {}", of(n)),
                Call::Broadcast(n, root) => format!("broadcast {} from {root}", of(n)),
            }));
            Ok(())
        }

        fn order(&self) -> Result<(), TrainError> {
            self.log.lock().unwrap().push("order".into());
            Ok(())
        }

        fn mark(&self, beside: Beside) -> Result<(), TrainError> {
            self.log.lock().unwrap().push(format!("mark {beside:?}"));
            Ok(())
        }

        fn order_marked(&self, beside: Beside) -> Result<(), TrainError> {
            self.log.lock().unwrap().push(format!("order {beside:?}"));
            Ok(())
        }

        fn wait(&self) -> Result<(), TrainError> {
            self.log.lock().unwrap().push("wait".into());
            Ok(())
        }

        fn device(&self) -> &Device {
            &Device::Cpu
        }

        fn abort(&self) {
            self.log.lock().unwrap().push("abort".into());
        }
    }

    fn recorded(world: usize, base: u64, work: impl Fn(&GpuRank<Recorder>)) -> Vec<String> {
        let library = Arc::new(Recorder { log: Mutex::default(), base });
        let rank = GpuRank { rank: usize::min(1, world - 1), world, library: library.clone() };
        work(&rank);
        library.log.lock().unwrap().clone()
    }

    #[test]
    fn calls_are_grouped_and_ranges_find_their_owners() {
        let whole = tensor(&[0.0; 40]);
        let (a, b) = (whole.narrow(0, 0, 10).unwrap(), whole.narrow(0, 10, 9).unwrap());
        let base = address(&whole).unwrap();
        let (even, odd) = ([0..5, 5..10], [0..0, 0..9]);
        let sliced = [Sliced { tensor: &a, ranges: &even }, Sliced { tensor: &b, ranges: &odd }];
        let log = recorded(2, base, |rank| {
            rank.all_reduce(&[&a, &b]).unwrap();
            rank.reduce_scatter(&sliced).unwrap();
            rank.all_gather_slices(&sliced).unwrap();
            rank.begin_reduce_scatter(&sliced[..1]).unwrap();
            rank.settle().unwrap();
            rank.settle_sums().unwrap();
            rank.broadcast(&[&b], 0).unwrap();
            rank.handle().unwrap().leave();
        });
        assert_eq!(
            log,
            [
                "group of 2 by 1",
                "all-reduce 0+10",
                "all-reduce 10+9",
                "order",
                "group of 2 by 1",
                "reduce-scatter 0+10",
                "reduce 10+9 to 1",
                "order",
                "group of 2 by 1",
                "all-gather 0+10",
                "broadcast 10+9 from 1",
                "mark Gathers",
                "group of 1 by 1",
                "reduce-scatter 0+10",
                "mark Sums",
                "order Gathers",
                "order Sums",
                "group of 1 by 1",
                "broadcast 10+9 from 0",
                "order",
                "abort",
            ]
        );
    }

    #[test]
    fn values_are_waited_for_and_one_rank_asks_for_nothing() {
        // The recorder gathers nothing: the other rank's count stays 0.
        let log = recorded(2, 0, |rank| {
            let refused = rank.all_gather(&[2.0, 3.0]).unwrap_err();
            assert!(matches!(refused, TrainError::RanksOutOfStep { .. }));
            assert_eq!(rank.gather_numbers(&[2.0, 3.0]).unwrap(), [0.0, 0.0, 2.0, 3.0]);
        });
        assert_eq!(
            log,
            [
                "group of 1 by 1",
                "all-gather of 2 values",
                "wait",
                "group of 1 by 1",
                "all-gather of 4 values",
                "wait"
            ]
        );
        let own = tensor(&[1.0, 2.0]);
        let log = recorded(1, 0, |rank| {
            rank.all_reduce(&[&own]).unwrap();
            rank.settle().unwrap();
            assert_eq!(rank.all_gather(&[4.0]).unwrap(), [4.0]);
        });
        assert!(log.is_empty(), "{log:?}");
    }
}
