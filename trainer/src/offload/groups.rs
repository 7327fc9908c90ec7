//! A decoder's trained parameters in groups that are complete, and read, together.

use std::collections::HashSet;

use candle_core::Tensor;
use selfplay_model::decoder::Segment;
use selfplay_model::{Decoder, Gradients, ParameterId};

use super::gradients::BatchGradients;
use crate::optimizer::{MeasuredGradient, SquaresRoom};
use crate::trained::trained;

/// The parameters of a segment, or those of none.
pub(super) struct UpdateGroup {
    /// Its gradients where a backward adds to them: blocks' may have memory only then.
    pub(super) there: Vec<MeasuredGradient>,
    /// Its gradients where they are when the passes are over.
    pub(super) whole: Vec<MeasuredGradient>,
    /// The place of its first partial sum among all of them.
    pub(super) first_sum: usize,
}

impl UpdateGroup {
    pub(super) fn ids(&self) -> impl Iterator<Item = ParameterId> {
        self.there.iter().map(|one| one.id)
    }
}

/// All groups, in the order in which a forward pass reads them.
pub(super) struct UpdateGroups {
    groups: Vec<UpdateGroup>,
    has_tied_head: bool,
}

impl UpdateGroups {
    /// The group of what no segment has, and passes read anywhere: the final norm, a preference model's heads.
    pub(super) const OTHERS: usize = 0;
    const EMBEDDING: usize = 1;
    const FIRST_BLOCK: usize = 2;

    /// Of the trained parameters of a decoder, whose gradients these are.
    pub(super) fn new(decoder: &Decoder, gradients: &BatchGradients) -> Self {
        let (there, whole) = (gradients.there(), gradients.whole());
        let mut seen = HashSet::new();
        let mut lists = vec![Vec::new()];
        for segment in decoder.segments() {
            let ids = decoder.segment_parameters(segment).into_iter();
            // A tied head has the embedding's table too, which is complete with the embedding.
            lists.push(ids.filter(|&id| there.get(id).is_some() && seen.insert(id)).collect());
        }
        lists[Self::OTHERS] =
            trained(decoder.parameters()).map(|(id, _)| id).filter(|id| !seen.contains(id)).collect();
        let measured = |gradients: &Gradients, ids: &[ParameterId]| -> Vec<MeasuredGradient> {
            let of = |&id: &ParameterId| {
                let name = decoder.parameters().get(id).name.clone();
                Some(MeasuredGradient { id, name, gradient: gradients.get(id)?.clone() })
            };
            ids.iter().filter_map(of).collect()
        };
        let mut first_sum = 0;
        let group = |ids: Vec<ParameterId>| {
            let there = measured(there, &ids);
            let sums = SquaresRoom::blocks(&there);
            let group = UpdateGroup { whole: measured(whole, &ids), there, first_sum };
            first_sum += sums;
            group
        };
        let groups = lists.into_iter().map(group).collect();
        Self { groups, has_tied_head: decoder.has_tied_head() }
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &UpdateGroup> {
        self.groups.iter()
    }

    pub(super) fn get(&self, number: usize) -> &UpdateGroup {
        &self.groups[number]
    }

    /// The group of a segment.
    pub(super) fn of(&self, segment: Segment) -> usize {
        match segment {
            Segment::Embedding => Self::EMBEDDING,
            Segment::Block(block) => Self::FIRST_BLOCK + block,
            Segment::Head => self.groups.len() - 1,
        }
    }

    /// Gradients that the device has between steps, but for those of the others.
    pub(super) fn residents(&self, has_pages: bool) -> impl Iterator<Item = &Tensor> {
        let stays =
            move |number: usize| number != Self::OTHERS && !(has_pages && self.block(number).is_some());
        let groups = self.groups.iter().enumerate().filter(move |(number, _)| stays(*number));
        groups.flat_map(|(_, group)| group.there.iter().map(|one| &one.gradient))
    }

    /// The block that a group is.
    pub(super) fn block(&self, number: usize) -> Option<usize> {
        (Self::FIRST_BLOCK..self.groups.len() - 1).contains(&number).then(|| number - Self::FIRST_BLOCK)
    }

    /// Whether the head reads the embedding's table.
    pub(super) fn has_tied_head(&self) -> bool {
        self.has_tied_head
    }

    /// Numbers of each gradient, in the order of their partial sums.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().flat_map(|group| group.there.iter().map(|one| one.gradient.elem_count()))
    }
}
