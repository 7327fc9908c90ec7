//! Comparisons whose labels go in a circle, or in a line: what a ranking can learn, and what it cannot.
//!
//! A response is four words, one of which is its criterion: one of five. In a circle each criterion beats the next two, so that no
//! ranking orders more than seven of a prompt's ten comparisons; in a line a lower criterion beats a higher one. Which criterion
//! a response shows is all that labels depend on.

use serde_json::{Value, json};

use crate::random::Random;
use crate::tiny_model::word;

/// Criteria in a circle or a line.
pub const CRITERIA: usize = 5;

/// How the criteria are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOrder {
    /// Each beats the next two.
    Circle,
    /// Lower beats higher.
    Line,
}

impl LabelOrder {
    /// Whether criterion `a` beats criterion `b`.
    fn beats(self, a: usize, b: usize) -> bool {
        match self {
            Self::Circle => [1, 2].contains(&((b + CRITERIA - a) % CRITERIA)),
            Self::Line => a < b,
        }
    }

    /// The share of comparisons that the best ranking orders rightly.
    pub fn best_ranking(self) -> f64 {
        match self {
            Self::Circle => 0.7,
            Self::Line => 1.0,
        }
    }

    /// Pairs as rows of JSON: all ten comparisons of each of `prompts` prompts. Prompts of different seeds differ.
    pub fn pairs(self, prompts: usize, seed: u64) -> Vec<Value> {
        let mut random = Random::new(seed);
        let mut pairs = Vec::with_capacity(10 * prompts);
        for number in 0..prompts {
            let words = (0..4).map(|_| filler(&mut random)).collect::<Vec<_>>().join(" ");
            // The number in words keeps prompts apart.
            let prompt = format!("{words} {} {}", word(5 + number % 14), word(5 + number / 14 % 14));
            let responses: Vec<String> =
                (0..CRITERIA).map(|criterion| response(criterion, &mut random)).collect();
            for (a, b) in (0..CRITERIA).flat_map(|a| (0..CRITERIA).map(move |b| (a, b))) {
                if self.beats(a, b) {
                    pairs.push(json!({"prompt": prompt, "chosen": responses[a], "rejected": responses[b]}));
                }
            }
        }
        pairs
    }
}

/// A word that is no criterion.
fn filler(random: &mut Random) -> &'static str {
    word(CRITERIA + random.below(14))
}

fn response(criterion: usize, random: &mut Random) -> String {
    let place = random.below(4);
    let words = (0..4).map(|at| if at == place { word(criterion) } else { filler(random) });
    words.collect::<Vec<_>>().join(" ")
}
