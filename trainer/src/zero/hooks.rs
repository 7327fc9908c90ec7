//! The decoder's passes: weights come before a segment computes, and go after; gradients are summed when they are complete.

use std::sync::atomic::Ordering;

use candle_core::{Error, Result};
use selfplay_model::decoder::{DecoderPass, Segment, SegmentHooks};

use super::passes::{Exchange, Passes};
use super::rendezvous::meet;
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
                match meet(&*self.collective, Some(pass))? {
                    Some(first) if first != pass => self.serve(passes, first)?,
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
}

impl Shards {
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
