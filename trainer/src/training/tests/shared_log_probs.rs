//! Log-probs before the first step that ranks divide: by rounds, and by claims where one of them trains. The files and the bits of one rank.

use std::collections::HashMap;
use std::sync::{Barrier, Mutex};
use std::thread;

use candle_core::Tensor;

use super::groups::{group_settings, groups};
use super::ranks::{in_parts, on_ranks};
use super::*;
use crate::collective::ShardClaims;

/// Files of `reference/` with their bytes.
fn references(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder.join("reference"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn those_of_groups_are_divided_by_rounds_and_written_as_by_one() {
    let settings = TrainSettings { max_steps: Some(2), ..group_settings() };
    // Three shards, of sixteen groups at most.
    let objective = || GroupObjective::new(groups(40, false), &settings);
    let one = tempfile::tempdir().unwrap();
    let (outcome, want) = in_parts(2, one.path(), usize::MAX, objective());
    let want_summary = summary(outcome.unwrap());
    assert_eq!(references(one.path()).len(), 3);
    let two = tempfile::tempdir().unwrap();
    for (outcome, got) in on_ranks(2, two.path(), usize::MAX, |_| objective()) {
        assert_eq!(summary(outcome.unwrap()), want_summary);
        assert!(got == want, "two ranks end with other weights than one");
    }
    assert!(references(two.path()) == references(one.path()));
    // A shard that is gone is computed again, and the others are read: a rank of other weights would see.
    let gone = references(one.path())[1].0.clone();
    std::fs::remove_file(two.path().join("reference").join(&gone)).unwrap();
    let again = tempfile::tempdir().unwrap();
    std::fs::create_dir(again.path().join("reference")).unwrap();
    for (name, bytes) in references(two.path()) {
        atomic::write_bytes(&again.path().join("reference").join(name), &bytes).unwrap();
    }
    for (_, got) in on_ranks(2, again.path(), usize::MAX, |_| objective()) {
        assert!(got == want);
    }
    assert!(references(again.path()) == references(one.path()));
}

/// Who has which shard of which pass.
struct Board {
    taken: Mutex<HashMap<(String, usize), usize>>,
    /// Each rank's first call waits for those of all.
    all: Barrier,
}

/// A rank that has a shard and never comes.
const LOST: usize = 9;

/// A rank that shares nothing but the board.
struct Apart<'a> {
    rank: usize,
    board: &'a Board,
    has_come: Mutex<bool>,
    alone: Alone,
}

impl ShardClaims for Apart<'_> {
    fn take(&self, pass: &str, left: &[usize]) -> Result<Option<usize>, TrainError> {
        if !std::mem::replace(&mut *self.has_come.lock().unwrap(), true) {
            self.board.all.wait();
        }
        let mut taken = self.board.taken.lock().unwrap();
        // The lost one had the second shard.
        taken.entry((pass.to_owned(), 1)).or_insert(LOST);
        for &shard in left {
            let of = taken.entry((pass.to_owned(), shard)).or_insert(self.rank);
            if *of == LOST {
                *of = self.rank;
                return Ok(Some(shard));
            }
            if *of == self.rank {
                return Ok(Some(shard));
            }
        }
        Ok(None)
    }

    fn wait(&self) -> bool {
        thread::yield_now();
        true
    }
}

impl Collective for Apart<'_> {
    fn rank(&self) -> usize {
        self.alone.rank()
    }

    fn world(&self) -> usize {
        self.alone.world()
    }

    fn all_reduce(&self, tensors: &[&Tensor]) -> Result<(), TrainError> {
        self.alone.all_reduce(tensors)
    }

    fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.alone.all_gather(values)
    }

    fn broadcast(&self, tensors: &[&Tensor], root: usize) -> Result<(), TrainError> {
        self.alone.broadcast(tensors, root)
    }

    fn shard_claims(&self) -> Option<&dyn ShardClaims> {
        Some(self)
    }

    fn leave(&self) {}
}

#[test]
fn ranks_of_which_one_trains_divide_them_by_claims() {
    let bare = || pairs(200).into_iter().map(|pair| TokenPair { initial: None, ..pair }).collect::<Vec<_>>();
    let settings = TrainSettings { max_steps: Some(60), epochs: 2, ..settings() };
    let one = tempfile::tempdir().unwrap();
    let mut alone = PairObjective::new(bare(), &settings);
    let mut weights = decoder(21);
    let ended = run(one.path(), usize::MAX, |run| prepare(&mut weights, &mut alone, run)).unwrap();
    assert_eq!(ended, Preparation::Complete);
    assert_eq!(references(one.path()).len(), 4);

    let shared = tempfile::tempdir().unwrap();
    let board = Board { taken: Mutex::default(), all: Barrier::new(3) };
    let fingerprints: Vec<String> = thread::scope(|scope| {
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                let (board, settings, folder) = (&board, &settings, shared.path());
                let bare = bare();
                scope.spawn(move || {
                    let has_come = Mutex::new(false);
                    let apart = Apart { rank, board, has_come, alone: Alone::default() };
                    let mut objective = PairObjective::new(bare, settings);
                    let ended = run_on(&apart, folder, usize::MAX, |run| {
                        prepare(&mut decoder(21), &mut objective, run)
                    });
                    assert_eq!(ended.unwrap(), Preparation::Complete);
                    objective.fingerprint().unwrap()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(references(shared.path()) == references(one.path()));
    let want = alone.fingerprint().unwrap();
    assert!(fingerprints.iter().all(|got| *got == want), "each has the log-probs of all");
    let taken = board.taken.into_inner().unwrap();
    let owners: std::collections::BTreeSet<usize> = taken.values().copied().collect();
    assert_eq!(
        (taken.len(), owners),
        (4, [0, 1, 2].into()),
        "each had one, and the lost one's was taken over"
    );
}
