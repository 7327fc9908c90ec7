//! The rotary tables of a decoder's layers: one for each embedding that some layer has.

use crate::architecture::{Architecture, Rope};
use crate::ops::rope::RopeTable;

/// Tables for positions `0..positions`.
pub(super) struct RotaryTables {
    positions: usize,
    tables: Vec<RopeTable>,
    /// Each layer's place in `tables`; `None` where it does not rotate.
    layers: Vec<Option<usize>>,
}

impl RotaryTables {
    pub(super) fn new(architecture: &Architecture, positions: usize) -> Self {
        let mut distinct: Vec<&Rope> = Vec::new();
        let mut place = |rope| match distinct.iter().position(|known| *known == rope) {
            Some(place) => place,
            None => {
                distinct.push(rope);
                distinct.len() - 1
            }
        };
        let layers = architecture.ropes.iter().map(|rope| rope.as_ref().map(&mut place)).collect();
        let table = |rope| RopeTable::new(rope, architecture.head_dim, positions);
        Self { positions, tables: distinct.into_iter().map(table).collect(), layers }
    }

    /// Positions that the tables cover.
    pub(super) fn positions(&self) -> usize {
        self.positions
    }

    /// A layer's table, if it rotates.
    pub(super) fn of(&self, layer: usize) -> Option<&RopeTable> {
        self.layers.get(layer).copied().flatten().and_then(|place| self.tables.get(place))
    }
}
