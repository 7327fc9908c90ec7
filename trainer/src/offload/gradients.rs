//! The gradients of an optimizer batch, wherever they are.

use std::sync::Arc;

use selfplay_model::decoder::SegmentHooks;
use selfplay_model::{Decoder, Gradients};

use super::pages::PagedGradients;
use super::place::StatePlace;
use crate::TrainError;

/// The sums of all micro-batches' gradients.
pub enum BatchGradients {
    /// On the device.
    Device(Gradients),
    /// The blocks' on the host.
    Paged(PagedGradients),
}

impl BatchGradients {
    /// Zeros for every trainable parameter. A decoder must be told of [`BatchGradients::hooks`] before a pass adds to them.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros(decoder: &Decoder, place: StatePlace) -> Result<Self, TrainError> {
        Ok(match place {
            StatePlace::HostWithGradients => Self::Paged(PagedGradients::zeros(decoder)?),
            StatePlace::Device | StatePlace::Host => Self::Device(Gradients::zeros(decoder.parameters())?),
        })
    }

    /// What is to be told of the decoder's passes, where gradients come and go with them.
    pub fn hooks(&self) -> Option<Arc<dyn SegmentHooks>> {
        match self {
            Self::Device(_) => None,
            Self::Paged(paged) => Some(paged.pages.clone()),
        }
    }

    /// Bytes of the device that passes will take for gradients beside what is taken now.
    pub(crate) fn coming_bytes(&self) -> u64 {
        match self {
            Self::Device(_) => 0,
            Self::Paged(paged) => paged.most_bytes(),
        }
    }

    /// What passes add to.
    pub fn added_to(&mut self) -> &mut Gradients {
        match self {
            Self::Device(sum) => sum,
            Self::Paged(paged) => &mut paged.device,
        }
    }

    /// What passes add to, to look at.
    pub(super) fn there(&self) -> &Gradients {
        match self {
            Self::Device(sum) => sum,
            Self::Paged(paged) => &paged.device,
        }
    }

    /// The sums, once [`BatchGradients::settle`] is done.
    pub fn whole(&self) -> &Gradients {
        match self {
            Self::Device(sum) => sum,
            Self::Paged(paged) => &paged.sums,
        }
    }

    /// Sets all sums to 0.
    ///
    /// # Errors
    /// What the device says.
    pub fn zero(&mut self) -> Result<(), TrainError> {
        match self {
            Self::Device(sum) => sum.zero()?,
            Self::Paged(paged) => paged.pages.zero()?,
        }
        Ok(())
    }

    /// Waits until [`BatchGradients::whole`] is.
    ///
    /// # Errors
    /// What the device says.
    pub fn settle(&self) -> Result<(), TrainError> {
        match self {
            Self::Device(_) => Ok(()),
            Self::Paged(paged) => Ok(paged.pages.settle()?),
        }
    }
}
