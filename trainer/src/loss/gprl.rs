//! GPRL: GRPO's surrogate with advantages that are normalised axis by axis of a general preference model, and a monitor of their
//! drift.
//!
//! Source: arXiv 2605.18721, of which digests were at hand alone. Its equation stands in `objectives/groups/surrogate.rs`, the monitor in
//! `objectives/groups/drift.rs`, and what is ours of it in docs/algorithms.md.

use selfplay_records::ExampleKind;

use super::{Against, LossForm, LossKey};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    against: Against::Reference,
    keys: &[LossKey::Groups, LossKey::Drift],
    ..LossForm::of_objective("gprl", ExampleKind::Groups)
};
