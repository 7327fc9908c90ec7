//! The order of a product's sums.

/// In which order a product's sums run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumOrder {
    /// The fastest order. On a GPU it depends on the number of rows, and so do a row's last bits.
    Fastest,
    /// An order that does not depend on the other rows. On a CPU it never does.
    ByRow,
}
