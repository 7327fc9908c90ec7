//! Runs by several processes, as a launcher starts them: here each by hand, with RANK and WORLD_SIZE; by mpirun in `mpi/`.

mod environment;
mod evaluation;
mod judge;
mod lost;
#[cfg(feature = "mpi")]
mod mpi;
mod stopped;
mod whole;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use selfplay_testing::{Outcome, World};
use serde_json::Value;

/// More work than that of [`crate::run_world`]: ten shards an iteration, of some hundred milliseconds together; one thread, so that
/// as many ranks as one likes compute the same bits as one process.
const MORE: [&str; 4] = ["--set", "sample.num_samples=24", "--set", "sample.shard_prompts=2"];

/// Shards that take long enough to be hit in the middle.
const LONGER: [&str; 6] = [
    "--set",
    "sample.num_samples=100",
    "--set",
    "sample.max_new_tokens=40",
    "--set",
    "sample.shard_prompts=2",
];

/// Ranks sample and score together, the first trains: needs no MPI.
const ON_FIRST: [&str; 2] = ["--set", "ranks.train_on=first"];

/// The processes of a launch, by rank. Dropping it ends them.
struct Launch(Vec<Child>);

impl Launch {
    /// Starts so many; `change` may set what one of them has of its own.
    fn start(
        world: &World,
        count: usize,
        line: &[&str],
        mut change: impl FnMut(usize, &mut Command),
    ) -> Self {
        let ranks = (0..count).map(|rank| {
            let mut command = world.command(line);
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", count.to_string());
            command.env("RAYON_NUM_THREADS", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
            change(rank, &mut command);
            command.spawn().unwrap()
        });
        Self(ranks.collect())
    }

    /// All the same.
    fn of(world: &World, count: usize, line: &[&str]) -> Self {
        Self::start(world, count, line, |_, _| {})
    }

    /// Sends one of them a signal, by `kill`'s name for it.
    fn signal(&self, rank: usize, signal: &str) {
        let id = self.0[rank].id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// What they said, by rank.
    #[track_caller]
    fn wait(mut self) -> Vec<Outcome> {
        let start = Instant::now();
        for (rank, child) in self.0.iter_mut().enumerate() {
            while child.try_wait().unwrap().is_none() {
                assert!(start.elapsed() < Duration::from_secs(60), "rank {rank} does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|child| child.wait_with_output().unwrap().into())
            .collect()
    }

    /// That all end with status 0, and rank 0 alone has said something.
    #[track_caller]
    fn all_well(self) -> Vec<Outcome> {
        let outcomes = self.wait();
        for (rank, outcome) in outcomes.iter().enumerate() {
            assert_eq!(outcome.status, Some(0), "rank {rank}: {}", outcome.stderr);
            assert!(rank == 0 || (outcome.stderr.is_empty() && outcome.stdout.is_empty()), "{outcome:?}");
        }
        outcomes
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A finished run of one process to hold others against.
fn reference(world: &World, work: &[&str]) -> PathBuf {
    let line = [&["run", "recipe.toml", "-o", "whole", "-q"], work, &ON_FIRST].concat();
    Outcome::of(world.command(&line).env("RAYON_NUM_THREADS", "1")).ok();
    world.path("whole")
}

/// Candidates, preferences and pairs of a run, by name.
fn rows(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for iteration in ["iteration_01", "iteration_02"] {
        let mut paths = vec![run.join(iteration).join("pairs.parquet")];
        for folder in ["candidates", "preferences"] {
            let entries = fs::read_dir(run.join(iteration).join(folder)).unwrap();
            paths.extend(entries.map(|entry| entry.unwrap().path()));
        }
        for path in paths {
            let name = path.strip_prefix(run).unwrap().display().to_string();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

/// That two runs have the same bytes, and nothing is left of where ranks met.
#[track_caller]
fn same_as(whole: &Path, run: &Path) {
    let (one, other) = (rows(whole), rows(run));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert_eq!(one.len(), 42, "ten shards of candidates and preferences, and pairs, of two iterations");
    for (name, bytes) in &one {
        assert!(other[name] == *bytes, "{name} differs");
    }
    selfplay_testing::run_results::assert_same_results(whole, run);
    for place in ["start", "iteration_01", "iteration_02"] {
        for name in ["eval_samples.parquet", "eval.json", "eval_wins.json"] {
            let bytes = |run: &Path| fs::read(run.join(place).join(name)).ok();
            assert!(bytes(whole) == bytes(run), "{place}/{name} differs");
        }
        assert!(!run.join(place).join("eval_parts").exists(), "{place}: shards of answers go");
    }
    assert!(!run.join("ranks").exists(), "where ranks met is gone with the run's end");
}

/// Shards that the events say a rank has made: of rank 0 where it is `None`.
fn shards_of(run: &Path, rank: Option<u64>) -> usize {
    let text = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == "sampled" && line["rank"].as_u64() == rank).count()
}

/// Waits until a rank has a shard of an iteration's candidates or preferences.
#[track_caller]
fn until_it_has_a_shard(run: &Path, rank: usize) {
    until_it_has_one_of(run, rank, "iteration_");
}

/// Waits until a rank has a claim in a folder of claims whose name begins so.
#[track_caller]
fn until_it_has_one_of(run: &Path, rank: usize, list: &str) {
    let start = Instant::now();
    let wanted = format!("{{\"rank\": {rank}}}");
    while !claims(run, list).iter().any(|claim| claim.trim() == wanted) {
        assert!(start.elapsed() < Duration::from_secs(20), "rank {rank} takes no shard of {list}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the claims of a run hold now, of lists whose name begins so.
fn claims(run: &Path, of: &str) -> Vec<String> {
    let list =
        |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let launches = list(run.join("ranks"));
    let lists = launches.flat_map(|launch| list(launch.join("claims")));
    let wanted = |list: &PathBuf| list.file_name().is_some_and(|name| name.to_string_lossy().starts_with(of));
    lists.filter(wanted).flat_map(list).filter_map(|claim| fs::read_to_string(claim).ok()).collect()
}
