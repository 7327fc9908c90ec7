//! The most likely tokens of a row, and the log-prob of any one of them: read from a prepared row, drawing nothing.

use super::row_pass::BLOCK;
use super::{Picker, SampledToken};

impl Picker {
    /// A token of the row last prepared, which `logits` must be.
    pub fn token(&self, logits: &[f32], id: u32) -> SampledToken {
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        SampledToken { id, logprob: self.logprob(logit) }
    }

    /// The `count` most likely tokens of the row last prepared, which `logits` must be: by falling logit, then rising id.
    pub fn top(&self, logits: &[f32], count: usize) -> Vec<SampledToken> {
        let count = count.min(logits.len());
        let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
        if count == 0 {
            return Vec::new();
        }
        for (block, (values, &greatest)) in logits.chunks(BLOCK).zip(self.block_maxima()).enumerate() {
            let enters = |best: &[(f32, u32)], logit: f32| {
                best.len() < count || best.last().is_some_and(|&(least, _)| logit > least)
            };
            if !enters(&best, greatest) {
                continue;
            }
            for (place, &logit) in values.iter().enumerate() {
                if enters(&best, logit) {
                    // Ids rise, so that among equals the earlier one stands first.
                    let at = best.partition_point(|&(other, _)| other >= logit);
                    best.insert(at, (logit, (block * BLOCK + place) as u32));
                    best.truncate(count);
                }
            }
        }
        best.into_iter().map(|(logit, id)| SampledToken { id, logprob: self.logprob(logit) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use selfplay_testing::Random;

    use super::super::PickRule;
    use super::*;
    use crate::Sampling;

    #[test]
    fn the_most_likely_tokens_are_those_of_a_sort_and_sum_to_the_softmax() {
        let mut random = Random::new(5);
        for case in 0..300 {
            let vocab = 1 + random.below(400);
            // Few distinct values, so that many are equal; some tokens cannot be drawn at all.
            let value = |random: &mut Random| match random.below(9) {
                0 => f32::NEG_INFINITY,
                n => n as f32 * 0.75 - 3.0,
            };
            let mut logits: Vec<f32> = (0..vocab).map(|_| value(&mut random)).collect();
            logits[random.below(vocab)] = 1.0;
            let temperature = [0.0, 1.0, 0.6][case % 3];
            let rule = PickRule::new(&Sampling { temperature, top_p: 0.8, ..Sampling::default() });
            let mut picker = Picker::default();
            picker.prepare(&logits, &rule).unwrap();
            let mut ids: Vec<u32> = (0..vocab as u32).collect();
            ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            let count = random.below(vocab + 2);
            let top = picker.top(&logits, count);
            assert_eq!(
                top.iter().map(|token| token.id).collect::<Vec<_>>(),
                ids[..count.min(vocab)],
                "case {case}"
            );
            for token in top {
                let want = (f64::from(logits[token.id as usize]).exp() / sum).ln();
                assert!(
                    want == f64::from(token.logprob) || (want - f64::from(token.logprob)).abs() < 1e-5,
                    "{want} and {token:?}"
                );
                assert_eq!(picker.token(&logits, token.id), token);
            }
        }
    }
}
