//! Pairs as the trainer takes them: token ids, targets, and reference log-probs where they are known.
//!
//! Ids win over messages where a row has both: pairs made by selfplay train on the sampler's own ids. Rows of
//! messages alone are tokenised as described in [`crate::turn`].

use selfplay_model::Decoder;
use selfplay_records::{Message, Pair};

use super::truncate::PairLengths;
use crate::fingerprint::Fingerprint;
use crate::loss::{PairLogProbs, PreferenceTarget};
use crate::turn::{TurnRules, last_turn, prompt_ids};
use crate::{LossKind, TrainError};

/// One preference pair in tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenPair {
    /// Its name in error messages: the prompt's id or the row.
    pub name: String,
    /// Never empty: its last hidden state gives the first response token's distribution.
    pub prompt: Vec<u32>,
    /// Whether the prompt's first token is a BOS, which truncation keeps.
    pub prompt_has_bos: bool,
    /// The chosen response, its stop token included.
    pub chosen: Vec<u32>,
    /// The rejected response, its stop token included.
    pub rejected: Vec<u32>,
    /// The preference model's numbers for the two.
    pub target: PreferenceTarget,
    /// Summed log-probs under the reference; `None`: to be computed.
    pub reference: Option<PairLogProbs>,
    /// Summed log-probs under the initial policy, of a loss that reads them; `None`: to be computed.
    pub initial: Option<PairLogProbs>,
    /// Summed log-probs under the policies before the reference, newest first, until they are weighed into it.
    pub earlier: Vec<PairLogProbs>,
}

impl TokenPair {
    /// Tokens of a forward pass over the pair: the prompt once, both responses.
    pub fn tokens(&self) -> usize {
        self.prompt.len() + self.chosen.len() + self.rejected.len()
    }

    /// Tokens of the prompt that a loss over all tokens predicts: all but the first.
    pub(crate) fn prompt_targets(&self) -> usize {
        self.prompt.len().saturating_sub(1)
    }

    pub(crate) fn fingerprint(&self, hash: &mut Fingerprint) {
        hash.ids(&self.prompt).ids(&self.chosen).ids(&self.rejected);
    }
}

/// One row of a pairs file as tokens; `loss` decides which target columns it must have.
///
/// # Errors
/// [`TrainError::Example`] names the row that has neither ids nor messages, an empty prompt or response, one
/// reference log-prob without the other, or lacks a column that the loss needs.
pub fn token_pair(
    row: usize,
    pair: &Pair,
    rules: TurnRules<'_>,
    loss: LossKind,
) -> Result<TokenPair, TrainError> {
    let codec = rules.codec;
    let name = match &pair.prompt_id {
        Some(id) => format!("pair {row} (prompt_id {id:?})"),
        None => format!("pair {row}"),
    };
    let of = |messages, ids, field| response_tokens(pair, messages, ids, field, rules, &name);
    let chosen = of(&pair.chosen, &pair.chosen_ids, "chosen")?;
    let rejected = of(&pair.rejected, &pair.rejected_ids, "rejected")?;
    let prompt = match (&pair.prompt_ids, &pair.prompt, &pair.chosen) {
        (Some(ids), _, _) => ids.clone(),
        (None, Some(messages), _) if !messages.is_empty() => prompt_ids(codec, messages, &name)?,
        (None, _, Some(chosen)) if chosen.len() > 1 => prompt_ids(codec, &chosen[..chosen.len() - 1], &name)?,
        _ => {
            return Err(TrainError::example(
                name,
                "no prompt",
                "`prompt_ids`, `prompt`, or a whole `chosen` conversation",
            ));
        }
    };
    let bos = codec.tokenizer.bos_id();
    let reference = log_probs(&name, "ref", pair.ref_chosen_logps, pair.ref_rejected_logps)?;
    let initial = log_probs(&name, "initial", pair.initial_chosen_logps, pair.initial_rejected_logps)?;
    let target = target(pair, loss, &name)?;
    let prompt_has_bos = bos.is_some() && prompt.first().copied() == bos;
    let earlier = Vec::new();
    let pair =
        TokenPair { name, prompt, prompt_has_bos, chosen, rejected, target, reference, initial, earlier };
    check_lengths(&pair.name, PairLengths::of(&pair))?;
    Ok(pair)
}

/// The log-probs that a row brings under one policy, both or none.
fn log_probs(
    name: &str,
    policy: &str,
    chosen: Option<f64>,
    rejected: Option<f64>,
) -> Result<Option<PairLogProbs>, TrainError> {
    match (chosen, rejected) {
        (Some(chosen), Some(rejected)) if chosen.is_finite() && rejected.is_finite() => {
            Ok(Some(PairLogProbs { chosen, rejected }))
        }
        (None, None) => Ok(None),
        _ => Err(TrainError::example(
            name,
            format!("one of `{policy}_chosen_logps`, `{policy}_rejected_logps` is absent or not finite"),
            "both, or neither (then they are computed)",
        )),
    }
}

/// The response's ids, or those of its messages.
fn response_tokens(
    pair: &Pair,
    messages: &Option<Vec<Message>>,
    ids: &Option<Vec<u32>>,
    field: &str,
    rules: TurnRules<'_>,
    name: &str,
) -> Result<Vec<u32>, TrainError> {
    if let Some(ids) = ids {
        return Ok(ids.clone());
    }
    let Some(messages) = messages else {
        return Err(TrainError::example(
            name,
            format!("neither `{field}_ids` nor `{field}`"),
            "the response as token ids or as messages",
        ));
    };
    // A list with the response alone follows the row's prompt.
    let alone = messages.len() == 1;
    let conversation: Vec<Message> = match &pair.prompt {
        Some(prompt) if alone => prompt.iter().chain(messages).cloned().collect(),
        _ => messages.clone(),
    };
    Ok(last_turn(rules, &conversation, name)?.response)
}

/// The row's target columns, of which the loss's own must be there.
fn target(pair: &Pair, loss: LossKind, name: &str) -> Result<PreferenceTarget, TrainError> {
    let target = PreferenceTarget {
        probability: pair.chosen_probs,
        probability_win: pair.chosen_probs_win,
        probability_lose: pair.chosen_probs_lose,
        score: pair.chosen_score,
        score_win: pair.chosen_score_win,
        score_lose: pair.chosen_score_lose,
        ..PreferenceTarget::default()
    };
    for &field in loss.required_targets() {
        if !target.get(field).is_some_and(f64::is_finite) {
            return Err(TrainError::example(
                name,
                format!("no finite `{field}`"),
                format!(
                    "the column that loss = \"{loss}\" takes its target from, or a loss without one, such as dpo"
                ),
            ));
        }
    }
    Ok(target)
}

/// Checks that prompt and responses have tokens.
pub(super) fn check_lengths(name: &str, lengths: PairLengths) -> Result<(), TrainError> {
    let PairLengths { prompt, chosen, rejected } = lengths;
    for (field, count) in [("prompt", prompt), ("chosen", chosen), ("rejected", rejected)] {
        if count == 0 {
            return Err(TrainError::example(name, format!("no tokens in `{field}`"), "one token or more"));
        }
    }
    Ok(())
}

/// Checks that every id is in the model's vocabulary.
pub(crate) fn check_vocabulary<'a>(
    decoder: &Decoder,
    name: &str,
    lists: impl IntoIterator<Item = &'a [u32]>,
) -> Result<(), TrainError> {
    let vocab = decoder.architecture().vocab_size;
    match lists.into_iter().flatten().find(|&&id| id as usize >= vocab) {
        None => Ok(()),
        Some(id) => Err(TrainError::example(
            name,
            format!("token id {id}"),
            format!("ids below the model's vocabulary of {vocab}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    #[test]
    fn a_loss_asks_for_its_own_columns_only() {
        let bare = Pair::default();
        assert!(target(&bare, LossKind::Dpo, "pair 0").is_ok());
        let error = target(&bare, LossKind::Gpo, "pair 3").unwrap_err();
        assert!(error.kind() == Kind::Input);
        let text = error.to_string();
        assert!(
            text.contains("pair 3") && text.contains("chosen_score_win") && text.contains("gpo"),
            "{text}"
        );
        let scored = Pair { chosen_score_win: Some(1.5), chosen_score_lose: Some(-2.0), ..Pair::default() };
        let got = target(&scored, LossKind::LnGpo, "pair 0").unwrap();
        assert_eq!((got.score_win, got.score_lose, got.probability), (Some(1.5), Some(-2.0), None));
        let nan = Pair { chosen_probs: Some(f64::NAN), ..Pair::default() };
        assert!(target(&nan, LossKind::SppoSingle, "pair 0").is_err());
    }

    #[test]
    fn empty_lists_are_named() {
        let pair =
            TokenPair { name: "pair 9".into(), prompt: vec![1], chosen: vec![2], ..TokenPair::default() };
        let text = check_lengths(&pair.name, PairLengths::of(&pair)).unwrap_err().to_string();
        assert!(text.contains("pair 9") && text.contains("rejected"), "{text}");
    }
}
