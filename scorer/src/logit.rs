//! From probabilities to scores.

/// How near to 0 and 1 a probability may come before its logit is taken.
const CLOSEST: f64 = 1e-6;

/// log(p / (1 − p)), with p kept 1e-6 away from 0 and 1.
pub(crate) fn logit(p: f64) -> f64 {
    let p = p.clamp(CLOSEST, 1.0 - CLOSEST);
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logit_is_bounded_and_antisymmetric() {
        assert_eq!(logit(0.5), 0.0);
        assert!((logit(0.75) - 3.0_f64.ln()).abs() < 1e-15);
        assert_eq!(logit(1.0), logit(1.0 - 1e-6));
        assert!((logit(0.0) + 13.815_509_557_963_774).abs() < 1e-9 && logit(1.0).is_finite());
    }
}
