//! MT-bench (arXiv 2306.05685) by FastChat's rules: questions of two turns, a judge's rating of each turn or its choice between two models.
//!
//! ```text
//! question    mt_bench_question.jsonl, reference answers, answers     judge      judge_prompts.jsonl → a question to the judge
//! verdict     what a judgement says                                   table      figures, by category and turn
//! ```

mod judge;
mod question;
mod table;
mod verdict;

pub use self::judge::{JudgePrompt, JudgePrompts, JudgedTurn, OWN_WORDING};
pub use self::question::{
    ModelAnswer, MtBenchQuestion, needs_reference, read_answers, read_questions, temperature,
};
pub use self::table::{PairJudgment, SingleJudgment, pair_figures, single_figures};
pub use self::verdict::{PairWinner, pair_winner, rating};

#[cfg(test)]
mod tests;
