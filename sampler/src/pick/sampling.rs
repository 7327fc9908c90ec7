//! One token from one row of logits.
//!
//! The filters are transformers': temperature → top-k → top-p → min-p, each on what the one before left. By
//! definition, with tokens in the order of falling logit and, among equals, rising id:
//! - top-k keeps the first k;
//! - top-p keeps the shortest prefix that holds `top_p` of the mass that is left;
//! - min-p keeps what has at least `min_p` of the greatest mass.
//!
//! The draw is the inverse of the cumulative distribution in the order of ids, by one uniform number.
//!
//! Nothing sorts the vocabulary. The k-th greatest of the blocks' maxima bounds the k-th greatest logit from below;
//! the few tokens of 1/128 of the greatest mass mostly hold `top_p`, and where they do not, a sample of the row estimates
//! between which logits it is reached; one pass over the row checks that and takes the tokens between them.
//! Within these a selection halves its way to the last token kept. Masses are
//! multiples of 2^-34 of the greatest, so their sums are exact and this finds the very set that a sort would; a
//! token below 2^-35 of the greatest is never drawn.

use std::cmp::Ordering;

use selfplay_model::ops::draw::DrawRule;

use super::bracket::{Bracket, bracket_masses, sampled_bracket};
use super::row_pass::{BLOCK, Floor, RowWeights, block_masses, block_maxima, kept_masses};
use super::token_choice::{TokenChoice, mass_of};
use crate::Sampling;

/// How a token is picked: a request's sampling as the kernels take it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PickRule {
    /// Absent when greedy.
    temperature: Option<f32>,
    top_p: f64,
    top_k: usize,
    min_p: f64,
}

impl PickRule {
    /// The most likely token. Of all rules it costs the least to prepare a row for.
    pub(crate) const GREEDY: Self = Self { temperature: None, top_p: 1.0, top_k: 0, min_p: 0.0 };

    /// The rule of valid sampling.
    pub fn new(sampling: &Sampling) -> Self {
        Self {
            temperature: (sampling.temperature > 0.0).then_some(sampling.temperature as f32),
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
        }
    }

    /// The rule that [`PickRule::on_device`] made this of.
    #[cfg(test)]
    pub(crate) fn of_device(rule: &DrawRule) -> Self {
        let DrawRule { temperature, top_p, top_k, min_p, .. } = *rule;
        Self { temperature: (temperature > 0.0).then_some(temperature), top_p, top_k, min_p }
    }

    /// The same rule as a GPU takes it.
    pub fn on_device(&self) -> DrawRule {
        DrawRule {
            temperature: self.temperature.unwrap_or(0.0),
            inverse: self.temperature.map_or(1.0, inverse_of),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }
}

/// A temperature below the smallest normal number would make 0 · inf of the greatest logit.
fn inverse_of(temperature: f32) -> f32 {
    temperature.recip().min(f32::MAX)
}

/// A token and its log-probability under the unmodified distribution, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub id: u32,
    /// ln softmax(logits)\[id].
    pub logprob: f32,
}

/// A row with a NaN or +inf, or with -inf alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

/// Picks tokens from rows of logits; keeps its buffers from row to row.
#[derive(Clone, Debug, Default)]
pub struct Picker {
    maxima: Vec<f32>,
    masses: Vec<f64>,
    ranked_maxima: Vec<f32>,
    choices: Vec<TokenChoice>,
    scratch: Vec<TokenChoice>,
    max: f32,
    log_sum: f64,
    weights: Option<RowWeights>,
    kept: KeptTokens,
}

/// The tokens of a row that the filters kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum KeptTokens {
    /// The greatest logit alone.
    #[default]
    Greatest,
    /// Every token down to a floor; their mass in each block is in `masses`.
    Down { to: Floor, mass: f64 },
    /// The tokens in `choices`, in the order of ids.
    Choices { mass: f64 },
}

impl Picker {
    /// Reads a row of logits \[vocab] once for any number of [`Picker::draw`]s.
    pub fn prepare(&mut self, logits: &[f32], rule: &PickRule) -> Result<(), NotFinite> {
        let has_nan = block_maxima(logits, &mut self.maxima);
        self.max = self.maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if has_nan || !self.max.is_finite() {
            return Err(NotFinite);
        }
        let weights = match rule.temperature {
            None => RowWeights::None,
            Some(1.0) => RowWeights::Plain,
            Some(temperature) => RowWeights::Tempered(inverse_of(temperature)),
        };
        self.weights = Some(weights);
        self.log_sum = block_masses(logits, self.max, weights, &mut self.masses).ln();
        self.kept = match rule.temperature {
            None => KeptTokens::Greatest,
            Some(temperature) => self.filter(logits, temperature, weights, rule),
        };
        Ok(())
    }

    /// The token that `uniform` of [0, 1) picks from the row last prepared, which `logits` must be.
    pub fn draw(&self, logits: &[f32], uniform: f64) -> SampledToken {
        let id = match self.kept {
            KeptTokens::Greatest => self.greatest(logits),
            KeptTokens::Down { to, mass } => self.draw_down_to(&to, logits, uniform * mass),
            KeptTokens::Choices { mass } => self.draw_from_choices(uniform * mass),
        };
        self.token(logits, id)
    }

    /// The log-prob of a logit of the row.
    pub(super) fn logprob(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.max) - self.log_sum) as f32
    }

    /// The greatest logit of each block of the row.
    pub(super) fn block_maxima(&self) -> &[f32] {
        &self.maxima
    }

    /// The lowest id among the greatest logits.
    fn greatest(&self, logits: &[f32]) -> u32 {
        let block = self.maxima.iter().position(|&max| max == self.max).unwrap_or(0);
        let start = block * BLOCK;
        let within = logits[start..].iter().position(|&logit| logit == self.max).unwrap_or(0);
        (start + within) as u32
    }

    fn draw_down_to(&self, floor: &Floor, logits: &[f32], target: f64) -> u32 {
        let weights = self.weights.unwrap_or(RowWeights::Plain);
        let mut below = 0.0;
        let mut last = self.greatest(logits);
        for (block, &mass) in self.masses.iter().enumerate() {
            if mass == 0.0 {
                continue;
            }
            let start = block * BLOCK;
            let rows = &logits[start..logits.len().min(start + BLOCK)];
            if below + mass <= target {
                below += mass;
                continue;
            }
            for (place, &logit) in rows.iter().enumerate() {
                let (id, mass) = ((start + place) as u32, weights.mass(logit - self.max));
                if mass == 0.0 || !floor.keeps(logit, id, mass) {
                    continue;
                }
                last = id;
                below += mass;
                if below > target {
                    return last;
                }
            }
        }
        last
    }

    fn draw_from_choices(&self, target: f64) -> u32 {
        let mut below = 0.0;
        let mut last = 0;
        for choice in self.choices.iter().filter(|choice| choice.mass > 0.0) {
            last = choice.id;
            below += choice.mass;
            if below > target {
                break;
            }
        }
        last
    }

    fn filter(
        &mut self,
        logits: &[f32],
        temperature: f32,
        weights: RowWeights,
        rule: &PickRule,
    ) -> KeptTokens {
        let mut total: f64 = self.masses.iter().sum();
        let by_count = rule.top_k > 0 && rule.top_k < logits.len();
        if by_count {
            self.keep_top_k(logits, weights, rule.top_k);
            total = mass_of(&self.choices);
        }
        if rule.top_p < 1.0 {
            let target = rule.top_p * total;
            if !by_count && !self.gather_few(logits, temperature, weights, target) {
                let rest = (1.0 - rule.top_p) * total / logits.len() as f64;
                return self.keep_many(logits, self.cutoff(temperature, rest), weights, target, rule);
            }
            if let Some(last) = self.last_of(0.0, target) {
                self.keep_up_to(&last);
            }
        } else if !by_count && rule.min_p > 0.0 {
            self.gather(logits, self.cutoff(temperature, rule.min_p), weights);
        } else if !by_count {
            return KeptTokens::Down { to: Floor::NONE, mass: total };
        }
        if rule.min_p > 0.0 {
            // The greatest mass is 1.
            self.choices.retain(|choice| choice.mass >= rule.min_p);
        }
        KeptTokens::Choices { mass: mass_of(&self.choices) }
    }

    /// A logit below which no mass reaches `mass`; the slack is larger than every rounding error.
    fn cutoff(&self, temperature: f32, mass: f64) -> f32 {
        (f64::from(self.max) + f64::from(temperature) * (mass.ln() - 1e-3) - 1e-6 * f64::from(self.max.abs()))
            as f32
    }

    /// Choices become all tokens with logits of `cutoff` or more, in the order of ids.
    fn gather(&mut self, logits: &[f32], cutoff: f32, weights: RowWeights) {
        self.choices.clear();
        for (block, &max) in self.maxima.iter().enumerate() {
            if max < cutoff {
                continue;
            }
            let start = block * BLOCK;
            for (place, &logit) in logits[start..logits.len().min(start + BLOCK)].iter().enumerate() {
                if logit >= cutoff {
                    let mass = weights.mass(logit - self.max);
                    self.choices.push(TokenChoice { logit, id: (start + place) as u32, mass });
                }
            }
        }
    }

    /// Choices become the tokens of 1/128 of the greatest mass or more; false where these do not hold `target`,
    /// or are spread over so many blocks that the row is flat.
    fn gather_few(&mut self, logits: &[f32], temperature: f32, weights: RowWeights, target: f64) -> bool {
        const FEW: f64 = 1.0 / 128.0;
        let cutoff = self.cutoff(temperature, FEW);
        let blocks = self.maxima.iter().filter(|&&max| max >= cutoff).count();
        if blocks > 8 + self.maxima.len() / 8 {
            return false;
        }
        self.gather(logits, cutoff, weights);
        mass_of(&self.choices) >= target
    }

    /// Top-p of a flat row, where thousands of tokens hold the target: only those of a narrow bracket of logits, in
    /// which the target is reached, become choices.
    fn keep_many(
        &mut self,
        logits: &[f32],
        cutoff: f32,
        weights: RowWeights,
        target: f64,
        rule: &PickRule,
    ) -> KeptTokens {
        let bracket = sampled_bracket(logits, self.max, weights, cutoff, rule.top_p);
        let mut above = self.gather_within(logits, weights, bracket);
        // The estimate may be wrong. The whole side that the target is on then becomes the bracket.
        if above >= target {
            let bracket = Bracket { upper: self.max, lower: bracket.upper };
            above = self.gather_within(logits, weights, bracket);
        } else if above + mass_of(&self.choices) < target {
            let bracket = Bracket { upper: bracket.lower, lower: f32::NEG_INFINITY };
            above = self.gather_within(logits, weights, bracket);
        }
        let last = self.last_of(above, target);
        let to = last.map_or(Floor::NONE, |last| Floor { logit: last.logit, id: last.id, ..Floor::NONE });
        let to = Floor { mass: rule.min_p, ..to };
        match last {
            Some(last) if rule.min_p == 0.0 => {
                let kept = |choice: &&TokenChoice| choice.rank(&last) != Ordering::Greater;
                for choice in self.choices.iter().filter(kept) {
                    self.masses[choice.id as usize / BLOCK] += choice.mass;
                }
            }
            _ => kept_masses(logits, self.max, weights, to, &mut self.masses),
        }
        KeptTokens::Down { to, mass: self.masses.iter().sum() }
    }

    /// Choices become the tokens of the bracket; returns the mass above it, whose blocks' parts are in `masses`.
    fn gather_within(&mut self, logits: &[f32], weights: RowWeights, bracket: Bracket) -> f64 {
        bracket_masses(logits, self.max, weights, bracket, &mut self.masses, &mut self.choices);
        self.masses.iter().sum()
    }

    fn keep_top_k(&mut self, logits: &[f32], weights: RowWeights, k: usize) {
        let cutoff = if k <= self.maxima.len() {
            self.ranked_maxima.clone_from(&self.maxima);
            *self.ranked_maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        self.gather(logits, cutoff, weights);
        if self.choices.len() > k {
            self.scratch.clone_from(&self.choices);
            let last = *self.scratch.select_nth_unstable_by(k - 1, TokenChoice::rank).1;
            self.keep_up_to(&last);
        }
    }

    /// The choice, in the order of rank, with which the mass, from `above` on, reaches `target`; absent when all of them
    /// do not reach it, which happens by rounding only.
    fn last_of(&mut self, mut above: f64, target: f64) -> Option<TokenChoice> {
        const SORTED: usize = 32;
        self.scratch.clone_from(&self.choices);
        let mut open = self.scratch.as_mut_slice();
        while open.len() > SORTED {
            let half = open.len() / 2;
            open.select_nth_unstable_by(half, TokenChoice::rank);
            let (first, second) = std::mem::take(&mut open).split_at_mut(half);
            let mass = mass_of(first);
            if above + mass >= target {
                open = first;
            } else {
                above += mass;
                open = second;
            }
        }
        open.sort_unstable_by(TokenChoice::rank);
        let last = open.iter().find(|choice| {
            above += choice.mass;
            above >= target
        });
        last.copied()
    }

    fn keep_up_to(&mut self, last: &TokenChoice) {
        self.choices.retain(|choice| choice.rank(last) != Ordering::Greater);
    }
}

#[cfg(test)]
mod tests;
