//! Reference log-probs: those of the weights that training starts from, and of any other policy that a loss reads.
//!
//! Computed once, before the first step, for the pairs that bring none, and kept in `reference/` of the run's folder as
//! shards of JSON Lines (`pair`, `ref_chosen_logps`, `ref_rejected_logps`: f64 survives JSON bit for bit), with a last line
//! that has their SHA-256. A shard is written whole: an interruption loses one at most. Its name has a hash of the policy's
//! name and its pairs' tokens, so that a shard of other pairs or under another policy is never taken for it. A resumed run
//! reads the shards; one that is absent is computed again, which is why the caller hands over the starting weights, and the
//! loop loads a checkpoint's only afterwards.
//!
//! Which rank computes which shard is [`take_all`]'s business.

use std::path::{Path, PathBuf};

use selfplay_model::Decoder;
use selfplay_records::atomic;
use serde::{Deserialize, Serialize};

use super::TokenPair;
use super::data::PairMembers;
use super::gradients::summed;
use crate::batch::{PairSpans, micro_batches, pack_pairs};
use crate::collective::{Collective, agree};
use crate::error::Quantity;
use crate::fingerprint::Fingerprint;
use crate::log_prob_passes::LogProbPasses;
use crate::loss::PairLogProbs;
use crate::objectives::checked_lines::{sealed, whole_lines};
use crate::objectives::log_prob_shards::{LogProbShards, read_all, take_all};
use crate::{LossTokens, TrainError};

/// Pairs of a shard of reference log-probs.
pub const REFERENCE_SHARD: usize = 64;

/// What the pass over all pairs needs.
#[derive(Clone, Copy)]
pub(crate) struct ReferencePass<'a> {
    /// The policy's name; empty for the one that training starts from.
    pub(crate) policy: &'a str,
    pub(crate) micro_batch_tokens: usize,
    pub(crate) loss_tokens: LossTokens,
    pub(crate) folder: &'a Path,
    pub(crate) stop: &'a dyn Fn() -> bool,
    pub(crate) collective: &'a dyn Collective,
}

/// Some pairs that lack their log-probs.
struct ReferenceShard {
    /// Places among the pairs of the pass.
    members: Vec<usize>,
    path: PathBuf,
}

/// The pairs of a pass, in shards.
struct PairShards<'a> {
    pass: ReferencePass<'a>,
    pairs: PairMembers<'a>,
    shards: Vec<ReferenceShard>,
}

impl LogProbShards for PairShards<'_> {
    type Values = Vec<PairLogProbs>;

    fn count(&self) -> usize {
        self.shards.len()
    }

    fn path(&self, shard: usize) -> &Path {
        &self.shards[shard].path
    }

    fn read(&self, shard: usize) -> Result<Option<Self::Values>, TrainError> {
        let ReferenceShard { members, path } = &self.shards[shard];
        read_shard(path, members.len())
    }

    fn write(&self, shard: usize, values: &Self::Values) -> Result<(), TrainError> {
        let ReferenceShard { members, path } = &self.shards[shard];
        write_shard(path, &self.pairs.at(members)?, values)
    }

    fn compute(&self, shard: usize, decoder: &Decoder) -> Result<Option<Self::Values>, TrainError> {
        self.pass.compute(decoder, &self.pairs.at(&self.shards[shard].members)?)
    }

    fn numbers(&self, shard: usize) -> usize {
        2 * self.shards[shard].members.len()
    }

    fn numbers_of(&self, values: &Self::Values) -> Vec<f64> {
        values.iter().flat_map(|value| [value.chosen, value.rejected]).collect()
    }

    fn values_of(&self, _: usize, numbers: &[f64]) -> Self::Values {
        let pairs = numbers.chunks_exact(2);
        pairs.map(|pair| PairLogProbs { chosen: pair[0], rejected: pair[1] }).collect()
    }
}

impl<'a> ReferencePass<'a> {
    /// The pairs' log-probs: those of the shards on disk, the others computed and kept there. `None` when asked to stop;
    /// whole shards are kept.
    pub(crate) fn log_probs(
        &self,
        decoder: &Decoder,
        pairs: PairMembers<'a>,
    ) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        let taken = take_all(&self.shards(pairs)?, decoder, self.collective)?;
        Ok(taken.map(|shards| shards.concat()))
    }

    /// The pairs' log-probs where every shard of them is on disk.
    pub(super) fn read_all(&self, pairs: PairMembers<'a>) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        Ok(read_all(&self.shards(pairs)?, self.collective)?.map(|shards| shards.concat()))
    }

    fn shards(&self, pairs: PairMembers<'a>) -> Result<PairShards<'a>, TrainError> {
        let places: Vec<usize> = (0..pairs.len()).collect();
        let shards = places.chunks(REFERENCE_SHARD).enumerate();
        let named: Result<Vec<ReferenceShard>, TrainError> = shards
            .map(|(number, members)| {
                let mut hash = Fingerprint::new();
                hash.bytes(self.policy.as_bytes());
                if self.loss_tokens == LossTokens::All {
                    hash.bytes(b"all tokens");
                }
                pairs.at(members)?.iter().for_each(|pair| pair.fingerprint(&mut hash));
                let path = self.folder.join(format!("{number:05}-{}.jsonl", &hash.hex()[..16]));
                Ok(ReferenceShard { members: members.to_vec(), path })
            })
            .collect();
        Ok(PairShards { pass: *self, pairs, shards: agree(self.collective, named)? })
    }

    /// The pairs' log-probs, or `None` when asked to stop.
    fn compute(
        &self,
        decoder: &Decoder,
        pairs: &[TokenPair],
    ) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        let tokens: Vec<usize> = pairs.iter().map(TokenPair::tokens).collect();
        let mut values = vec![PairLogProbs { chosen: 0.0, rejected: 0.0 }; pairs.len()];
        let mut take = |micro: &[usize], spans: &[PairSpans], log_probs: &[f32]| {
            for (&index, value) in micro.iter().zip(summed(spans, log_probs)) {
                if !(value.chosen.is_finite() && value.rejected.is_finite()) {
                    return Err(TrainError::NotFinite {
                        step: 0,
                        quantity: Quantity::ReferenceLogProb,
                        example: pairs[index].name.clone(),
                    });
                }
                values[index] = value;
            }
            Ok(())
        };
        let mut passes = LogProbPasses::new(decoder);
        for micro in micro_batches(&tokens, self.micro_batch_tokens) {
            if (self.stop)() {
                return Ok(None);
            }
            let packed = pack_pairs(micro.iter().map(|&i| &pairs[i]), self.loss_tokens);
            let pass = (micro, packed.spans);
            if let Some(((micro, spans), log_probs)) = passes.start(pass, &packed.batch, &packed.targets)? {
                take(&micro, &spans, &log_probs)?;
            }
        }
        if let Some(((micro, spans), log_probs)) = passes.finish()? {
            take(&micro, &spans, &log_probs)?;
        }
        Ok(Some(values))
    }
}

/// A line of a shard.
#[derive(Serialize, Deserialize)]
struct ReferenceLine {
    pair: String,
    ref_chosen_logps: f64,
    ref_rejected_logps: f64,
}

/// A shard that was written before, if it is whole.
fn read_shard(path: &Path, pairs: usize) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(TrainError::io(path)(e)),
    };
    let Some(lines) = whole_lines(&bytes) else {
        tracing::warn!("{}: is damaged; its log-probs are computed again", path.display());
        return Ok(None);
    };
    let values: Result<Vec<PairLogProbs>, serde_json::Error> = lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let line: ReferenceLine = serde_json::from_slice(line)?;
            Ok(PairLogProbs { chosen: line.ref_chosen_logps, rejected: line.ref_rejected_logps })
        })
        .collect();
    // Whole but not to be read: of another version.
    Ok(values.ok().filter(|values| values.len() == pairs))
}

fn write_shard(path: &Path, pairs: &[TokenPair], values: &[PairLogProbs]) -> Result<(), TrainError> {
    let mut text = Vec::new();
    for (pair, value) in pairs.iter().zip(values) {
        let line = ReferenceLine {
            pair: pair.name.clone(),
            ref_chosen_logps: value.chosen,
            ref_rejected_logps: value.rejected,
        };
        serde_json::to_writer(&mut text, &line).map_err(|e| TrainError::io(path)(e.into()))?;
        text.push(b'\n');
    }
    Ok(atomic::write_bytes(path, &sealed(text))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_keep_every_bit_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00000.jsonl");
        let pair = TokenPair { name: "pair 0".into(), ..TokenPair::default() };
        let value = PairLogProbs { chosen: -185.965_225_219_726_56 / 3.0, rejected: -1e-17 };
        write_shard(&path, &[pair], &[value]).unwrap();
        assert_eq!(read_shard(&path, 1).unwrap(), Some(vec![value]));
        assert_eq!(read_shard(&path, 2).unwrap(), None);
        assert_eq!(read_shard(&folder.path().join("absent"), 1).unwrap(), None);
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            atomic::write_bytes(&path, &flipped).unwrap();
            assert_eq!(read_shard(&path, 1).unwrap(), None, "byte {place}");
        }
        atomic::write_bytes(&path, b"{\"pair\"").unwrap();
        assert_eq!(read_shard(&path, 1).unwrap(), None);
    }
}
