//! Supervised fine-tuning on each prompt's best candidate: the mean NLL of its tokens over the batch.
//!
//! Source: best-of-N distillation, as in RAFT (Dong et al., arXiv 2304.06767): sample K, keep the best, imitate it, again. Its objective is that
//! of `objectives/sft/`.

use selfplay_records::ExampleKind;

use super::LossForm;

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_objective("best-of-k", ExampleKind::Best);
