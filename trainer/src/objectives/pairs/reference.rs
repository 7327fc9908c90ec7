//! Reference log-probs: those of the weights that training starts from, and of any other policy that a loss reads.
//!
//! Computed once, before the first step, for the pairs that bring none, and kept in `reference/` of the run's folder as
//! shards of JSON Lines (`pair`, `ref_chosen_logps`, `ref_rejected_logps`: f64 survives JSON bit for bit), with a last line
//! that has their SHA-256. A shard is written whole: an interruption loses one at most. Its name has a hash of the policy's
//! name and its pairs' tokens, so that a shard of other pairs or under another policy is never taken for it. A resumed run
//! reads the shards; one that is absent is computed again, which is why the caller hands over the starting weights, and the
//! loop loads a checkpoint's only afterwards.
//!
//! Ranks take one shard each at a time; rank 0 reads what there is, and writes what all have computed.

use std::path::{Path, PathBuf};

use selfplay_model::Decoder;
use selfplay_records::atomic;
use serde::{Deserialize, Serialize};

use super::TokenPair;
use super::data::PairMembers;
use super::gradients::pair_log_probs;
use crate::batch::micro_batches;
use crate::collective::{Collective, agree, from_first, is_first};
use crate::error::Quantity;
use crate::fingerprint::Fingerprint;
use crate::loss::PairLogProbs;
use crate::objectives::checked_lines::{sealed, whole_lines};
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

impl ReferencePass<'_> {
    /// The pairs' log-probs: those of the shards on disk, the others computed and kept there. `None` when asked to stop;
    /// whole shards are kept.
    pub(crate) fn log_probs(
        &self,
        decoder: &Decoder,
        pairs: PairMembers<'_>,
    ) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        if pairs.len() == 0 {
            return Ok(Some(Vec::new()));
        }
        let first = is_first(self.collective);
        let made = if first { atomic::create_dir_all(self.folder).map_err(TrainError::from) } else { Ok(()) };
        agree(self.collective, made)?;
        let mut all = Vec::with_capacity(pairs.len());
        for round in self.shards(pairs)?.chunks(self.collective.world()) {
            match self.round(decoder, pairs, round)? {
                Some(values) => all.extend(values),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// The pairs' log-probs where every shard of them is on disk.
    pub(super) fn read_all(&self, pairs: PairMembers<'_>) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        let mut all = Vec::with_capacity(pairs.len());
        for round in self.shards(pairs)?.chunks(self.collective.world()) {
            for shard in self.read(round)? {
                match shard {
                    Some(values) => all.extend(values),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(all))
    }

    fn shards(&self, pairs: PairMembers<'_>) -> Result<Vec<ReferenceShard>, TrainError> {
        let places: Vec<usize> = (0..pairs.len()).collect();
        let shards = places.chunks(REFERENCE_SHARD).enumerate();
        let named = shards
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
        agree(self.collective, named)
    }

    /// One shard for every rank, or for some of them at the end; their values in order, or `None` when asked to stop.
    fn round(
        &self,
        decoder: &Decoder,
        pairs: PairMembers<'_>,
        round: &[ReferenceShard],
    ) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        let known = self.read(round)?;
        let own = match round.get(self.collective.rank()) {
            Some(shard) if known[self.collective.rank()].is_none() => {
                pairs.at(&shard.members).and_then(|members| self.compute(decoder, &members))
            }
            _ => Ok(None),
        };
        let own = agree(self.collective, own)?;
        let computed = unpack(&self.collective.all_gather(&pack(&[own]))?, round);

        let mut all = Some(Vec::new());
        let mut written = Ok(());
        for ((shard, known), computed) in round.iter().zip(known).zip(computed) {
            if let (None, Some(values), true) = (&known, &computed, is_first(self.collective)) {
                written = written.and_then(|()| write_shard(&shard.path, &pairs.at(&shard.members)?, values));
                tracing::debug!("reference log-probs: {}", shard.path.display());
            }
            all = all.zip(known.or(computed)).map(|(all, values)| [all, values].concat());
        }
        agree(self.collective, written)?;
        Ok(all)
    }

    /// The shards that rank 0 finds on disk.
    fn read(&self, round: &[ReferenceShard]) -> Result<Vec<Option<Vec<PairLogProbs>>>, TrainError> {
        let read = if is_first(self.collective) {
            round.iter().map(|shard| read_shard(&shard.path, shard.members.len())).collect()
        } else {
            Ok(Vec::new())
        };
        let found: Vec<Option<Vec<PairLogProbs>>> = agree(self.collective, read)?;
        Ok(unpack(&from_first(self.collective, &pack(&found))?, round))
    }

    /// The pairs' log-probs, or `None` when asked to stop.
    fn compute(
        &self,
        decoder: &Decoder,
        pairs: &[TokenPair],
    ) -> Result<Option<Vec<PairLogProbs>>, TrainError> {
        let tokens: Vec<usize> = pairs.iter().map(TokenPair::tokens).collect();
        let mut values = vec![PairLogProbs { chosen: 0.0, rejected: 0.0 }; pairs.len()];
        for micro in micro_batches(&tokens, self.micro_batch_tokens) {
            if (self.stop)() {
                return Ok(None);
            }
            let members: Vec<&TokenPair> = micro.iter().map(|&i| &pairs[i]).collect();
            for (&index, value) in micro.iter().zip(pair_log_probs(decoder, &members, self.loss_tokens)?) {
                if !(value.chosen.is_finite() && value.rejected.is_finite()) {
                    return Err(TrainError::NotFinite {
                        step: 0,
                        quantity: Quantity::ReferenceLogProb,
                        example: pairs[index].name.clone(),
                    });
                }
                values[index] = value;
            }
        }
        Ok(Some(values))
    }
}

/// Numbers of one shard in a message: whether it is there, then its log-probs, filled up with zeros.
const PACKED: usize = 1 + 2 * REFERENCE_SHARD;

/// Shards as numbers for the ranks to exchange.
fn pack(shards: &[Option<Vec<PairLogProbs>>]) -> Vec<f64> {
    let mut packed = vec![0.0; PACKED * shards.len()];
    for (numbers, values) in packed.chunks_exact_mut(PACKED).zip(shards) {
        let Some(values) = values else { continue };
        numbers[0] = 1.0;
        for (pair, value) in numbers[1..].chunks_exact_mut(2).zip(values) {
            pair.copy_from_slice(&[value.chosen, value.rejected]);
        }
    }
    packed
}

/// The shards of a round out of [`pack`]'s numbers.
fn unpack(packed: &[f64], round: &[ReferenceShard]) -> Vec<Option<Vec<PairLogProbs>>> {
    let shards = packed.chunks_exact(PACKED).zip(round);
    shards
        .map(|(numbers, shard)| {
            let pairs = numbers[1..].chunks_exact(2).take(shard.members.len());
            let values = pairs.map(|pair| PairLogProbs { chosen: pair[0], rejected: pair[1] }).collect();
            (numbers[0] != 0.0).then_some(values)
        })
        .collect()
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
