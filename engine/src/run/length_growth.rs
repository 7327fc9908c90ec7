//! Whether a policy's answers grew longer without growing better.
//!
//! Preference models like length; published runs gain raw win rate in nearly every case and lose the length-controlled one in most. So a
//! rise of length is held against the win rate that the answers would have if they were as long as before.

use super::summary::Evaluation;

/// A rise of the mean length below this share is none.
const LEAST_GROWTH: f64 = 0.1;

/// One-sided 95 % quantile of the normal distribution.
const ONE_SIDED: f64 = 1.645;

/// A warning where the mean length rose by a tenth or more from `before` to `after`, and at equal length less than half of the gain over
/// the policy before is left (win rate less ½), or nothing that is more than noise (1.645 standard errors of the win rate). Few
/// held-out answers, by which neither win rate differs from ½, give no warning.
pub(crate) fn warning(before: &Evaluation, after: &Evaluation) -> Option<String> {
    let controlled = after.lc_win_rate_start?;
    let (raw, error) = (after.win_rate_start?, after.win_rate_error?);
    let growth = after.characters / before.characters - 1.0;
    let has_grown = growth >= LEAST_GROWTH && before.characters > 0.0;
    let noise = ONE_SIDED * error;
    let is_better = controlled - 0.5 > noise.max((raw - 0.5) / 2.0);
    let is_telling = raw - 0.5 > noise || 0.5 - controlled > noise;
    (has_grown && !is_better && is_telling).then(|| {
        format!(
            "answers grew from {:.1} to {:.1} characters (+{:.0} %), and at equal length they win {:.1} % against the policy before \
             ({:.1} % ± {:.1} as they are): the preference model may be paying for length; score.length_penalty and \
             train.loss = \"ln-gpo\" counter that",
            before.characters,
            after.characters,
            100.0 * growth,
            100.0 * controlled,
            100.0 * raw,
            100.0 * error,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(characters: f64, raw: f64, controlled: f64) -> Evaluation {
        Evaluation {
            characters,
            win_rate_start: Some(raw),
            win_rate_error: Some(0.01),
            lc_win_rate_start: Some(controlled),
            ..Evaluation::default()
        }
    }

    #[test]
    fn growth_without_gain_is_told() {
        let before = Evaluation { characters: 100.0, ..Evaluation::default() };
        let told = warning(&before, &after(140.0, 0.8, 0.51)).unwrap();
        assert!(
            told.contains("100.0 to 140.0") && told.contains("+40 %") && told.contains("51.0 %"),
            "{told}"
        );
        assert!(warning(&before, &after(140.0, 0.7, 0.62)).is_none(), "better at equal length");
        assert!(warning(&before, &after(140.0, 0.7, 0.58)).is_some(), "most of the gain is length");
        assert!(warning(&before, &after(140.0, 0.5, 0.4)).is_some(), "worse at equal length");
        let few = Evaluation { win_rate_error: Some(0.2), ..after(140.0, 0.6, 0.5) };
        assert!(warning(&before, &few).is_none(), "six answers say nothing");
        assert!(warning(&before, &after(109.0, 0.5, 0.4)).is_none(), "hardly longer");
        assert!(warning(&before, &after(80.0, 0.5, 0.4)).is_none(), "shorter");
        let unknown = Evaluation { lc_win_rate_start: None, ..after(140.0, 0.8, 0.5) };
        assert!(warning(&before, &unknown).is_none());
        let empty = Evaluation::default();
        assert!(warning(&empty, &after(0.0, 0.5, 0.5)).is_none(), "nothing grew from nothing");
    }
}
