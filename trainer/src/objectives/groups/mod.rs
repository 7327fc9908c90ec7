//! Groups: all responses to a prompt, each with its advantage, under a clipped surrogate that is taken token by token.
//!
//! ```text
//! builder       rows → groups in tokens, with advantages        token_group   one of them
//! data          the groups of a training: a bounded part in memory, the rest in a file without a name
//! objective     the gradient of a batch of groups               surrogate     a token's loss and its derivative
//! reference     log-probs under other policies, token by token
//! drift         which axes of a GPM the advantages come from, and what is done when that changes
//! ```

mod builder;
mod data;
mod drift;
mod objective;
mod reference;
mod surrogate;
mod token_group;

pub use builder::GroupBuilder;
pub use data::GroupData;
pub use drift::{AxisDrift, AxisShares};
pub use objective::GroupObjective;
pub use token_group::{GroupResponse, TokenGroup};
