//! Held-out comparisons: P(a ≻ b) for any two responses to one prompt, and preference cycles among candidates.
//!
//! A win rate is of the preference model itself, σ(s), also where `score_difference = "reference"` stores 2s.

use selfplay_records::{Candidates, Prompt, Response};

/// Two responses to one prompt, such as a new policy's and the old one's.
#[derive(Clone, Debug, PartialEq)]
pub struct Contest {
    /// What both answer; its text is needed.
    pub prompt: Prompt,
    /// The response whose probability of winning is computed.
    pub first: String,
    /// The response that it is compared with.
    pub second: String,
}

impl Contest {
    /// The two responses as candidates, the first one first.
    pub(crate) fn candidates(&self) -> Candidates {
        let response = |text: &str| Response { text: text.to_owned(), ..Response::default() };
        Candidates {
            prompt: self.prompt.clone(),
            responses: vec![response(&self.first), response(&self.second)],
        }
    }
}

/// What a model says of a [`Contest`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContestOutcome {
    /// The model's own s(first ≻ second), whatever `score_difference` stores.
    pub score: f64,
    /// P(first ≻ second) with the first response shown first, and with it shown second; `None` of a kind that knows no order.
    pub shown: Option<[f64; 2]>,
}

/// Mean of the win probabilities; `None` without contests.
pub fn mean_win_rate(probabilities: &[f64]) -> Option<f64> {
    (!probabilities.is_empty()).then(|| probabilities.iter().sum::<f64>() / probabilities.len() as f64)
}

/// Whether three candidates form a preference cycle (an intransitive triple): each beats one of the others and loses to
/// the other. i beats j where s(i ≻ j) > s(j ≻ i); a tie breaks the cycle.
fn is_cyclic(scores: &[Vec<f64>], triple: [usize; 3]) -> bool {
    let beats = |i: usize, j: usize| scores[i][j] > scores[j][i];
    let [a, b, c] = triple;
    let around = |i, j, k| beats(i, j) && beats(j, k) && beats(k, i);
    around(a, b, c) || around(a, c, b)
}

/// Whether any three of K candidates form a preference cycle; `scores` is \[K]\[K]. False for K < 3 and for ragged tables.
pub fn has_cycle(scores: &[Vec<f64>]) -> bool {
    let k = scores.len();
    if scores.iter().any(|row| row.len() != k) {
        return false;
    }
    (0..k).any(|a| (a + 1..k).any(|b| (b + 1..k).any(|c| is_cyclic(scores, [a, b, c]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cyclic(scores: [[f64; 3]; 3]) -> bool {
        is_cyclic(&scores.map(|row| row.to_vec()), [0, 1, 2])
    }

    #[test]
    fn the_mean_of_no_contest_is_none() {
        assert_eq!(mean_win_rate(&[0.25, 0.75, 0.5]), Some(0.5));
        assert_eq!(mean_win_rate(&[]), None);
    }

    #[test]
    fn cycles_of_three() {
        let cycle = [[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]];
        assert!(cyclic(cycle));
        let transposed = [0, 1, 2].map(|i| [0, 1, 2].map(|j| cycle[j][i]));
        assert!(cyclic(transposed));
        assert!(!cyclic([[0.0, 1.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, -1.0, 0.0]]));
        assert!(!cyclic([[0.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, -1.0, 0.0]]), "a tie breaks it");
        // A table that prefers whatever stands first says nothing about who beats whom.
        assert!(!cyclic([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]));
    }

    #[test]
    fn a_cycle_among_five_is_found_anywhere() {
        // 0 beats all; 1 > 3 > 4 > 1 is the cycle; 2 loses to all.
        let mut s = vec![vec![0.0; 5]; 5];
        let mut beats = |i: usize, j: usize| {
            s[i][j] = 1.0;
            s[j][i] = -1.0;
        };
        (1..5).for_each(|j| beats(0, j));
        [1, 3, 4].into_iter().for_each(|i| beats(i, 2));
        [(1, 3), (3, 4), (4, 1)].into_iter().for_each(|(i, j)| beats(i, j));
        assert!(has_cycle(&s));
        s[4][1] = -1.0;
        s[1][4] = 1.0;
        assert!(!has_cycle(&s));
        assert!(!has_cycle(&[]));
        assert!(!has_cycle(&[vec![0.0], vec![0.0, 1.0]]));
    }
}
