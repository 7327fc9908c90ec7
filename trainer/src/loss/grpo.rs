//! GRPO: a clipped surrogate over the tokens of a group, advantages from the mean scores.
//!
//! Source: Shao et al., "DeepSeekMath" (arXiv 2402.03300), equation 3. Its equation stands in `objectives/groups/surrogate.rs`.

use selfplay_records::ExampleKind;

use super::{Against, LossForm, LossKey};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    against: Against::Reference,
    keys: &[LossKey::Groups],
    ..LossForm::of_objective("grpo", ExampleKind::Groups)
};
