//! The calls by themselves: order of sums, ranks that leave, calls that differ.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use candle_core::{Device, Tensor};

use super::*;

/// Runs `work` on every rank of a group of threads; the results by rank.
pub(crate) fn on_ranks<T: Send>(world: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            Threads::group(world).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub(crate) fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec1().unwrap()
}

#[test]
fn sums_are_taken_from_the_left_in_place_and_are_the_same_everywhere() {
    // (1 + 1e8) − 1e8 is 0 in f32, and 1 in any order that adds the large ones first.
    let terms = [[1.0f32, 3.0], [1e8, 4.0], [-1e8, 5.0]];
    for _ in 0..50 {
        let sums = on_ranks(3, |rank| {
            let own = [tensor(&terms[rank.rank()]), tensor(&[rank.rank() as f32])];
            rank.all_reduce(&[&own[0], &own[1]]).unwrap();
            own.map(|tensor| values(&tensor))
        });
        assert!(sums.iter().all(|sum| *sum == [vec![0.0, 12.0], vec![3.0]]), "{sums:?}");
    }
}

#[test]
fn long_tensors_are_added_piece_by_piece_and_whole() {
    let count = 2 * at_a_time(&Device::Cpu) + 3;
    let numbers = |shift: usize| (0..count).map(|n| (n * 31 + shift) as f32 * 0.1).collect::<Vec<_>>();
    let sum = tensor(&numbers(0));
    add_to(&sum, &tensor(&numbers(7))).unwrap();
    let want: Vec<f32> = numbers(0).iter().zip(numbers(7)).map(|(a, b)| a + b).collect();
    assert!(values(&sum) == want);
}

#[test]
fn values_come_by_rank_and_tensors_from_the_root() {
    let all = on_ranks(3, |rank| {
        let number = rank.rank() as f64;
        let own = tensor(&[rank.rank() as f32; 2]);
        rank.broadcast(&[&own], 2).unwrap();
        let gathered = rank.all_gather(&[number, -number]).unwrap();
        let first = from_first(&rank, &vec![7.0 + number; rank.rank() + 2]).unwrap();
        (gathered, values(&own), first)
    });
    let want = (vec![0.0, -0.0, 1.0, -1.0, 2.0, -2.0], vec![2.0, 2.0], vec![7.0, 7.0]);
    assert!(all.iter().all(|got| *got == want), "{all:?}");
}

#[test]
fn one_failure_ends_all_ranks_each_with_its_own_error_or_the_rank_that_failed() {
    let ends = on_ranks(3, |rank| {
        let result = match rank.rank() {
            1 => Err(TrainError::Data { problem: "a full disk".into(), want: "room".into() }),
            _ => Ok(()),
        };
        agree(&rank, result).unwrap_err().to_string()
    });
    assert!(ends[1].contains("a full disk"), "{ends:?}");
    assert!(ends[0].contains("rank 1") && ends[0] == ends[2], "{ends:?}");
    let stops = on_ranks(2, |rank| agree_to_stop(&rank, Ok(rank.rank()), rank.rank() == 1).unwrap());
    assert_eq!(stops, [(0, true), (1, true)]);
}

#[test]
fn a_rank_that_is_gone_fails_the_calls_that_wait_for_it() {
    let ends = on_ranks(3, |rank| {
        rank.all_gather(&[1.0]).unwrap();
        if rank.rank() == 2 {
            return None;
        }
        Some(rank.all_reduce(&[&tensor(&[1.0])]).unwrap_err())
    });
    for end in [&ends[0], &ends[1]] {
        assert!(matches!(end, Some(TrainError::RankLost { rank: 2 })), "{end:?}");
    }
    // A rank that panics is gone too.
    let gone = on_ranks(2, |rank| {
        if rank.rank() == 0 {
            let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _rank = rank;
                std::panic::resume_unwind(Box::new(()));
            }));
            return quiet.is_err();
        }
        matches!(rank.all_gather(&[]), Err(TrainError::RankLost { rank: 0 }))
    });
    assert_eq!(gone, [true, true]);
}

#[test]
fn calls_that_differ_fail_on_every_rank() {
    let out_of_step = |ends: Vec<Result<(), TrainError>>| {
        ends.iter().all(|end| matches!(end, Err(TrainError::RanksOutOfStep { .. })))
    };
    let lengths = on_ranks(2, |rank| rank.all_gather(&vec![0.0; rank.rank()]).map(drop));
    assert!(out_of_step(lengths));
    let shapes = on_ranks(2, |rank| rank.all_reduce(&[&tensor(&vec![0.0; 1 + rank.rank()])]));
    assert!(out_of_step(shapes));
    let kinds = on_ranks(2, |rank| match rank.rank() {
        0 => rank.all_gather(&[]).map(drop),
        _ => rank.broadcast(&[], 0),
    });
    assert!(out_of_step(kinds));
    let given = on_ranks(2, |rank| same_on_all(&rank, "data", ["00", "01"][rank.rank()]));
    assert!(given.iter().all(|end| matches!(end, Err(TrainError::RanksDiffer { what: "data" }))));
    assert!(on_ranks(2, |rank| same_on_all(&rank, "data", "00")).iter().all(Result::is_ok));
}

#[test]
fn ranges_are_summed_for_their_owners_and_gathered_from_them() {
    // Empty, short and long ranges; (1 + 1e8) − 1e8 is 0 in f32.
    let ranges = [0..1, 1..1, 1..5];
    let terms = [1.0f32, 1e8, -1e8];
    let all = on_ranks(3, |rank| {
        let own = tensor(&[terms[rank.rank()]; 5]);
        let sliced = [Sliced { tensor: &own, ranges: &ranges }];
        rank.reduce_scatter(&sliced).unwrap();
        let summed = values(&own)[ranges[rank.rank()].clone()].to_vec();
        rank.all_gather_slices(&sliced).unwrap();
        rank.settle().unwrap();
        (summed, values(&own))
    });
    for (rank, (summed, gathered)) in all.into_iter().enumerate() {
        assert_eq!(summed, vec![0.0; ranges[rank].len()]);
        assert_eq!(gathered, [0.0; 5]);
    }
}

/// Ranks that copy from each other at the same time, again and again.
#[test]
fn ranks_do_not_wait_for_each_other_s_tensors() {
    let (done, finished) = channel();
    thread::spawn(move || {
        for world in [2, 3] {
            let numbers = 3000 * world;
            let ranges: Vec<_> = (0..world).map(|rank| 3000 * rank..3000 * (rank + 1)).collect();
            let all = on_ranks(world, |rank| {
                let own = tensor(&vec![rank.rank() as f32; numbers]);
                let sliced = [Sliced { tensor: &own, ranges: &ranges }];
                for _ in 0..2000 {
                    rank.all_gather_slices(&sliced).unwrap();
                }
                values(&own)
            });
            let want: Vec<f32> = (0..numbers).map(|place| (place / 3000) as f32).collect();
            assert!(all.into_iter().all(|own| own == want));
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(120)).expect("ranks wait for each other for ever");
}
