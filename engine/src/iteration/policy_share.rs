//! What of a policy a rank loads to train it, or to take log-probs of the training's rows under it.
//!
//! With `train.zero = 3` a rank holds its ranges of the weights while it trains, and needs no more of them before: where no rank has the
//! policy in memory, each loads its own. A rank that has sampled with the policy has it whole, and so do all others then: log-probs
//! with whole weights need no exchanges.

use selfplay_model::ModelShare;
use selfplay_trainer::ZeroStage;

use super::session::Session;
use crate::error::EngineError;
use crate::inputs::Inputs;
use crate::ranks::group::Ranks;
use crate::recipe::Recipe;

/// Whether the ranks of a run train all of a policy's weights, each its own ranges.
fn divides_weights(recipe: &Recipe, inputs: &Inputs, ranks: &Ranks) -> bool {
    ranks.train_together()
        && recipe.train.zero == ZeroStage::Weights
        && recipe.train.lora.is_none()
        && recipe.policy.quantize.is_none()
        && inputs.policy.adapter.is_none()
}

/// Whether no rank of a run samples with the policy, and none has it whole to train it.
pub(crate) fn is_never_whole(recipe: &Recipe, inputs: &Inputs, ranks: &Ranks) -> bool {
    divides_weights(recipe, inputs, ranks) && recipe.sample.backend.is_endpoint()
}

/// This rank's share of a policy that no rank has in memory; `None` where policies are loaded whole.
pub(super) fn own_share(session: &Session) -> Option<ModelShare> {
    let ranks = &session.ranks;
    let share = ModelShare { rank: ranks.rank(), world: ranks.world() };
    divides_weights(&session.recipe, &session.inputs, ranks).then_some(share)
}

/// As [`own_share`], of the policy that is trained: where a rank has it in memory, all of them load it whole. All ranks ask.
///
/// # Errors
/// A rank is lost.
pub(super) fn agreed_share(session: &Session, is_there: bool) -> Result<Option<ModelShare>, EngineError> {
    let (Some(share), Some(collective)) = (own_share(session), session.ranks.collective()) else {
        return Ok(None);
    };
    let all = collective.all_gather(&[f64::from(u8::from(is_there))])?;
    Ok(Some(share).filter(|_| all.iter().all(|&one| one == 0.0)))
}
