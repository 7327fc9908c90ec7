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
//! tokens lighter than (1 - top_p) · total / vocabulary hold less than 1 - top_p together. Either bound leaves few
//! blocks to look into, and within what they hold a selection halves its way to the last token kept. Masses are
//! multiples of 2^-34 of the greatest, so their sums are exact and this finds the very set that a sort would; a
//! token below 2^-35 of the greatest is never drawn.

use std::cmp::Ordering;

use crate::SampleSettings;
use crate::row_pass::{BLOCK, Weights, block_masses, block_maxima};

/// How a token is picked: the settings as the kernels take them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PickRule {
    /// Absent when greedy.
    temperature: Option<f32>,
    top_p: f64,
    top_k: usize,
    min_p: f64,
}

impl PickRule {
    /// The rule of valid settings.
    pub fn new(settings: &SampleSettings) -> Self {
        Self {
            temperature: (settings.temperature > 0.0).then_some(settings.temperature as f32),
            top_p: settings.top_p,
            top_k: settings.top_k,
            min_p: settings.min_p,
        }
    }
}

/// A token and its log-probability under the unmodified distribution, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// The token.
    pub id: u32,
    /// ln softmax(logits)[id].
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
    candidates: Vec<Candidate>,
    scratch: Vec<Candidate>,
    max: f32,
    log_sum: f64,
    weights: Option<Weights>,
    kept: Kept,
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    id: u32,
    mass: f64,
}

impl Candidate {
    /// Falling logit, then rising id.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// What the filters left of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Kept {
    /// The greatest logit alone.
    #[default]
    Greatest,
    /// Every token; the blocks' masses stand in `masses`.
    All { mass: f64 },
    /// The tokens in `candidates`, in the order of ids.
    Candidates { mass: f64 },
}

impl Picker {
    /// Reads a row of logits [vocab] once for any number of [`Picker::draw`]s.
    pub fn prepare(&mut self, logits: &[f32], rule: &PickRule) -> Result<(), NotFinite> {
        let has_nan = block_maxima(logits, &mut self.maxima);
        self.max = self.maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if has_nan || !self.max.is_finite() {
            return Err(NotFinite);
        }
        let weights = match rule.temperature {
            None => Weights::None,
            Some(1.0) => Weights::Plain,
            // A temperature below the smallest normal number would make 0 · inf of the greatest logit.
            Some(temperature) => Weights::Tempered(temperature.recip().min(f32::MAX)),
        };
        self.weights = Some(weights);
        self.log_sum = block_masses(logits, self.max, weights, &mut self.masses).ln();
        self.kept = match rule.temperature {
            None => Kept::Greatest,
            Some(temperature) => self.filter(logits, temperature, weights, rule),
        };
        Ok(())
    }

    /// The token that `uniform` of [0, 1) picks from the row last prepared, which `logits` must be.
    pub fn draw(&self, logits: &[f32], uniform: f64) -> Pick {
        let id = match self.kept {
            Kept::Greatest => self.greatest(logits),
            Kept::All { mass } => self.draw_from_all(logits, uniform * mass),
            Kept::Candidates { mass } => self.draw_from_candidates(uniform * mass),
        };
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let logprob = (f64::from(logit) - f64::from(self.max) - self.log_sum) as f32;
        Pick { id, logprob }
    }

    /// The lowest id among the greatest logits.
    fn greatest(&self, logits: &[f32]) -> u32 {
        let block = self.maxima.iter().position(|&max| max == self.max).unwrap_or(0);
        let start = block * BLOCK;
        let within = logits[start..].iter().position(|&logit| logit == self.max).unwrap_or(0);
        (start + within) as u32
    }

    fn draw_from_all(&self, logits: &[f32], target: f64) -> u32 {
        let weights = self.weights.unwrap_or(Weights::Plain);
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
                let mass = weights.mass(logit - self.max);
                if mass > 0.0 {
                    last = (start + place) as u32;
                }
                below += mass;
                if below > target {
                    return last;
                }
            }
        }
        last
    }

    fn draw_from_candidates(&self, target: f64) -> u32 {
        let mut below = 0.0;
        let mut last = 0;
        for candidate in self.candidates.iter().filter(|candidate| candidate.mass > 0.0) {
            last = candidate.id;
            below += candidate.mass;
            if below > target {
                break;
            }
        }
        last
    }

    fn filter(&mut self, logits: &[f32], temperature: f32, weights: Weights, rule: &PickRule) -> Kept {
        let mut total: f64 = self.masses.iter().sum();
        let by_count = rule.top_k > 0 && rule.top_k < logits.len();
        if by_count {
            self.keep_top_k(logits, weights, rule.top_k);
            total = mass_of(&self.candidates);
        }
        if rule.top_p < 1.0 {
            let target = rule.top_p * total;
            if !by_count {
                let rest = (1.0 - rule.top_p) * total / logits.len() as f64;
                self.gather_mass(logits, temperature, weights, target, rest);
            }
            self.keep_mass(target);
        } else if !by_count && rule.min_p > 0.0 {
            self.gather(logits, self.cutoff(temperature, rule.min_p), weights);
        } else if !by_count {
            return Kept::All { mass: total };
        }
        if rule.min_p > 0.0 {
            // The greatest mass is 1.
            self.candidates.retain(|candidate| candidate.mass >= rule.min_p);
        }
        Kept::Candidates { mass: mass_of(&self.candidates) }
    }

    /// A logit below which no mass reaches `mass`; the slack outdoes every rounding.
    fn cutoff(&self, temperature: f32, mass: f64) -> f32 {
        (f64::from(self.max) + f64::from(temperature) * (mass.ln() - 1e-3) - 1e-6 * f64::from(self.max.abs())) as f32
    }

    /// Candidates become all tokens with logits of `cutoff` or more, in the order of ids.
    fn gather(&mut self, logits: &[f32], cutoff: f32, weights: Weights) {
        self.candidates.clear();
        for (block, &max) in self.maxima.iter().enumerate() {
            if max < cutoff {
                continue;
            }
            let start = block * BLOCK;
            for (place, &logit) in logits[start..logits.len().min(start + BLOCK)].iter().enumerate() {
                if logit >= cutoff {
                    let mass = weights.mass(logit - self.max);
                    self.candidates.push(Candidate { logit, id: (start + place) as u32, mass });
                }
            }
        }
    }

    /// Candidates become a set that holds `target`: a few if a few do, else all but those lighter than `rest`.
    fn gather_mass(&mut self, logits: &[f32], temperature: f32, weights: Weights, target: f64, rest: f64) {
        const FEW: f64 = 1.0 / 128.0;
        for cutoff in [self.cutoff(temperature, FEW), self.cutoff(temperature, rest.min(FEW)), f32::NEG_INFINITY] {
            self.gather(logits, cutoff, weights);
            if mass_of(&self.candidates) >= target {
                return;
            }
        }
    }

    fn keep_top_k(&mut self, logits: &[f32], weights: Weights, k: usize) {
        let cutoff = if k <= self.maxima.len() {
            self.ranked_maxima.clone_from(&self.maxima);
            *self.ranked_maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::NEG_INFINITY
        };
        self.gather(logits, cutoff, weights);
        if self.candidates.len() > k {
            self.scratch.clone_from(&self.candidates);
            let last = *self.scratch.select_nth_unstable_by(k - 1, Candidate::rank).1;
            self.keep_up_to(&last);
        }
    }

    /// Keeps the shortest prefix, in the order of rank, that holds `target`.
    fn keep_mass(&mut self, target: f64) {
        const SORTED: usize = 32;
        self.scratch.clone_from(&self.candidates);
        let mut open = self.scratch.as_mut_slice();
        let mut above = 0.0;
        while open.len() > SORTED {
            let half = open.len() / 2;
            open.select_nth_unstable_by(half, Candidate::rank);
            let (first, second) = std::mem::take(&mut open).split_at_mut(half);
            let mass = mass_of(first);
            if above + mass >= target {
                open = first;
            } else {
                above += mass;
                open = second;
            }
        }
        open.sort_unstable_by(Candidate::rank);
        let last = open.iter().find(|candidate| {
            above += candidate.mass;
            above >= target
        });
        // Without one, the target is all there is.
        if let Some(last) = last.copied() {
            self.keep_up_to(&last);
        }
    }

    fn keep_up_to(&mut self, last: &Candidate) {
        self.candidates.retain(|candidate| candidate.rank(last) != Ordering::Greater);
    }
}

fn mass_of(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.mass).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::row_pass::exp;

    fn rule(temperature: f64, top_k: usize, top_p: f64, min_p: f64) -> PickRule {
        PickRule::new(&SampleSettings { temperature, top_k, top_p, min_p, ..SampleSettings::default() })
    }

    fn prepared(logits: &[f32], rule: &PickRule) -> Picker {
        let mut picker = Picker::default();
        picker.prepare(logits, rule).unwrap();
        picker
    }

    fn kept(logits: &[f32], rule: &PickRule) -> Vec<u32> {
        let picker = prepared(logits, rule);
        match picker.kept {
            Kept::Greatest => vec![picker.greatest(logits)],
            Kept::All { .. } => (0..logits.len() as u32).collect(),
            Kept::Candidates { .. } => picker.candidates.iter().map(|candidate| candidate.id).collect(),
        }
    }

    /// The definition, by a sort of everything.
    fn kept_by_sorting(logits: &[f32], rule: &PickRule) -> Vec<u32> {
        let temperature = rule.temperature.unwrap();
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mass = |logit: f32| {
            let distance = logit - max;
            let weight = if temperature == 1.0 { exp(distance) } else { exp(distance * temperature.recip()) };
            (f64::from(weight) * (1u64 << 34) as f64).round_ties_even() / (1u64 << 34) as f64
        };
        let mut sorted: Vec<Candidate> =
            logits.iter().enumerate().map(|(id, &logit)| Candidate { logit, id: id as u32, mass: mass(logit) }).collect();
        sorted.sort_by(Candidate::rank);
        if rule.top_k > 0 {
            sorted.truncate(rule.top_k);
        }
        if rule.top_p < 1.0 {
            let target = rule.top_p * mass_of(&sorted);
            let mut sum = 0.0;
            let count = sorted.iter().take_while(|candidate| {
                let open = sum < target;
                sum += candidate.mass;
                open
            });
            let count = count.count();
            sorted.truncate(count);
        }
        sorted.retain(|candidate| rule.min_p == 0.0 || candidate.mass >= rule.min_p);
        let mut ids: Vec<u32> = sorted.into_iter().map(|candidate| candidate.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Probabilities ½, ¼, ⅛, ⅛ at temperature 1, not in order.
    fn halves() -> Vec<f32> {
        [0.125f32, 0.5, 0.125, 0.25].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn top_p_keeps_the_shortest_prefix_that_reaches_it() {
        assert_eq!(kept(&halves(), &rule(1.0, 0, 0.4, 0.0)), [1]);
        assert_eq!(kept(&halves(), &rule(1.0, 0, 0.6, 0.0)), [1, 3]);
        // Of the two eighths the lower id comes first.
        assert_eq!(kept(&halves(), &rule(1.0, 0, 0.8, 0.0)), [0, 1, 3]);
        assert_eq!(kept(&halves(), &rule(1.0, 0, 0.9, 0.0)), [0, 1, 2, 3]);
        assert_eq!(kept(&halves(), &rule(1.0, 0, 1e-9, 0.0)), [1]);
    }

    #[test]
    fn top_k_comes_before_top_p() {
        assert_eq!(kept(&halves(), &rule(1.0, 3, 1.0, 0.0)), [0, 1, 3]);
        // Of the two that top-k leaves, the first holds two thirds.
        assert_eq!(kept(&halves(), &rule(1.0, 2, 0.6, 0.0)), [1]);
        assert_eq!(kept(&halves(), &rule(1.0, 2, 0.7, 0.0)), [1, 3]);
        assert_eq!(kept(&halves(), &rule(1.0, 9, 1.0, 0.0)), [0, 1, 2, 3]);
    }

    #[test]
    fn min_p_is_relative_to_the_greatest() {
        assert_eq!(kept(&halves(), &rule(1.0, 0, 1.0, 0.4)), [1, 3]);
        assert_eq!(kept(&halves(), &rule(1.0, 0, 1.0, 1.0)), [1]);
        // At temperature ½ the ratios are squared: 1, 1/4, 1/16.
        assert_eq!(kept(&halves(), &rule(0.5, 0, 1.0, 0.3)), [1]);
        assert_eq!(kept(&halves(), &rule(0.5, 0, 0.99, 0.2)), [1, 3]);
    }

    #[test]
    fn the_draw_inverts_the_cumulative_distribution_in_the_order_of_ids() {
        let logits = halves();
        let all = prepared(&logits, &rule(1.0, 0, 1.0, 0.0));
        let picks = [0.0, 0.12, 0.13, 0.62, 0.63, 0.74, 0.76, 0.9999].map(|u| all.draw(&logits, u).id);
        assert_eq!(picks, [0, 0, 1, 1, 2, 2, 3, 3]);
        let two = prepared(&logits, &rule(1.0, 2, 1.0, 0.0));
        let picks = [0.0, 0.66, 0.67, 1.0 - 1e-16].map(|u| two.draw(&logits, u).id);
        assert_eq!(picks, [1, 1, 3, 3]);
    }

    #[test]
    fn the_log_prob_is_of_the_unmodified_distribution() {
        let logits: Vec<f32> = halves().iter().map(|logit| logit + 3.0).collect();
        for rule in [rule(0.0, 0, 1.0, 0.0), rule(0.3, 0, 1.0, 0.0), rule(0.3, 1, 1.0, 0.0), rule(2.0, 0, 0.1, 0.0)] {
            let pick = prepared(&logits, &rule).draw(&logits, 0.5);
            assert_eq!(pick.id, 1, "{rule:?}");
            assert!((pick.logprob - 0.5f32.ln()).abs() < 1e-6, "{rule:?}: {}", pick.logprob);
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_sampling_knows_them_all() {
        let mut logits = vec![0.0f32; 200];
        for id in [70, 71, 190] {
            logits[id] = 2.0;
        }
        let greedy = prepared(&logits, &rule(0.0, 0, 0.5, 0.0)).draw(&logits, 0.99);
        assert_eq!(greedy.id, 70);
        assert_eq!(kept(&logits, &rule(0.01, 0, 0.6, 0.0)), [70, 71]);
        assert_eq!(kept(&logits, &rule(0.7, 2, 1.0, 0.0)), [70, 71]);
        // Negative and positive zero are equals.
        assert_eq!(kept(&[-0.0, 0.0], &rule(1.0, 1, 1.0, 0.0)), [0]);
    }

    #[test]
    fn masked_tokens_are_never_drawn() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        for rule in [rule(1.0, 0, 1.0, 0.0), rule(0.7, 0, 0.9, 0.0), rule(0.7, 4, 1.0, 0.0), rule(5.0, 0, 1.0, 0.1)] {
            let picker = prepared(&logits, &rule);
            let picks = [0.0, 0.3, 0.7, 1.0 - 1e-16].map(|u| picker.draw(&logits, u).id);
            assert_eq!(picks, [1, 1, 3, 3], "{rule:?}");
        }
    }

    #[test]
    fn rows_that_are_not_finite_are_refused() {
        let mut picker = Picker::default();
        for row in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3], &[]] {
            for rule in [rule(0.0, 0, 1.0, 0.0), rule(1.0, 0, 0.9, 0.0)] {
                assert_eq!(picker.prepare(row, &rule), Err(NotFinite), "{row:?}");
            }
        }
    }

    #[test]
    fn extreme_temperatures_do_not_break() {
        let logits = [1.0f32, 3.0, 2.0];
        assert_eq!(prepared(&logits, &rule(1e-300, 0, 0.9, 0.0)).draw(&logits, 0.9).id, 1);
        assert_eq!(prepared(&logits, &rule(1e-30, 0, 0.9, 0.0)).draw(&logits, 0.9).id, 1);
        assert_eq!(kept(&logits, &rule(1e30, 0, 0.99, 0.0)), [0, 1, 2]);
    }

    #[test]
    fn frequencies_are_the_softmax_in_f64() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 37) % 101) as f32 * 0.05).collect();
        let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        let picker = prepared(&logits, &rule(0.7, 0, 1.0, 0.0));
        let n = 100_000;
        let mut counts = vec![0u32; 300];
        for i in 0..n {
            counts[picker.draw(&logits, (f64::from(i) + 0.5) / f64::from(n)).id as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            // Equal steps through [0, 1) miss each share by two steps at most.
            assert!((f64::from(*count) / f64::from(n) - weight / total).abs() <= 2.1e-5);
        }
    }

    fn any_logits() -> impl Strategy<Value = Vec<f32>> {
        // Coarse values make ties; the scales go from nearly flat to one token only.
        (1usize..700, 0.01f32..8.0, any::<bool>()).prop_flat_map(|(n, scale, coarse)| {
            prop::collection::vec(-4.0f32..4.0, n).prop_map(move |row| {
                row.into_iter().map(|x| if coarse { (x * 3.0).round() } else { x } * scale).collect()
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_kept_set_is_the_sorted_definitions(
            logits in any_logits(),
            temperature in prop_oneof![Just(1.0), 0.05f64..3.0],
            top_k in prop_oneof![Just(0usize), 1usize..800],
            top_p in prop_oneof![Just(1.0), 0.001f64..1.0],
            min_p in prop_oneof![Just(0.0), 0.0001f64..1.0],
            uniform in 0.0f64..1.0,
        ) {
            let rule = rule(temperature, top_k, top_p, min_p);
            let want = kept_by_sorting(&logits, &rule);
            prop_assert_eq!(&kept(&logits, &rule), &want);
            let pick = prepared(&logits, &rule).draw(&logits, uniform);
            prop_assert!(want.contains(&pick.id));
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let want = f64::from(logits[pick.id as usize]) - sum.ln();
            prop_assert!((f64::from(pick.logprob) - want).abs() < 1e-5);
        }
    }
}
