//! A token that may be drawn, with its mass.

use std::cmp::Ordering;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TokenChoice {
    pub logit: f32,
    pub id: u32,
    pub mass: f64,
}

impl TokenChoice {
    /// Falling logit, then rising id.
    #[inline(always)]
    pub(crate) fn rank(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }

    /// A number that rises with the rank: one comparison instead of two that the processor cannot foresee.
    #[inline(always)]
    fn key(&self) -> u64 {
        // Adding zero makes the two zeros one. The bits of a negative number rise while it falls.
        let bits = (self.logit + 0.0).to_bits();
        let falling = if bits >> 31 == 1 { bits } else { !bits & 0x7FFF_FFFF };
        u64::from(falling) << 32 | u64::from(self.id)
    }
}

/// The choices' mass.
pub(crate) fn mass_of(choices: &[TokenChoice]) -> f64 {
    choices.iter().map(|choice| choice.mass).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_is_by_falling_logit_then_rising_id() {
        let logits = [f32::MAX, 2.5, 1e-40, 0.0, -0.0, -1e-40, -3.0, f32::MIN, f32::NEG_INFINITY];
        for (i, &a) in logits.iter().enumerate() {
            for (j, &b) in logits.iter().enumerate() {
                let first = TokenChoice { logit: a, id: i as u32, mass: 0.0 };
                let second = TokenChoice { logit: b, id: j as u32, mass: 1.0 };
                let want = b.partial_cmp(&a).unwrap().then(i.cmp(&j));
                assert_eq!(first.rank(&second), want, "{a} and {b}");
            }
        }
    }
}
