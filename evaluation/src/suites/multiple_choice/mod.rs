//! Questions with choices, answered by log-likelihood: prompts, choices and figures as lm-eval's tasks have them.
//!
//! A choice's score is the log-likelihood of its continuation given the context. **acc**: the share of questions whose best choice is the right
//! one; **acc_norm**: the same by the score over the choice's characters; TruthfulQA's mc2: the probability of the true choices, of all.
//! Of equal choices the first is taken.
//!
//! ```text
//! layout      which suites there are, and their files' rows → questions
//! question    a question's texts, examples before it, its figures
//! ```

mod layout;
mod question;

pub use self::layout::{ChoiceLayout, read};
pub use self::question::{ChoiceQuestion, ChoiceRequest, Correct, figures, requests};

#[cfg(test)]
mod tests;
