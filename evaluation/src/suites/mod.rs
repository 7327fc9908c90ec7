//! What published evaluation suites compute from a model's answers: their files in, their figures out. No model is run here.
//!
//! | module | suite |
//! |---|---|
//! | [`ifeval`] | IFEval's 25 kinds of instructions, strict and loose |
//! | [`gsm8k`] | GSM8K's two ways to read an answer out of a text |
//! | [`multiple_choice`] | questions with choices, by log-likelihood: ARC, HellaSwag, WinoGrande, MMLU, TruthfulQA |
//! | [`mt_bench`] | MT-bench's questions, answers and judgements |
//! | [`alpaca_eval`] | AlpacaEval's files |
//! | [`cvalues`] | a choice between a responsible answer and another one |
//!
//! [`fewshot`] draws examples as lm-eval does, [`average`] has means with standard errors, [`bootstrap`] compares two models on the same rows.

pub mod alpaca_eval;
pub mod average;
pub mod bootstrap;
pub mod cvalues;
mod data_row;
pub mod fewshot;
mod fields;
pub mod gsm8k;
pub mod ifeval;
pub mod mt_bench;
pub mod multiple_choice;
mod pattern;
mod python_random;
mod table_file;

pub use data_row::DataRow;
pub use table_file::read_table;

#[cfg(test)]
mod tests;
