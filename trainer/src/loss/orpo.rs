//! ORPO: mean NLL over the batch's chosen response tokens − β · mean log σ(log odds_w − log odds_l), with
//! log odds = m − log(1 − e^m), m the mean log-prob per response token; no reference.
//!
//! Source: Hong et al., "ORPO" (arXiv 2403.07691), eqs. 4 to 7, β their λ. This file has the odds-ratio term; the NLL is
//! the batch's and is added by `evaluate_part` with weight 1.
//! Departures: the NLL runs over response tokens, TRL's over the prompt's as well. m is kept below −1e−9: a response
//! that the policy is certain of has infinite odds, and f32 log-probs do reach 0.

use super::{Against, LossForm, LossPair, LossSettings, TermsLoss, log_sigmoid, sigmoid};

/// The loss.
pub(super) const FORM: LossForm =
    LossForm { against: Against::Nothing, has_nll: true, ..LossForm::of_pair("orpo", pair) };

/// Largest mean log-prob that is distinguished from certainty.
const NEARLY_CERTAIN: f64 = -1e-9;

struct LogOdds {
    value: f64,
    /// d value / d m = 1 / (1 − e^m).
    slope: f64,
}

fn log_odds(mean: f64) -> LogOdds {
    let mean = mean.min(NEARLY_CERTAIN);
    // 1 − e^m without cancellation
    let rest = -mean.exp_m1();
    LogOdds { value: mean - rest.ln(), slope: 1.0 / rest }
}

/// The odds-ratio term of one pair, on mean log-probs.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let (chosen, rejected) = (log_odds(pair.terms.chosen), log_odds(pair.terms.rejected));
    let logit = chosen.value - rejected.value;
    let slope = -settings.beta * sigmoid(-logit);
    TermsLoss {
        value: -settings.beta * log_sigmoid(logit),
        d_chosen: slope * chosen.slope,
        d_rejected: -slope * rejected.slope,
    }
}
