//! Log-probs of groups, token by token: under the starting weights for responses that bring none, and under another policy.
//!
//! They are kept in `reference/` of the run's folder, a shard of JSON Lines at a time (a line has the lists of a group's responses; an f32
//! survives JSON bit for bit), so that an interruption loses one shard a rank at most. A shard's name has a hash of the policy's name and
//! of its groups' tokens. Which rank computes which shard is [`take_all`]'s business.

use std::ops::Range;
use std::path::{Path, PathBuf};

use selfplay_model::Decoder;
use selfplay_records::atomic;

use super::data::GroupData;
use super::token_group::TokenGroup;
use crate::TrainError;
use crate::batch::{micro_batches, pack_responses};
use crate::collective::{Collective, agree};
use crate::error::Quantity;
use crate::fingerprint::Fingerprint;
use crate::log_prob_passes::LogProbPasses;
use crate::objectives::checked_lines::{sealed, whole_lines};
use crate::objectives::log_prob_shards::{LogProbShards, read_all, take_all};

/// Groups of a shard.
const SHARD: usize = 16;

/// Log-probs of the tokens of a group's responses.
pub(super) type GroupLogProbs = Vec<Vec<f32>>;

/// What the pass over all groups needs.
#[derive(Clone, Copy)]
pub(super) struct TokenPass<'a> {
    /// The policy's name; empty for the one that training starts from.
    pub(super) policy: &'a str,
    pub(super) micro_batch_tokens: usize,
    pub(super) folder: &'a Path,
    pub(super) stop: &'a dyn Fn() -> bool,
    pub(super) collective: &'a dyn Collective,
}

/// The groups of a pass, in shards.
struct GroupShards<'a> {
    pass: TokenPass<'a>,
    groups: &'a GroupData,
    paths: Vec<PathBuf>,
}

impl GroupShards<'_> {
    /// Tokens of each response of a shard's groups.
    fn lengths(&self, shard: usize) -> impl Iterator<Item = Vec<usize>> {
        places(shard, self.groups.len()).map(|group| self.groups.response_lengths(group))
    }
}

/// The groups of a shard, of so many.
fn places(shard: usize, groups: usize) -> Range<usize> {
    groups.min(shard * SHARD)..groups.min((shard + 1) * SHARD)
}

/// A shard's groups in tokens.
fn groups_of(groups: &GroupData, shard: usize) -> Result<Vec<TokenGroup>, TrainError> {
    places(shard, groups.len()).map(|group| groups.get(group)).collect()
}

impl LogProbShards for GroupShards<'_> {
    type Values = Vec<GroupLogProbs>;

    fn count(&self) -> usize {
        self.paths.len()
    }

    fn path(&self, shard: usize) -> &Path {
        &self.paths[shard]
    }

    fn read(&self, shard: usize) -> Result<Option<Self::Values>, TrainError> {
        let lengths: Vec<Vec<usize>> = self.lengths(shard).collect();
        read_shard(&self.paths[shard], &lengths)
    }

    fn write(&self, shard: usize, values: &Self::Values) -> Result<(), TrainError> {
        write_shard(&self.paths[shard], values)
    }

    fn compute(&self, shard: usize, decoder: &Decoder) -> Result<Option<Self::Values>, TrainError> {
        self.pass.compute(decoder, &groups_of(self.groups, shard)?)
    }

    fn numbers(&self, shard: usize) -> usize {
        self.lengths(shard).flatten().sum()
    }

    fn numbers_of(&self, values: &Self::Values) -> Vec<f64> {
        values.iter().flatten().flatten().map(|&value| f64::from(value)).collect()
    }

    fn values_of(&self, shard: usize, numbers: &[f64]) -> Self::Values {
        let mut numbers = numbers.iter().map(|&number| number as f32);
        let mut of_group = |lengths: Vec<usize>| -> GroupLogProbs {
            lengths.into_iter().map(|length| numbers.by_ref().take(length).collect()).collect()
        };
        self.lengths(shard).map(&mut of_group).collect()
    }
}

impl<'a> TokenPass<'a> {
    /// The log-probs of all groups, those on disk and those computed with the decoder; `None` when asked to stop.
    pub(super) fn log_probs(
        &self,
        decoder: &Decoder,
        groups: &'a GroupData,
    ) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
        Ok(take_all(&self.shards(groups)?, decoder, self.collective)?.map(|shards| shards.concat()))
    }

    /// The log-probs of all groups where every shard of them is on disk.
    pub(super) fn read_all(&self, groups: &'a GroupData) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
        Ok(read_all(&self.shards(groups)?, self.collective)?.map(|shards| shards.concat()))
    }

    fn shards(&self, groups: &'a GroupData) -> Result<GroupShards<'a>, TrainError> {
        let path = |shard: usize| Ok(self.path(shard, &groups_of(groups, shard)?));
        let paths = (0..groups.len().div_ceil(SHARD)).map(path).collect();
        Ok(GroupShards { pass: *self, groups, paths: agree(self.collective, paths)? })
    }

    fn path(&self, number: usize, shard: &[TokenGroup]) -> PathBuf {
        let mut hash = Fingerprint::new();
        hash.bytes(b"tokens of groups").bytes(self.policy.as_bytes());
        shard.iter().for_each(|group| group.fingerprint(&mut hash));
        self.folder.join(format!("{number:05}-{}.jsonl", &hash.hex()[..16]))
    }

    /// The shard's log-probs, or `None` when asked to stop.
    fn compute(
        &self,
        decoder: &Decoder,
        shard: &[TokenGroup],
    ) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
        let places: Vec<(usize, usize)> = (0..shard.len())
            .flat_map(|group| (0..shard[group].responses.len()).map(move |response| (group, response)))
            .collect();
        let tokens: Vec<usize> = places
            .iter()
            .map(|&(group, response)| shard[group].prompt.len() + shard[group].responses[response].ids.len())
            .collect();
        let mut values: Vec<GroupLogProbs> =
            shard.iter().map(|group| vec![Vec::new(); group.responses.len()]).collect();
        let mut take = |micro: &[usize], spans: Vec<Range<usize>>, all: &[f32]| {
            for (&member, span) in micro.iter().zip(spans) {
                let (group, response) = places[member];
                let own = &all[span];
                if own.iter().any(|x| !x.is_finite()) {
                    let (step, quantity) = (0, Quantity::ReferenceLogProb);
                    return Err(TrainError::NotFinite { step, quantity, example: shard[group].name.clone() });
                }
                values[group][response] = own.to_vec();
            }
            Ok(())
        };
        let mut passes = LogProbPasses::new(decoder);
        for micro in micro_batches(&tokens, self.micro_batch_tokens) {
            if (self.stop)() {
                return Ok(None);
            }
            let items = micro.iter().map(|&member| {
                let (group, response) = places[member];
                (&shard[group].prompt[..], &shard[group].responses[response].ids[..])
            });
            let packed = pack_responses(items);
            let pass = (micro, packed.spans);
            if let Some(((micro, spans), all)) = passes.start(pass, &packed.batch, &packed.targets)? {
                take(&micro, spans, &all)?;
            }
        }
        if let Some(((micro, spans), all)) = passes.finish()? {
            take(&micro, spans, &all)?;
        }
        Ok(Some(values))
    }
}

/// A whole shard of groups whose responses have so many tokens, if it is there.
fn read_shard(path: &Path, lengths: &[Vec<usize>]) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(TrainError::io(path)(e)),
    };
    let Some(lines) = whole_lines(&bytes) else {
        tracing::warn!("{}: is damaged; its log-probs are computed again", path.display());
        return Ok(None);
    };
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let values: Result<Vec<GroupLogProbs>, _> = lines.map(serde_json::from_slice).collect();
    Ok(values.ok().filter(|values| fits(values, lengths)))
}

/// Whether there is a number for each token.
fn fits(values: &[GroupLogProbs], lengths: &[Vec<usize>]) -> bool {
    let of_group = |(values, lengths): (&GroupLogProbs, &Vec<usize>)| {
        values.iter().map(Vec::len).eq(lengths.iter().copied())
    };
    values.len() == lengths.len() && values.iter().zip(lengths).all(of_group)
}

fn write_shard(path: &Path, values: &[GroupLogProbs]) -> Result<(), TrainError> {
    let mut text = Vec::new();
    for group in values {
        serde_json::to_writer(&mut text, group).map_err(|e| TrainError::io(path)(e.into()))?;
        text.push(b'\n');
    }
    Ok(atomic::write_bytes(path, &sealed(text))?)
}
