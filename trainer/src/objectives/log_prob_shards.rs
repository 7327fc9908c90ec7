//! Log-probs that are taken before the first step, shard by shard, whoever computes which.
//!
//! A shard is a file, written whole under a name that has a hash of what it is computed from: an interruption loses one a rank at most,
//! and a run that goes on reads what there is. Its bits do not depend on who computes it.
//!
//! - One rank, and ranks that train together: each takes one shard of a round; rank 0 reads what there is, and writes what all have
//!   computed.
//! - Ranks of which one trains ([`ShardClaims`]): each takes the next that nobody has, writes it, and reads those of the others.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use selfplay_model::Decoder;
use selfplay_records::atomic;

use crate::TrainError;
use crate::collective::{Collective, ShardClaims, agree, from_first, is_first};
use crate::fingerprint::Fingerprint;

/// Log-probs of some examples, in shards.
pub(super) trait LogProbShards {
    /// Those of a shard.
    type Values;

    /// How many shards there are.
    fn count(&self) -> usize;

    /// A shard's file; all of them lie in one folder.
    fn path(&self, shard: usize) -> &Path;

    /// A shard that was written before, if it is whole.
    fn read(&self, shard: usize) -> Result<Option<Self::Values>, TrainError>;

    /// Writes a shard, whole or not at all.
    fn write(&self, shard: usize, values: &Self::Values) -> Result<(), TrainError>;

    /// A shard's log-probs, or `None` when asked to stop.
    fn compute(&self, shard: usize, decoder: &Decoder) -> Result<Option<Self::Values>, TrainError>;

    /// How many numbers a shard's values are.
    fn numbers(&self, shard: usize) -> usize;

    /// The values as numbers, for other ranks.
    fn numbers_of(&self, values: &Self::Values) -> Vec<f64>;

    /// The values of a shard out of its numbers.
    fn values_of(&self, shard: usize, numbers: &[f64]) -> Self::Values;
}

/// The values of all shards in their order: those on disk, and the others computed and kept there. `None` when asked to stop; whole
/// shards are kept.
pub(super) fn take_all<S: LogProbShards>(
    shards: &S,
    decoder: &Decoder,
    collective: &dyn Collective,
) -> Result<Option<Vec<S::Values>>, TrainError> {
    let Some(folder) = first_folder(shards) else { return Ok(Some(Vec::new())) };
    if let Some(claims) = collective.shard_claims() {
        atomic::create_dir_all(folder)?;
        return by_claims(shards, decoder, claims, folder);
    }
    let made =
        if is_first(collective) { atomic::create_dir_all(folder).map_err(TrainError::from) } else { Ok(()) };
    agree(collective, made)?;
    let mut all = Vec::with_capacity(shards.count());
    for round in rounds(shards.count(), collective.world()) {
        match take_round(shards, decoder, collective, round)? {
            Some(values) => all.extend(values),
            None => return Ok(None),
        }
    }
    Ok(Some(all))
}

/// The values of all shards where every one of them is on disk.
pub(super) fn read_all<S: LogProbShards>(
    shards: &S,
    collective: &dyn Collective,
) -> Result<Option<Vec<S::Values>>, TrainError> {
    let mut all = Vec::with_capacity(shards.count());
    for round in rounds(shards.count(), collective.world()) {
        for shard in read_round(shards, collective, round)? {
            match shard {
                Some(values) => all.push(values),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(all))
}

fn first_folder<S: LogProbShards>(shards: &S) -> Option<&Path> {
    (shards.count() > 0).then(|| shards.path(0).parent()).flatten()
}

/// As many shards at a time as there are ranks.
fn rounds(count: usize, world: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(world.max(1)).map(move |start| start..count.min(start + world.max(1)))
}

/// One shard for every rank, or for some of them at the end; their values in order, or `None` when asked to stop.
fn take_round<S: LogProbShards>(
    shards: &S,
    decoder: &Decoder,
    collective: &dyn Collective,
    round: Range<usize>,
) -> Result<Option<Vec<S::Values>>, TrainError> {
    let known = read_round(shards, collective, round.clone())?;
    let own_shard = round.start + collective.rank();
    let own = match known.get(collective.rank()) {
        Some(None) => shards.compute(own_shard, decoder),
        _ => Ok(None),
    };
    let own = agree(collective, own)?;
    let packed = pack(shards, std::slice::from_ref(&own), width(shards, &round));
    let computed = unpack(shards, &collective.all_gather(&packed)?, round.clone());

    let mut all: Option<Vec<S::Values>> = Some(Vec::with_capacity(round.len()));
    let mut written = Ok(());
    for ((shard, known), computed) in round.zip(known).zip(computed) {
        if let (None, Some(values), true) = (&known, &computed, is_first(collective)) {
            written = written.and_then(|()| shards.write(shard, values));
            tracing::debug!("log-probs: {}", shards.path(shard).display());
        }
        all = all.zip(known.or(computed)).map(|(mut all, values)| {
            all.push(values);
            all
        });
    }
    agree(collective, written)?;
    Ok(all)
}

/// The shards of a round that rank 0 finds on disk.
fn read_round<S: LogProbShards>(
    shards: &S,
    collective: &dyn Collective,
    round: Range<usize>,
) -> Result<Vec<Option<S::Values>>, TrainError> {
    let read = if is_first(collective) {
        round.clone().map(|shard| shards.read(shard)).collect()
    } else {
        Ok(Vec::new())
    };
    let found: Vec<Option<S::Values>> = agree(collective, read)?;
    let packed = pack(shards, &found, width(shards, &round));
    Ok(unpack(shards, &from_first(collective, &packed)?, round))
}

/// Numbers of one shard in a message of a round: whether it is there, then its values, filled up with zeros.
fn width<S: LogProbShards>(shards: &S, round: &Range<usize>) -> usize {
    1 + round.clone().map(|shard| shards.numbers(shard)).max().unwrap_or(0)
}

/// Shards as numbers for the ranks to exchange.
fn pack<S: LogProbShards>(shards: &S, found: &[Option<S::Values>], width: usize) -> Vec<f64> {
    let mut packed = vec![0.0; width * found.len()];
    for (place, values) in packed.chunks_exact_mut(width).zip(found) {
        let Some(values) = values else { continue };
        place[0] = 1.0;
        for (place, number) in place[1..].iter_mut().zip(shards.numbers_of(values)) {
            *place = number;
        }
    }
    packed
}

/// The shards of a round out of [`pack`]'s numbers.
fn unpack<S: LogProbShards>(shards: &S, packed: &[f64], round: Range<usize>) -> Vec<Option<S::Values>> {
    let width = width(shards, &round);
    let each = packed.chunks_exact(width).zip(round);
    each.map(|(place, shard)| {
        (place[0] != 0.0).then(|| shards.values_of(shard, &place[1..=shards.numbers(shard)]))
    })
    .collect()
}

/// Takes shards until all of them are there, whoever computes them.
fn by_claims<S: LogProbShards>(
    shards: &S,
    decoder: &Decoder,
    claims: &dyn ShardClaims,
    folder: &Path,
) -> Result<Option<Vec<S::Values>>, TrainError> {
    let mut hash = Fingerprint::new();
    for name in (0..shards.count()).filter_map(|shard| shards.path(shard).file_name()) {
        hash.bytes(name.as_encoded_bytes());
    }
    let pass = &hash.hex()[..16];
    let mut found: Vec<Option<S::Values>> = (0..shards.count()).map(|_| None).collect();
    loop {
        let there = names(folder)?;
        let mut left = Vec::new();
        for (shard, values) in found.iter_mut().enumerate().filter(|(_, values)| values.is_none()) {
            let is_there = shards.path(shard).file_name().is_some_and(|name| there.contains(name));
            if is_there {
                *values = shards.read(shard)?;
            }
            if values.is_none() {
                left.push(shard);
            }
        }
        if left.is_empty() {
            return Ok(found.into_iter().collect());
        }
        match claims.take(pass, &left)? {
            Some(shard) => {
                let Some(values) = shards.compute(shard, decoder)? else { return Ok(None) };
                shards.write(shard, &values)?;
                found[shard] = Some(values);
            }
            None if claims.wait() => {}
            None => return Ok(None),
        }
    }
}

/// Names of what is in a folder.
fn names(folder: &Path) -> Result<BTreeSet<OsString>, TrainError> {
    let entries = std::fs::read_dir(folder).map_err(TrainError::io(folder))?;
    entries.map(|entry| Ok(entry.map_err(TrainError::io(folder))?.file_name())).collect()
}
