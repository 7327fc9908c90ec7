//! What published evaluations compute from answers and judgements: plain arithmetic over rows, no model.
//!
//! [`winrate`]: AlpacaEval 2's win rates, raw and length-controlled, from files of annotations. [`preference`]: how well a
//! preference model agrees with labelled comparisons.

pub mod preference;
pub mod winrate;
