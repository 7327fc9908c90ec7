//! What published evaluations compute from answers and judgements: plain arithmetic over rows, no model.
//!
//! [`winrate`]: AlpacaEval 2's win rates, raw and length-controlled, from files of annotations. [`preference`]: how well a
//! preference model agrees with labelled comparisons. [`suites`]: IFEval, GSM8K, multiple choice, MT-bench, AlpacaEval, CValues.

pub mod preference;
pub mod suites;
pub mod winrate;
