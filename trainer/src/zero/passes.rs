//! Where a rank is in the decoder's passes.

use crate::TrainError;

/// An exchange of a pass, of a group by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Brings its weights.
    Gather(usize),
    /// Sums its gradients, each range for its owner.
    Reduce(usize),
}

/// Where a rank is in its passes.
#[derive(Default)]
pub(super) struct Passes {
    /// The exchanges of the pass under way.
    pub(super) program: Vec<Exchange>,
    /// The next of them.
    pub(super) next: usize,
    /// Whether the pass under way adds to gradients whose memory comes and goes.
    pub(super) takes_gradients: bool,
    /// By group: whether its weights are there.
    pub(super) has_weights: Vec<bool>,
    /// By group: whether its gradients are.
    pub(super) has_gradients: Vec<bool>,
    /// The group whose sums were begun and not yet waited for.
    pub(super) reducing: Option<usize>,
    /// Whether this step's gradients were summed by its last backward.
    pub(super) is_reduced: bool,
    /// Whether gradients are taken that no other rank gets.
    pub(super) is_private: bool,
    /// The first error of an exchange, after which there are no more.
    pub(super) fault: Option<TrainError>,
}
