//! The exchanges of a decoder's passes: which ones a pass makes, in which order, and what memory comes and goes with them.

use std::sync::atomic::Ordering;

use selfplay_model::decoder::{DecoderPass, Segment};
use selfplay_model::tensor_memory;

use super::owned::Owned;
use super::passes::{Exchange, Passes};
use super::rendezvous::{JointWork, meet};
use super::shards::Shards;
use crate::TrainError;
use crate::collective::sliced::part;

impl Shards {
    /// The group of a segment's gradients.
    pub(super) fn group_of(&self, segment: Segment) -> usize {
        match segment {
            Segment::Embedding => 0,
            Segment::Block(number) => number + 1,
            Segment::Head => self.head,
        }
    }

    /// The exchanges of a pass, the same on every rank.
    pub(super) fn program(&self, pass: DecoderPass) -> Vec<Exchange> {
        let last = self.groups.len().saturating_sub(1);
        let gather = |group: usize| {
            Some(Exchange::Gather(group))
                .filter(|_| self.groups.get(group).is_some_and(|g| !g.away.is_empty()))
        };
        let reduce = |group: usize, is_last: bool| {
            let has = self.groups.get(group).is_some_and(|g| !g.members.is_empty());
            Some(Exchange::Reduce(group)).filter(|_| is_last && has)
        };
        let mut program: Vec<Exchange> = match pass {
            DecoderPass::Forward => (0..last).filter_map(gather).collect(),
            DecoderPass::Head { .. } => gather(self.head).into_iter().collect(),
            DecoderPass::Backward { is_last } => {
                let blocks = (1..last).rev().flat_map(|b| gather(b).into_iter().chain(reduce(b, is_last)));
                reduce(last, is_last).into_iter().chain(blocks).chain(reduce(0, is_last)).collect()
            }
        };
        if self.exchanges_beside.load(Ordering::Relaxed) {
            for place in 1..program.len() {
                // One block ahead: beside the block that computes.
                if let [Exchange::Reduce(_), Exchange::Gather(_)] = program[place - 1..=place] {
                    program.swap(place - 1, place);
                }
            }
        }
        program
    }

    /// Takes part in the passes of other ranks, and in what they ask for, until none has anything left; this rank has nothing.
    ///
    /// # Errors
    /// A rank is lost.
    pub(crate) fn serve_all(&self) -> Result<(), TrainError> {
        if !self.has_gradients_by_rank() {
            return Ok(());
        }
        while let Some(work) = meet(&*self.collective, None)? {
            self.serve(&mut self.lock(), work)?;
        }
        Ok(())
    }

    /// Makes the exchanges of a pass that other ranks compute, or of a parameter that they ask for.
    pub(super) fn serve(&self, passes: &mut Passes, work: JointWork) -> Result<(), TrainError> {
        let pass = match work {
            JointWork::Pass(pass) => pass,
            JointWork::Fetch(place) => return self.bring(place).map(drop),
        };
        passes.is_reduced |= pass == DecoderPass::Backward { is_last: true };
        for exchange in self.program(pass) {
            self.make(passes, exchange)?;
            self.let_go(passes)?;
        }
        self.end_reduce(passes)
    }

    /// The pass is this rank's own.
    pub(super) fn begin_own(&self, passes: &mut Passes, pass: DecoderPass) {
        passes.is_reduced |= pass == DecoderPass::Backward { is_last: true };
        passes.program = self.program(pass);
        passes.next = 0;
    }

    /// One exchange.
    pub(super) fn make(&self, passes: &mut Passes, exchange: Exchange) -> Result<(), TrainError> {
        match exchange {
            Exchange::Gather(group) => {
                self.gather_group(group)?;
                passes.has_weights[group] = true;
                Ok(())
            }
            Exchange::Reduce(group) => self.reduce_group(passes, group),
        }
    }

    /// Begins to bring a group's weights.
    pub(super) fn gather_group(&self, group: usize) -> Result<(), TrainError> {
        let group = &self.groups[group];
        group.weights.iter().try_for_each(tensor_memory::provide)?;
        let owned = group.away.iter().map(|&place| &self.owned[place]);
        owned.clone().try_for_each(|owned| owned.put_own(self.collective.rank()))?;
        self.collective.all_gather_slices(&owned.map(Owned::sliced).collect::<Vec<_>>())
    }

    /// Gives back the memory of all weights that are there, also of those that nobody waited for.
    pub(super) fn let_go(&self, passes: &mut Passes) -> Result<(), TrainError> {
        if passes.has_weights.contains(&true) {
            self.collective.settle()?;
        }
        for group in 0..self.groups.len() {
            self.let_go_of(passes, group)?;
        }
        Ok(())
    }

    /// Gives back the memory of a group's weights, which were waited for.
    pub(super) fn let_go_of(&self, passes: &mut Passes, group: usize) -> Result<(), TrainError> {
        if std::mem::take(&mut passes.has_weights[group]) {
            self.groups[group].weights.iter().try_for_each(tensor_memory::release)?;
        }
        Ok(())
    }

    /// Makes room for a group's gradients, where it is not there.
    pub(super) fn make_room(&self, passes: &mut Passes, group: usize) -> candle_core::Result<()> {
        if !std::mem::replace(&mut passes.has_gradients[group], true) {
            self.groups[group].gradients.iter().try_for_each(tensor_memory::provide)?;
        }
        Ok(())
    }

    /// Begins to sum a group's gradients over the ranks; those of the group before are kept first.
    pub(super) fn reduce_group(&self, passes: &mut Passes, group: usize) -> Result<(), TrainError> {
        self.end_reduce(passes)?;
        self.make_room(passes, group)?;
        let members = self.groups[group].members.iter();
        self.collective
            .begin_reduce_scatter(&members.map(|&place| self.sliced_gradient(place)).collect::<Vec<_>>())?;
        passes.reducing = Some(group);
        if self.exchanges_beside.load(Ordering::Relaxed) { Ok(()) } else { self.end_reduce(passes) }
    }

    /// Keeps this rank's ranges of the sums that were begun, and gives back the memory of the rest.
    pub(super) fn end_reduce(&self, passes: &mut Passes) -> Result<(), TrainError> {
        let Some(group) = passes.reducing.take() else { return Ok(()) };
        self.collective.settle_sums()?;
        for &place in &self.groups[group].members {
            if let Some(own) = &self.gradients[place] {
                let range = &self.owned[place].ranges[self.collective.rank()];
                tensor_memory::provide(own)?;
                own.slice_set(&part(&self.whole[place], range)?, 0, 0)?;
            }
        }
        self.groups[group].gradients.iter().try_for_each(tensor_memory::release)?;
        passes.has_gradients[group] = false;
        Ok(())
    }
}
