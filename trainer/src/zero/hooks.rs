//! The decoder's passes: weights come before a segment computes, and go after; gradients are summed when they are complete.

use std::sync::atomic::Ordering;

use candle_core::{Device, Error, Result, Tensor};
use selfplay_model::ParameterId;
use selfplay_model::decoder::{DecoderPass, Segment, SegmentHooks};

use super::passes::{Exchange, Passes};
use super::rendezvous::{JointWork, meet};
use super::shards::Shards;
use crate::TrainError;

impl SegmentHooks for Shards {
    fn begin(&self, pass: DecoderPass) -> Result<()> {
        let mut guard = self.lock();
        let passes = &mut *guard;
        passes.program.clear();
        passes.next = 0;
        let pass = match pass {
            DecoderPass::Backward { is_last: true } if passes.is_private => {
                DecoderPass::Backward { is_last: false }
            }
            pass => pass,
        };
        passes.takes_gradients = !passes.is_private
            && matches!(pass, DecoderPass::Backward { .. } | DecoderPass::Head { takes_gradients: true });
        if self.program(pass).is_empty() {
            return Ok(());
        }
        self.exchanged(passes, |passes| {
            loop {
                match meet(&*self.collective, Some(JointWork::Pass(pass)))? {
                    Some(first) if first != JointWork::Pass(pass) => self.serve(passes, first)?,
                    _ => {
                        self.begin_own(passes, pass);
                        return Ok(());
                    }
                }
            }
        })
    }

    fn before(&self, segment: Segment) -> Result<()> {
        let group = self.group_of(segment);
        let mut guard = self.lock();
        let passes = &mut *guard;
        self.exchanged(passes, |passes| {
            self.advance(passes, Exchange::Gather(group))?;
            if passes.has_weights[group] {
                self.collective.settle()?;
            }
            let next = passes.program.get(passes.next).copied();
            match next.filter(|_| self.exchanges_beside.load(Ordering::Relaxed)) {
                Some(ahead @ Exchange::Gather(_)) => {
                    passes.next += 1;
                    self.make(passes, ahead)
                }
                _ => Ok(()),
            }
        })?;
        if passes.takes_gradients {
            self.make_room(passes, group)?;
        }
        Ok(())
    }

    fn after(&self, segment: Segment) -> Result<()> {
        let group = self.group_of(segment);
        let mut guard = self.lock();
        let passes = &mut *guard;
        self.exchanged(passes, |passes| {
            self.let_go_of(passes, group)?;
            self.advance(passes, Exchange::Reduce(group))
        })
    }

    /// What a pass that ended early has left: other ranks wait in it.
    fn end(&self) {
        let mut guard = self.lock();
        let passes = &mut *guard;
        // An error is kept for whoever asks for it: nobody hears of it here.
        let _ = self.exchanged(passes, |passes| {
            while let Some(&exchange) = passes.program.get(passes.next) {
                passes.next += 1;
                self.let_go(passes)?;
                self.make(passes, exchange)?;
            }
            self.let_go(passes)?;
            self.end_reduce(passes)
        });
        passes.takes_gradients = false;
    }

    fn is_elsewhere(&self, parameter: ParameterId) -> bool {
        self.place_elsewhere(parameter).is_some()
    }

    fn fetch(&self, parameter: ParameterId) -> Result<Tensor> {
        let Some(place) = self.place_elsewhere(parameter) else {
            return Err(Error::Msg("these weights are nowhere else".to_owned()));
        };
        let mut guard = self.lock();
        let passes = &mut *guard;
        let own = JointWork::Fetch(place);
        let mut brought = None;
        self.exchanged(passes, |passes| {
            loop {
                match meet(&*self.collective, Some(own))? {
                    Some(first) if first != own => self.serve(passes, first)?,
                    _ => break,
                }
            }
            brought = Some(self.bring(place)?);
            Ok(())
        })?;
        match brought {
            Some(brought) => brought.to_device(&Device::Cpu),
            None => Err(Error::Msg("nothing was brought".to_owned())),
        }
    }

    fn finish(&self) -> Result<()> {
        self.serve_all().map_err(|error| Error::Msg(error.to_string()))
    }
}

impl Shards {
    /// Where a parameter is among the owned ones, if its numbers are with several ranks or have other digits than what is computed with.
    fn place_elsewhere(&self, parameter: ParameterId) -> Option<usize> {
        self.owned.iter().position(|owned| owned.id == parameter && (owned.is_away || owned.has_master))
    }

    /// Makes the exchanges of the pass up to and with this one, if it is still to come.
    fn advance(&self, passes: &mut Passes, to: Exchange) -> std::result::Result<(), TrainError> {
        let Some(count) = passes.program[passes.next..].iter().position(|exchange| *exchange == to) else {
            return Ok(());
        };
        for _ in 0..=count {
            let exchange = passes.program[passes.next];
            passes.next += 1;
            self.make(passes, exchange)?;
        }
        Ok(())
    }

    /// Runs exchanges, unless one has failed before; keeps the error of the first that does.
    fn exchanged(
        &self,
        passes: &mut Passes,
        work: impl FnOnce(&mut Passes) -> std::result::Result<(), TrainError>,
    ) -> Result<()> {
        if passes.fault.is_some() {
            return Err(Error::Msg("an exchange between ranks has failed before".to_owned()));
        }
        work(passes).map_err(|error| {
            let text = error.to_string();
            passes.fault = Some(error);
            Error::Msg(text)
        })
    }
}
