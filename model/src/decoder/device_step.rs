//! A step whose tokens a GPU draws by itself.

use crate::kv_cache::PagedRow;
use crate::ops::draw::RowDraw;

/// A token of a step that only the device knows yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FedToken {
    /// Its place among the step's ids, where [`FedToken::UNKNOWN`] stands for it.
    pub place: usize,
    /// Which of the draws of the step begun before this one gives it.
    pub draw: usize,
}

impl FedToken {
    /// What stands in its place.
    pub const UNKNOWN: u32 = 0;
}

/// One step of many sequences, and the tokens that are drawn from its logits on the GPU.
#[derive(Clone, Copy, Debug)]
pub struct DeviceStep<'a> {
    /// The new tokens \[t], row after row.
    pub ids: &'a [u32],
    /// Of `ids`, those that the step begun before this one draws.
    pub fed: &'a [FedToken],
    /// The rows that they belong to.
    pub rows: &'a [PagedRow<'a>],
    /// The tokens whose logits are wanted \[n]: indices into `ids`, ascending.
    pub logit_rows: &'a [usize],
    /// What is drawn; [`RowDraw::row`] is an index into `logit_rows`.
    pub draws: &'a [RowDraw],
}

impl DeviceStep<'_> {
    /// Whether every row has one new token and draws one from its logits: a step that is always captured.
    pub(super) fn only_decodes(&self) -> bool {
        let rows = self.rows.len();
        self.rows.iter().all(|row| row.new_tokens == 1)
            && self.logit_rows.len() == rows
            && self.draws.len() == rows
    }
}
