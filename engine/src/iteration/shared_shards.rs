//! A list of shards that ranks share, whatever is done with them: a rank takes the next one that nobody has (`ranks/claims.rs`), and a
//! shard is done when its file is there. It has the same bytes whoever makes it.
//!
//! ```text
//! what is done   input                                        a shard's file
//! sample         sample.shard_prompts prompts                 iteration_01/candidates/00000.parquet
//! score          a shard of candidates                        iteration_01/preferences/00000.parquet
//! answer         some of the held-out prompts                 eval_parts/00000.parquet
//! figure         held-out answers that pass a model together  00000.json in the launch's own folder
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::session::Session;
use crate::error::EngineError;
use crate::ranks::claims::{Claims, ShardTask, Taken};
use crate::ranks::patience::Patience;
use crate::run::dir::numbers_in;

/// What is done with each shard of a list, and where what comes of it lies.
#[derive(Clone, Debug)]
pub(super) struct ShardKind {
    pub(super) task: ShardTask,
    /// Of the finished shards.
    pub(super) folder: PathBuf,
    /// What their names end with after the number.
    pub(super) ending: &'static str,
    /// How many there are.
    pub(super) count: usize,
    /// What messages call the work.
    pub(super) title: String,
}

/// A list of shards, and who has which of them. A process by itself has all of them.
pub(super) struct SharedShards<'a> {
    session: &'a Session,
    claims: Option<Claims>,
    kind: ShardKind,
}

impl<'a> SharedShards<'a> {
    /// Those of a kind; `claims` are those of the list.
    pub(super) fn new(session: &'a Session, claims: Option<Claims>, kind: ShardKind) -> Self {
        Self { session, claims, kind }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.kind.count
    }

    /// Lets ranks take shards.
    ///
    /// # Errors
    /// When the folder of claims cannot be made.
    pub(super) fn open(&self) -> Result<(), EngineError> {
        self.claims.as_ref().map_or(Ok(()), Claims::open)
    }

    /// Whether shards can be taken.
    pub(super) fn is_open(&self) -> bool {
        self.claims.as_ref().is_none_or(Claims::is_open)
    }

    /// The file of a finished shard.
    pub(super) fn file(&self, shard: usize) -> PathBuf {
        self.kind.folder.join(format!("{shard:05}{}", self.kind.ending))
    }

    /// Numbers of the shards that are on disk.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(super) fn done(&self) -> Result<BTreeSet<usize>, EngineError> {
        numbers_in(&self.kind.folder, self.kind.ending)
    }

    /// Numbers of the shards that are not on disk, ascending.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(super) fn missing(&self) -> Result<Vec<usize>, EngineError> {
        let done = self.done()?;
        Ok((0..self.kind.count).filter(|shard| !done.contains(shard)).collect())
    }

    /// Takes the first of some shards that nobody has, or whose rank is lost, and that is not on disk by then.
    ///
    /// # Errors
    /// When claims cannot be read or made.
    pub(super) fn take(&self, left: Vec<usize>) -> Result<Option<usize>, EngineError> {
        let Some(claims) = &self.claims else {
            return Ok(left.into_iter().find(|&shard| !self.is_done(shard)));
        };
        let ranks = &self.session.ranks;
        let mut left: BTreeSet<usize> = left.into_iter().collect();
        loop {
            match ranks.take(claims, self.kind.task, left.iter().copied())? {
                Taken::Nothing => return Ok(None),
                Taken::Mine { shard, from } => {
                    left.remove(&shard);
                    // It may have come since the folder was listed.
                    if self.is_done(shard) {
                        continue;
                    }
                    if let Some(rank) = from {
                        let title = &self.kind.title;
                        self.session
                            .progress
                            .line(format!("{title}: shard {shard} is taken over from rank {rank}"));
                    }
                    ranks.moved();
                    return Ok(Some(shard));
                }
            }
        }
    }

    /// Makes shards until all of them are on disk, whoever made them; how many this rank has made.
    ///
    /// # Errors
    /// When a shard cannot be made; another rank's failure; a signal.
    pub(super) fn make_all(
        &self,
        make: &mut dyn FnMut(usize) -> Result<(), EngineError>,
    ) -> Result<usize, EngineError> {
        let (mut made, mut patience) = (0, Patience::default());
        loop {
            let left = self.missing()?;
            if left.is_empty() {
                return Ok(made);
            }
            match self.take(left)? {
                Some(shard) => {
                    make(shard)?;
                    made += 1;
                    patience.reset();
                }
                None => self.session.ranks.pause(&mut patience)?,
            }
        }
    }

    fn is_done(&self, shard: usize) -> bool {
        self.file(shard).is_file()
    }
}
