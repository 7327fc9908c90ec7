//! The collective of MPI by itself: mpirun starts this very test program, whose processes are ranks.
//!
//! What they compute is held against numbers; how they leave, against what mpirun says of it.

use std::process::Command;
use std::time::Duration;

use candle_core::{Device, Tensor};
use selfplay_testing::Outcome;
use selfplay_trainer::TrainError;
use selfplay_trainer::collective::{Collective, Mpi, Sliced};

use super::has_mpirun;

/// Names what a rank is to do.
const PART: &str = "SELFPLAY_TEST_MPI_PART";

/// Numbers of a tensor that travels in several pieces, which do not come out even.
const MANY: usize = (1 << 20) + 5;

/// What a rank does, where one of the tests below has started this program; by itself nothing.
#[test]
fn as_a_rank() {
    let Ok(part) = std::env::var(PART) else { return };
    let ranks = Mpi::start().unwrap();
    let is_first = ranks.rank() == 0;
    let status = match part.as_str() {
        "compute" => {
            sums(&ranks);
            ranges(&ranks);
            lists_that_differ(&ranks);
            0
        }
        // All have met an error that they could not agree on.
        "together" => {
            ranks.leave();
            3
        }
        // One has met it, and the others wait for that one.
        "alone" if !is_first => {
            ranks.leave();
            4
        }
        "silent" if !is_first => std::process::exit(7),
        "panic" if !is_first => panic!("a defect"),
        _ => {
            let _ = ranks.all_gather(&[1.0]);
            0
        }
    };
    drop(ranks);
    std::process::exit(status);
}

/// The first rank's number at a place, then the others' added from the left.
fn sum_at(place: usize, world: usize) -> f32 {
    (1..world).fold(own_at(place, 0), |sum, rank| sum + own_at(place, rank))
}

/// A rank's number at a place; rounding depends on the order of a sum.
fn own_at(place: usize, rank: usize) -> f32 {
    let wide = [1.0e-3_f32, 1.0, 3.0e4][rank % 3];
    wide * (1.0 + (place * 7919 + rank) as f32 % 1021.0 / 1021.0)
}

fn own(rank: usize, numbers: usize) -> Tensor {
    let values: Vec<f32> = (0..numbers).map(|place| own_at(place, rank)).collect();
    Tensor::from_vec(values, numbers, &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn sums(ranks: &Mpi) {
    let (rank, world) = (ranks.rank(), ranks.world());
    // The last one has fewer numbers than there are ranks.
    let tensors: Vec<Tensor> = [MANY, 5, 1].map(|numbers| own(rank, numbers)).into();
    ranks.all_reduce(&tensors.iter().collect::<Vec<_>>()).unwrap();
    for tensor in &tensors {
        let want: Vec<u32> = (0..tensor.elem_count()).map(|place| sum_at(place, world).to_bits()).collect();
        assert!(bits(tensor) == want, "rank {rank}: {} numbers", want.len());
    }
    let all = ranks.all_gather(&[rank as f64, 0.5]).unwrap();
    assert_eq!(all, (0..world).flat_map(|rank| [rank as f64, 0.5]).collect::<Vec<_>>());
    assert_eq!(ranks.all_gather(&[]).unwrap(), [0.0; 0]);
    let copy = own(rank, MANY);
    ranks.broadcast(&[&copy], 1).unwrap();
    assert!(bits(&copy) == bits(&own(1, MANY)), "rank {rank}");
}

fn ranges(ranks: &Mpi) {
    let (rank, world) = (ranks.rank(), ranks.world());
    // Rank 1 owns nothing, the last one nearly all.
    let cuts = [0, 10, 10, MANY];
    let ranges: Vec<_> = (0..world).map(|rank| cuts[rank]..cuts[rank + 1]).collect();
    let tensor = own(rank, MANY);
    ranks.reduce_scatter(&[Sliced { tensor: &tensor, ranges: &ranges }]).unwrap();
    let sums = bits(&tensor);
    assert!(ranges[rank].clone().all(|place| sums[place] == sum_at(place, world).to_bits()), "rank {rank}");
    ranks.all_gather_slices(&[Sliced { tensor: &tensor, ranges: &ranges }]).unwrap();
    ranks.settle().unwrap();
    let all = bits(&tensor);
    assert!((0..MANY).all(|place| all[place] == sum_at(place, world).to_bits()), "rank {rank}");
}

/// Ranks that give other numbers of values find that out together, and can go on.
fn lists_that_differ(ranks: &Mpi) {
    let more = vec![0.0; 1 + ranks.rank()];
    assert!(matches!(ranks.all_gather(&more), Err(TrainError::RanksOutOfStep { .. })));
    let one = own(ranks.rank(), 4);
    assert!(matches!(ranks.broadcast(&[&one], 99), Err(TrainError::RanksOutOfStep { .. })));
    assert_eq!(ranks.all_gather(&[1.0]).unwrap().len(), ranks.world());
}

/// What so many ranks of this program say and end with.
fn ranks_of(count: usize, part: &str) -> Outcome {
    let mut command = Command::new("mpirun");
    command.args(["-n", &count.to_string(), "--oversubscribe", "--bind-to", "none"]);
    command.args(["--mca", "btl_vader_single_copy_mechanism", "none"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["ranks::mpi::library::as_a_rank", "--exact", "--nocapture", "--test-threads", "1"]);
    command.env(PART, part);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    Outcome::of(&mut command)
}

/// The same, which must end soon: nothing is computed.
#[track_caller]
fn soon(part: &str) -> Outcome {
    let outcome = ranks_of(2, part);
    assert!(outcome.took < Duration::from_secs(40), "{part}: {:?}\n{}", outcome.took, outcome.stderr);
    outcome
}

#[test]
fn what_ranks_exchange_is_added_in_their_order() {
    if has_mpirun() {
        ranks_of(3, "compute").ok();
    }
}

#[test]
fn ranks_that_leave_together_end_mpi_and_keep_their_own_status() {
    if !has_mpirun() {
        return;
    }
    let outcome = soon("together");
    assert_eq!(outcome.status, Some(3), "{}", outcome.stderr);
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!said.contains("MPI_ABORT") && !said.contains("calling \"finalize\""), "{said}");
}

#[test]
fn one_that_leaves_while_others_wait_for_it_ends_them() {
    if !has_mpirun() {
        return;
    }
    let outcome = soon("alone");
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("MPI_ABORT"), "{}", outcome.stderr);
}

#[test]
fn one_that_ends_without_a_word_ends_the_others_with_its_status() {
    if has_mpirun() {
        assert_eq!(soon("silent").status, Some(7));
    }
}

#[test]
fn a_panic_of_one_does_not_leave_it_waiting_for_the_others() {
    if has_mpirun() {
        assert_eq!(soon("panic").status, Some(1));
    }
}
