//! Tokens out of rows of logits. mistral.rs draws without a seed, tells no ids, and its log-probs are of what is left after the temperature; here
//! tokens are drawn before it looks, by a seed, with the log-probs of the model's own distribution.

use std::cmp::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Error, Result, Tensor};
use mistralrs_core::CustomLogitsProcessor;

use crate::request::Rules;

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnToken {
    /// Its id.
    pub id: u32,
    /// Its log-prob under the model's own distribution, in nats.
    pub logprob: f32,
    /// The likeliest ids with theirs, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// Draws the tokens of one request; mistral.rs then finds one possible token in each row.
pub struct Drawer {
    rules: Rules,
    seed: u64,
    drawn: Mutex<Drawn>,
}

/// What was drawn so far.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<usize>,
    /// Tokens of the answer.
    pub tokens: Vec<DrawnToken>,
    /// Whether the last of them is one of the request's stop ids.
    pub is_stopped: bool,
}

impl Drawer {
    /// For one request.
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self { rules, seed, drawn: Mutex::default() }
    }

    /// What was drawn so far.
    pub fn drawn(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CustomLogitsProcessor for Drawer {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> Result<Tensor> {
        let row: Vec<f32> = logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        let mut drawn = self.drawn();
        let prompt_tokens = *drawn.prompt_tokens.get_or_insert(context.len());
        let step = context.len().saturating_sub(prompt_tokens);
        if !drawn.is_stopped {
            // A row that is computed once more takes the place of the first.
            drawn.tokens.truncate(step);
            let token = draw(&row, &self.rules, uniform(self.seed, step as u64))
                .ok_or_else(|| Error::Msg("logits that are not finite".to_owned()))?;
            drawn.is_stopped = self.rules.stop_token_ids.contains(&token.id);
            drawn.tokens.push(token);
        }
        let id = drawn.tokens.last().map_or(0, |token| token.id as usize);
        let mut only = vec![f32::NEG_INFINITY; row.len()];
        if let Some(place) = only.get_mut(id) {
            *place = 0.0;
        }
        Tensor::from_vec(only, row.len(), &Device::Cpu)
    }
}

/// One token of a row of logits; `None` where they are not finite. `uniform` is from 0 to 1.
fn draw(logits: &[f32], rules: &Rules, uniform: f64) -> Option<DrawnToken> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() || logits.iter().any(|value| value.is_nan()) {
        return None;
    }
    let sum: f64 = logits.iter().map(|&value| f64::from(value - most).exp()).sum();
    let log_prob = |id: usize| (f64::from(logits[id] - most) - sum.ln()) as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let descending = |a: &u32, b: &u32| {
        let (of_a, of_b) = (logits[*a as usize], logits[*b as usize]);
        of_b.partial_cmp(&of_a).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let needs_order = rules.temperature > 0.0 || rules.top_logprobs > 0;
    if needs_order {
        order.sort_unstable_by(descending);
    }
    let best = if needs_order { order[0] } else { *order.iter().min_by(|a, b| descending(a, b))? };
    let id = if rules.temperature > 0.0 { by_chance(logits, &order, rules, uniform) } else { best };
    let top = order.iter().take(rules.top_logprobs).map(|&id| (id, log_prob(id as usize))).collect();
    Some(DrawnToken { id, logprob: log_prob(id as usize), top })
}

/// A token of those that the rules keep. `order`: ids from the likeliest on.
fn by_chance(logits: &[f32], order: &[u32], rules: &Rules, uniform: f64) -> u32 {
    let most = f64::from(logits[order[0] as usize]);
    let weight = |id: &u32| ((f64::from(logits[*id as usize]) - most) / rules.temperature).exp();
    let kept = if rules.top_k > 0 { rules.top_k.min(order.len()) } else { order.len() };
    let mut weights: Vec<f64> = order[..kept].iter().map(weight).collect();
    if rules.top_p < 1.0 {
        let share = rules.top_p * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let inside = weights.iter().take_while(|&&weight| {
            let is_inside = sum < share;
            sum += weight;
            is_inside
        });
        let count = inside.count().max(1);
        weights.truncate(count);
    }
    if rules.min_p > 0.0 {
        let count = weights.iter().take_while(|&&weight| weight >= rules.min_p).count().max(1);
        weights.truncate(count);
    }
    let mut left = uniform * weights.iter().sum::<f64>();
    for (place, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return order[place];
        }
    }
    order[weights.len() - 1]
}

/// A number in [0, 1) that follows from a seed and a step alone (splitmix64).
fn uniform(seed: u64, step: u64) -> f64 {
    let mut value = seed ^ step.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^= value >> 31;
    (value >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_tokens: 4,
            stop: Vec::new(),
            stop_token_ids: vec![2],
            seed: None,
            logprobs: true,
            top_logprobs: 2,
        }
    }

    #[test]
    fn log_probs_are_of_the_model_s_own_distribution() {
        // e^0 : e^ln3 = 1 : 3
        let logits = [0.0, 3.0_f32.ln()];
        for temperature in [0.0, 0.1, 5.0] {
            let token = draw(&logits, &Rules { temperature, ..rules() }, 0.0).unwrap();
            assert_eq!(token.id, 1);
            assert!((token.logprob - 0.75_f32.ln()).abs() < 1e-6);
            assert!((token.top[1].1 - 0.25_f32.ln()).abs() < 1e-6 && token.top[1].0 == 0);
        }
        assert_eq!(draw(&[f32::NAN, 0.0], &rules(), 0.0), None);
    }

    #[test]
    fn shares_are_those_of_the_rules() {
        // 1 : 2 : 4 : 1
        let logits: Vec<f32> = [1.0_f32, 2.0, 4.0, 1.0].iter().map(|value| value.ln()).collect();
        let share = |rules: &Rules, wanted: u32| {
            let hits = (0..8000).filter(|&step| draw(&logits, rules, uniform(7, step)).unwrap().id == wanted);
            hits.count() as f64 / 8000.0
        };
        assert!((share(&rules(), 2) - 0.5).abs() < 0.02);
        assert!((share(&Rules { temperature: 0.5, ..rules() }, 2) - 16.0 / 22.0).abs() < 0.02);
        let top_k = Rules { top_k: 2, ..rules() };
        assert!((share(&top_k, 2) - 2.0 / 3.0).abs() < 0.02 && share(&top_k, 0) == 0.0);
        // The likeliest alone holds 0.5; 0.6 needs the second.
        assert_eq!(share(&Rules { top_p: 0.5, ..rules() }, 2), 1.0);
        assert!((share(&Rules { top_p: 0.6, ..rules() }, 1) - 1.0 / 3.0).abs() < 0.02);
        assert_eq!(share(&Rules { min_p: 0.5, ..rules() }, 0), 0.0);
    }

    #[test]
    fn a_row_leaves_one_token_and_a_stop_id_ends() {
        let drawer = Drawer::new(Rules { temperature: 0.0, ..rules() }, 1);
        let row = |best: usize| {
            let mut logits = vec![0.0_f32; 4];
            logits[best] = 5.0;
            Tensor::from_vec(logits, 4, &Device::Cpu).unwrap()
        };
        let one = drawer.apply(&row(3), &[9, 9]).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(one.iter().filter(|value| value.is_finite()).count(), 1);
        assert_eq!(one[3], 0.0);
        drawer.apply(&row(1), &[9, 9]).unwrap();
        drawer.apply(&row(2), &[9, 9, 1]).unwrap();
        drawer.apply(&row(3), &[9, 9, 1, 2]).unwrap();
        let drawn = drawer.drawn().clone();
        let ids: Vec<u32> = drawn.tokens.iter().map(|token| token.id).collect();
        assert_eq!((ids, drawn.is_stopped, drawn.prompt_tokens), (vec![1, 2], true, Some(2)));
    }
}
