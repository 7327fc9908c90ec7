//! Groups: all responses to a prompt, each with its advantage, under a clipped surrogate that is taken token by token.
//!
//! ```text
//! token_group   rows → groups in tokens, with advantages        surrogate   a token's loss and its derivative
//! objective     the gradient of a batch of groups               reference   log-probs under other policies, token by token
//! drift         which axes of a GPM the advantages come from, and what is done when that changes
//! ```

mod drift;
mod objective;
mod reference;
mod surrogate;
mod token_group;

pub use drift::{AxisDrift, axis_shares};
pub use objective::GroupObjective;
pub use token_group::{GroupResponse, TokenGroup, token_groups};
