//! Claims: which rank has which shard of some work. A file a claim, made by the one rank that succeeds in making it.
//!
//! `sample_00004.0` is the first claim on the sampling of shard 4. Where its rank is lost, another rank makes `sample_00004.1`, and so
//! on: the last claim counts, and nothing is ever changed or removed while the iteration is in work, so that no two ranks can both
//! believe to have taken a shard over. A rank that was only slow writes the same bytes as the one that took over from it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use selfplay_records::atomic;
use serde::{Deserialize, Serialize};

use super::rank_state::hear;
use crate::error::EngineError;

/// What is done with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShardTask {
    /// Prompts to candidates.
    Sample,
    /// Candidates to preferences.
    Score,
    /// Held-out prompts to answers.
    Answer,
    /// Numbers of held-out answers by a model: [`HeldOutFigure`].
    Figure(HeldOutFigure),
    /// Examples to log-probs, before a training by one rank.
    LogProbs,
}

/// What a model says of held-out answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HeldOutFigure {
    /// Log-probs under the policy that has given them.
    NewLogProbs,
    /// Log-probs under the policy before it.
    OldLogProbs,
    /// P(they win) against the answers of the policy before.
    AgainstBefore,
    /// P(they win) against those of the run's first policy.
    AgainstFirst,
}

impl ShardTask {
    fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Score => "score",
            Self::Answer => "answer",
            Self::Figure(figure) => figure.name(),
            Self::LogProbs => "log_probs",
        }
    }
}

impl HeldOutFigure {
    /// As files are called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NewLogProbs => "new_log_probs",
            Self::OldLogProbs => "old_log_probs",
            Self::AgainstBefore => "against_before",
            Self::AgainstFirst => "against_first",
        }
    }
}

/// A claim's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claimant {
    rank: usize,
}

/// What came of asking for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The shard is this rank's.
    Mine {
        /// From 0.
        shard: usize,
        /// The rank that had it before and is lost.
        from: Option<usize>,
    },
    /// Others have all that is left.
    Nothing,
}

/// The claims of an iteration's candidates, or of another list of shards.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    folder: PathBuf,
    rank: usize,
}

impl Claims {
    /// Those in a folder, for a rank.
    pub(super) fn new(folder: PathBuf, rank: usize) -> Self {
        Self { folder, rank }
    }

    /// Lets ranks take shards: the folder is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(&self) -> Result<(), EngineError> {
        Ok(atomic::create_dir_all(&self.folder)?)
    }

    /// Whether shards can be taken.
    pub(crate) fn is_open(&self) -> bool {
        self.folder.is_dir()
    }

    /// Removes all claims: the iteration's shards are done.
    pub(crate) fn close(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// Takes the first of `left` that nobody has, or whose rank is lost. `is_lost` is asked with the shard and its rank, which is not
    /// known where a kill came between making a claim and writing it.
    ///
    /// # Errors
    /// When the folder cannot be listed or a claim not be made.
    pub(crate) fn take(
        &self,
        task: ShardTask,
        left: impl IntoIterator<Item = usize>,
        is_lost: &mut dyn FnMut(usize, Option<usize>) -> bool,
    ) -> Result<Taken, EngineError> {
        let last = self.last(task)?;
        for shard in left {
            let (next, from) = match last.get(&shard) {
                None => (0, None),
                Some(&number) => match self.claimant(task, shard, number) {
                    Some(of) if of == self.rank => continue,
                    of if !is_lost(shard, of) => continue,
                    of => (number + 1, of),
                },
            };
            if self.make(task, shard, next)? {
                return Ok(Taken::Mine { shard, from });
            }
        }
        Ok(Taken::Nothing)
    }

    /// Number of the last claim on each shard.
    fn last(&self, task: ShardTask) -> Result<BTreeMap<usize, u32>, EngineError> {
        let mut last = BTreeMap::new();
        let names = match std::fs::read_dir(&self.folder) {
            Ok(names) => names,
            // The iteration's shards are done.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(last),
            Err(source) => return Err(EngineError::io(&self.folder, "list the folder", source)),
        };
        for entry in names {
            let entry = entry.map_err(|source| EngineError::io(&self.folder, "list the folder", source))?;
            if let Some((shard, number)) = parse(task, &entry.file_name().to_string_lossy()) {
                let most = last.entry(shard).or_insert(number);
                *most = number.max(*most);
            }
        }
        Ok(last)
    }

    fn claimant(&self, task: ShardTask, shard: usize, number: u32) -> Option<usize> {
        hear::<Claimant>(&self.file(task, shard, number)).map(|claimant| claimant.rank)
    }

    /// Whether this rank made the claim.
    fn make(&self, task: ShardTask, shard: usize, number: u32) -> Result<bool, EngineError> {
        let text = format!("{{\"rank\": {}}}\n", self.rank);
        match atomic::create_new(&self.file(task, shard, number), text.as_bytes()) {
            Ok(made) => Ok(made),
            Err(_) if !self.is_open() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&self, task: ShardTask, shard: usize, number: u32) -> PathBuf {
        self.folder.join(format!("{}_{shard:05}.{number}", task.name()))
    }
}

/// Shard and number of a claim's name.
fn parse(task: ShardTask, name: &str) -> Option<(usize, u32)> {
    let (shard, number) = name.strip_prefix(task.name())?.strip_prefix('_')?.split_once('.')?;
    Some((shard.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn claims(folder: &Path, rank: usize) -> Claims {
        Claims::new(folder.join("claims"), rank)
    }

    #[test]
    fn a_shard_has_one_taker_and_a_lost_rank_s_is_taken_over_once() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, third] = [0, 1, 2].map(|rank| claims(folder.path(), rank));
        let mut nobody = |_, _| false;
        // Before it is open nobody can take anything.
        assert_eq!(second.take(ShardTask::Sample, [0], &mut nobody).unwrap(), Taken::Nothing);
        first.open().unwrap();
        let mine = |shard| Taken::Mine { shard, from: None };
        assert_eq!(first.take(ShardTask::Sample, 0..3, &mut nobody).unwrap(), mine(0));
        assert_eq!(second.take(ShardTask::Sample, 0..3, &mut nobody).unwrap(), mine(1));
        assert_eq!(first.take(ShardTask::Sample, 0..2, &mut nobody).unwrap(), Taken::Nothing);
        // Scoring is claimed by itself.
        assert_eq!(first.take(ShardTask::Score, 0..3, &mut nobody).unwrap(), mine(0));
        let mut lost = |_, rank| rank == Some(1);
        let over = Taken::Mine { shard: 1, from: Some(1) };
        assert_eq!(first.take(ShardTask::Sample, 0..2, &mut lost).unwrap(), over);
        // It is the first rank's now.
        assert_eq!(third.take(ShardTask::Sample, 0..2, &mut lost).unwrap(), Taken::Nothing);
        first.close();
        assert!(!second.is_open());
        assert_eq!(second.take(ShardTask::Sample, [2], &mut nobody).unwrap(), Taken::Nothing);
    }

    #[test]
    fn a_claim_that_a_kill_tore_is_nobody_s_and_can_be_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let claims = claims(folder.path(), 0);
        claims.open().unwrap();
        atomic::write_bytes(&claims.file(ShardTask::Sample, 4, 0), b"").unwrap();
        let mut asked = Vec::new();
        let mut wait = |shard, rank| {
            asked.push((shard, rank));
            false
        };
        assert_eq!(claims.take(ShardTask::Sample, [4], &mut wait).unwrap(), Taken::Nothing);
        assert_eq!(asked, [(4, None)]);
        let over = Taken::Mine { shard: 4, from: None };
        assert_eq!(claims.take(ShardTask::Sample, [4], &mut |_, _| true).unwrap(), over);
    }

    #[test]
    fn ranks_that_take_at_the_same_time_share_all_shards() {
        let folder = tempfile::tempdir().unwrap();
        claims(folder.path(), 0).open().unwrap();
        let taken: Vec<usize> = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..4)
                .map(|rank| {
                    let claims = claims(folder.path(), rank);
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        while let Taken::Mine { shard, .. } =
                            claims.take(ShardTask::Score, 0..40, &mut |_, _| false).unwrap()
                        {
                            taken.push(shard);
                        }
                        taken
                    })
                })
                .collect();
            ranks.into_iter().flat_map(|rank| rank.join().unwrap()).collect()
        });
        let mut sorted = taken;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn names_of_others_are_no_claims() {
        assert_eq!(parse(ShardTask::Sample, "sample_00012.3"), Some((12, 3)));
        for name in ["score_00012.3", "sample_00012", "sample_x.0", ".sample_00001.0.tmp-9"] {
            assert_eq!(parse(ShardTask::Sample, name), None, "{name}");
        }
    }
}
