//! Which examples go before a question: lm-eval's samplers.

use super::python_random::PythonRandom;

/// The seed that lm-eval draws with.
pub const SEED: u32 = 1234;

/// How examples are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FewshotRule {
    /// At random, anew for each question: lm-eval's `default`.
    Drawn,
    /// The first ones: lm-eval's `first_n`.
    First,
}

/// Chooses examples for one question after the other.
#[derive(Clone, Debug)]
pub struct FewshotSampler {
    rule: FewshotRule,
    random: PythonRandom,
}

impl FewshotSampler {
    /// A sampler before its first question.
    pub fn new(rule: FewshotRule) -> Self {
        Self { rule, random: PythonRandom::new(SEED) }
    }

    /// Places of `wanted` examples among `pool`; fewer where there are fewer. `own` is the question's own place, where the examples come
    /// from the questions themselves: it is left out.
    pub fn next(&mut self, pool: usize, wanted: usize, own: Option<usize>) -> Vec<usize> {
        if wanted == 0 {
            return Vec::new();
        }
        let mut chosen: Vec<usize> = match (self.rule, own) {
            (FewshotRule::First, _) => (0..pool).collect(),
            (FewshotRule::Drawn, None) => self.random.sample(pool, wanted),
            (FewshotRule::Drawn, Some(_)) => self.random.sample(pool, wanted + 1),
        };
        chosen.retain(|place| Some(*place) != own);
        chosen.truncate(wanted);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_pythons() {
        // random.Random(1234): sample(range(7473), 5), sample(range(20), 5), sample(range(100), 9), sample(range(30), 8).
        let mut sampler = FewshotSampler::new(FewshotRule::Drawn);
        assert_eq!(sampler.next(7473, 5, None), PYTHON[0]);
        assert_eq!(sampler.next(20, 5, None), PYTHON[1]);
        assert_eq!(sampler.next(100, 9, None), PYTHON[2]);
        assert_eq!(sampler.next(30, 8, None), PYTHON[3]);
    }

    const PYTHON: [&[usize]; 4] = [
        &[6374, 3610, 957, 61, 742],
        &[18, 1, 2, 3, 11],
        &[30, 2, 3, 44, 82, 79, 61, 78, 59],
        &[4, 2, 5, 22, 3, 0, 16, 15],
    ];

    #[test]
    fn a_question_is_no_example_of_its_own() {
        let mut sampler = FewshotSampler::new(FewshotRule::Drawn);
        for own in 0..6 {
            let chosen = sampler.next(6, 3, Some(own));
            assert!(chosen.len() == 3 && !chosen.contains(&own), "{chosen:?}");
        }
        assert_eq!(FewshotSampler::new(FewshotRule::First).next(5, 2, None), [0, 1]);
        assert_eq!(FewshotSampler::new(FewshotRule::First).next(5, 2, Some(0)), [1, 2]);
        assert!(sampler.next(5, 0, None).is_empty());
    }
}
