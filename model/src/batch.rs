//! Ragged sequences packed into one row of tokens, without padding.
//!
//! A segment is either a sequence of its own or goes on where an earlier one (its prefix) ends: a prompt is packed
//! once and all its responses after it, each seeing the prompt and itself and never another response.

use std::ops::Range;

/// Token ids of several segments, one after the other.
#[derive(Clone, Debug, Default)]
pub struct PackedBatch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    layout: Layout,
}

/// Where the segments lie; what attention needs to know of a batch.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    segments: Vec<SegmentRows>,
    groups: Vec<SegmentGroup>,
}

/// The rows of one segment.
#[derive(Clone, Debug)]
pub struct SegmentRows {
    /// Rows of the packed batch.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub first_position: usize,
    /// The segment that this one continues.
    pub prefix: Option<Prefix>,
}

/// The rows of a prefix.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Rows of the packed batch.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence.
    pub first_position: usize,
}

/// Segments that exchange keys: one made by [`PackedBatch::push`] and those that follow it.
#[derive(Clone, Debug)]
pub struct SegmentGroup {
    /// Indices into the layout's segments.
    pub segments: Range<usize>,
    /// Rows of all of them.
    pub rows: Range<usize>,
}

impl Layout {
    /// All segments, in packed order.
    pub fn segments(&self) -> &[SegmentRows] {
        &self.segments
    }

    /// Rows in all.
    pub fn tokens(&self) -> usize {
        self.segments.last().map_or(0, |s| s.rows.end)
    }

    /// All groups, in packed order.
    pub fn groups(&self) -> &[SegmentGroup] {
        &self.groups
    }
}

impl PackedBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sequence of its own, positions from 0; returns its segment's index.
    pub fn push(&mut self, ids: &[u32]) -> usize {
        let rows = self.append(ids, 0);
        self.layout.groups.push(SegmentGroup {
            segments: self.layout.segments.len()..self.layout.segments.len() + 1,
            rows: rows.clone(),
        });
        self.layout.segments.push(SegmentRows { rows, first_position: 0, prefix: None });
        self.layout.segments.len() - 1
    }

    /// Adds a segment that continues segment `prefix`; returns its index.
    ///
    /// # Panics
    /// `prefix` was not made by [`PackedBatch::push`], or another sequence was pushed since: prefixes are one level
    /// deep, and what shares one stands together.
    pub fn push_after(&mut self, prefix: usize, ids: &[u32]) -> usize {
        let of = self.layout.segments[prefix].clone();
        assert!(of.prefix.is_none(), "a prefix has no prefix of its own");
        let first_position = of.rows.len();
        let rows = self.append(ids, first_position);
        let index = self.layout.segments.len();
        match self.layout.groups.last_mut() {
            Some(group) if group.segments.start == prefix => {
                group.segments.end = index + 1;
                group.rows.end = rows.end;
            }
            _ => panic!("segments that share a prefix stand together"),
        }
        self.layout.segments.push(SegmentRows {
            rows,
            first_position,
            prefix: Some(Prefix { rows: of.rows, first_position: of.first_position }),
        });
        index
    }

    fn append(&mut self, ids: &[u32], first_position: usize) -> Range<usize> {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((first_position..first_position + ids.len()).map(|p| p as u32));
        start..self.ids.len()
    }

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The rows of a segment in the packed hidden states.
    pub fn rows(&self, segment: usize) -> Range<usize> {
        self.layout.segments[segment].rows.clone()
    }

    /// All token ids, in packed order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Each token's position in its sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Where the segments lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The largest position plus one.
    pub fn context(&self) -> usize {
        self.positions.iter().max().map_or(0, |&p| p as usize + 1)
    }
}
