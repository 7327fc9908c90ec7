//! Log-probs of groups, token by token: under the starting weights for responses that bring none, and under another policy.
//!
//! Where one process trains alone they are kept in `reference/` of the run's folder, a shard of JSON Lines at a time (a line has the
//! lists of a group's responses; an f32 survives JSON bit for bit), so that an interruption loses one shard at most. A shard's name has a
//! hash of the policy's name and of its groups' tokens. Several ranks compute all of them each, and have the same bits.

use std::path::{Path, PathBuf};

use selfplay_model::Decoder;
use selfplay_records::atomic;

use super::token_group::TokenGroup;
use crate::TrainError;
use crate::batch::{micro_batches, pack_responses};
use crate::collective::{Collective, agree_to_stop};
use crate::error::Quantity;
use crate::fingerprint::Fingerprint;
use crate::log_probs::forward_log_probs;
use crate::objectives::checked_lines::{sealed, whole_lines};

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

impl TokenPass<'_> {
    /// The log-probs of all groups, those on disk and those computed with the decoder; `None` when asked to stop.
    pub(super) fn log_probs(
        &self,
        decoder: &Decoder,
        groups: &[TokenGroup],
    ) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
        if self.is_kept() {
            atomic::create_dir_all(self.folder)?;
        }
        let mut all = Vec::with_capacity(groups.len());
        for (number, shard) in groups.chunks(SHARD).enumerate() {
            let path = self.path(number, shard);
            if let Some(values) = self.read(&path, shard)? {
                all.extend(values);
                continue;
            }
            let Some(values) = self.compute(decoder, shard)? else { return Ok(None) };
            if self.is_kept() {
                write(&path, &values)?;
            }
            all.extend(values);
        }
        Ok(Some(all))
    }

    /// The log-probs of all groups where every shard of them is on disk.
    pub(super) fn read_all(&self, groups: &[TokenGroup]) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
        let mut all = Vec::with_capacity(groups.len());
        for (number, shard) in groups.chunks(SHARD).enumerate() {
            match self.read(&self.path(number, shard), shard)? {
                Some(values) => all.extend(values),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    fn is_kept(&self) -> bool {
        self.collective.world() == 1
    }

    fn path(&self, number: usize, shard: &[TokenGroup]) -> PathBuf {
        let mut hash = Fingerprint::new();
        hash.bytes(b"tokens of groups").bytes(self.policy.as_bytes());
        shard.iter().for_each(|group| group.fingerprint(&mut hash));
        self.folder.join(format!("{number:05}-{}.jsonl", &hash.hex()[..16]))
    }

    /// A whole shard of these groups, if it is there.
    fn read(&self, path: &Path, shard: &[TokenGroup]) -> Result<Option<Vec<GroupLogProbs>>, TrainError> {
        if !self.is_kept() {
            return Ok(None);
        }
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
        Ok(values.ok().filter(|values| fits(values, shard)))
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
        for micro in micro_batches(&tokens, self.micro_batch_tokens) {
            let ((), stop) = agree_to_stop(self.collective, Ok(()), (self.stop)())?;
            if stop {
                return Ok(None);
            }
            let items = micro.iter().map(|&member| {
                let (group, response) = places[member];
                (&shard[group].prompt[..], &shard[group].responses[response].ids[..])
            });
            let packed = pack_responses(items);
            let all = forward_log_probs(decoder, &packed.batch, &packed.targets)?;
            for (&member, span) in micro.iter().zip(packed.spans) {
                let (group, response) = places[member];
                let own = &all[span];
                if own.iter().any(|x| !x.is_finite()) {
                    let (step, quantity) = (0, Quantity::ReferenceLogProb);
                    return Err(TrainError::NotFinite { step, quantity, example: shard[group].name.clone() });
                }
                values[group][response] = own.to_vec();
            }
        }
        Ok(Some(values))
    }
}

/// Whether there is a number for each token.
fn fits(values: &[GroupLogProbs], shard: &[TokenGroup]) -> bool {
    let of_group = |(values, group): (&GroupLogProbs, &TokenGroup)| {
        values.len() == group.responses.len()
            && values
                .iter()
                .zip(&group.responses)
                .all(|(values, response)| values.len() == response.ids.len())
    };
    values.len() == shard.len() && values.iter().zip(shard).all(of_group)
}

fn write(path: &Path, values: &[GroupLogProbs]) -> Result<(), TrainError> {
    let mut text = Vec::new();
    for group in values {
        serde_json::to_writer(&mut text, group).map_err(|e| TrainError::io(path)(e.into()))?;
        text.push(b'\n');
    }
    Ok(atomic::write_bytes(path, &sealed(text))?)
}
