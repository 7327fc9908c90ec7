//! A question's texts, the examples before it, and what its choices' log-likelihoods say.

/// Which choices are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Correct {
    /// One.
    One(usize),
    /// TruthfulQA's mc2: each choice is true or not.
    Each(Vec<bool>),
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceQuestion {
    /// Its own id, else its row.
    pub id: String,
    /// MMLU's subject.
    pub category: Option<String>,
    /// What goes before all examples.
    pub description: String,
    /// Where the choices follow the text: the text, once. Where they are in it (WinoGrande): a text for each choice.
    pub texts: Vec<String>,
    /// What follows: each choice; or, where the choices are in the texts, one ending.
    pub endings: Vec<String>,
    /// The choices, for their lengths.
    pub choices: Vec<String>,
    /// Which are right.
    pub correct: Correct,
}

/// A continuation whose log-likelihood is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChoiceRequest {
    /// What it goes on from.
    pub context: String,
    /// A space, and the choice or the ending.
    pub continuation: String,
}

impl ChoiceQuestion {
    /// The right text and ending, as an example for other questions.
    fn solved(&self) -> String {
        let right = match &self.correct {
            Correct::One(right) => *right,
            Correct::Each(_) => 0,
        };
        let of = |texts: &[String]| texts.get(right).or(texts.first()).cloned().unwrap_or_default();
        format!("{} {}\n\n", of(&self.texts), of(&self.endings))
    }
}

/// The continuations of a question, one for each choice.
pub fn requests(question: &ChoiceQuestion, examples: &[&ChoiceQuestion]) -> Vec<ChoiceRequest> {
    let solved: String = examples.iter().map(|one| one.solved()).collect();
    (0..question.choices.len())
        .map(|choice| {
            let of = |texts: &[String]| texts.get(choice).or(texts.first()).cloned().unwrap_or_default();
            ChoiceRequest {
                context: format!("{}{solved}{}", question.description, of(&question.texts)),
                continuation: format!(" {}", of(&question.endings)),
            }
        })
        .collect()
}

/// The figures of a question from its choices' log-likelihoods, by name: `acc` and `acc_norm`, or mc2's `acc`.
pub fn figures(question: &ChoiceQuestion, log_likelihoods: &[f64]) -> Vec<(&'static str, f64)> {
    match &question.correct {
        Correct::One(right) => {
            let length = |place: usize| question.choices[place].chars().count() as f64;
            let by_length: Vec<f64> =
                log_likelihoods.iter().enumerate().map(|(place, score)| score / length(place)).collect();
            let is_right = |scores: &[f64]| f64::from(u8::from(best(scores) == Some(*right)));
            vec![("acc", is_right(log_likelihoods)), ("acc_norm", is_right(&by_length))]
        }
        Correct::Each(truths) => {
            // The largest is taken out first: its probability alone would be 0 in a long answer.
            let largest = log_likelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shares: Vec<f64> = log_likelihoods.iter().map(|score| (score - largest).exp()).collect();
            let of_true = shares.iter().zip(truths).filter(|(_, truth)| **truth).map(|(share, _)| share);
            vec![("acc", of_true.sum::<f64>() / shares.iter().sum::<f64>())]
        }
    }
}

/// The first of the largest.
fn best(scores: &[f64]) -> Option<usize> {
    (0..scores.len()).reduce(|best, place| if scores[place] > scores[best] { place } else { best })
}
