//! The buffers that gradients and rounded weights of an optimizer's step on the host go through: few, page-locked where the
//! device's driver locks pages, and kept from step to step, as locking takes longer than a copy.

use candle_core::{DType, Device, Tensor};
use selfplay_model::gpu::{HostCopies, LockedTensor};

use super::OffloadedParameter;
use crate::TrainError;

/// Pieces that are under way: one comes, one is updated, one goes back, and one waits between each two.
pub(super) const BUFFERS: usize = 4;

/// Numbers of a piece: its gradient, weights and state are some tens of megabytes. State in eight bits stands in blocks of
/// which this is a multiple.
pub(super) const PIECE: usize = 4 << 20;

/// One piece's room on the host.
pub(super) struct PieceBuffer {
    /// f32.
    gradient: LockedTensor,
    /// Bytes of rounded weights.
    rounded: LockedTensor,
}

impl PieceBuffer {
    fn new(copies: &dyn HostCopies, numbers: usize, bytes: usize) -> Result<Self, TrainError> {
        let room = |count: usize, dtype: DType| {
            LockedTensor::new(copies, Tensor::zeros(count, dtype, &Device::Cpu)?)
        };
        Ok(Self { gradient: room(numbers, DType::F32)?, rounded: room(bytes, DType::U8)? })
    }

    /// The first numbers of the gradient's room.
    pub(super) fn gradient(&self, count: usize) -> candle_core::Result<Tensor> {
        self.gradient.tensor().narrow(0, 0, count)
    }

    /// The first bytes of the weights' room.
    pub(super) fn bytes(&self, count: usize) -> candle_core::Result<Tensor> {
        self.rounded.tensor().narrow(0, 0, count)
    }
}

/// All buffers, and what copies.
pub(crate) struct Staging {
    pub(super) copies: Box<dyn HostCopies>,
    pub(super) buffers: Vec<PieceBuffer>,
    numbers: usize,
    bytes: usize,
}

impl Staging {
    /// None yet.
    pub(crate) fn new(copies: Box<dyn HostCopies>) -> Self {
        Self { copies, buffers: Vec::new(), numbers: 0, bytes: 0 }
    }

    /// Makes buffers for the largest pieces of these parameters, where those that are there are too small.
    pub(super) fn fit(&mut self, parameters: &[OffloadedParameter]) -> Result<(), TrainError> {
        let (mut numbers, mut bytes) = (1, 1);
        for parameter in parameters {
            let piece = parameter.weight.elem_count().min(PIECE);
            numbers = numbers.max(piece);
            bytes = bytes.max(parameter.copy.as_ref().map_or(0, |copy| piece * copy.dtype().size_in_bytes()));
        }
        if self.buffers.is_empty() || self.numbers < numbers || self.bytes < bytes {
            self.buffers = Vec::new();
            for _ in 0..BUFFERS {
                self.buffers.push(PieceBuffer::new(&*self.copies, numbers, bytes)?);
            }
            (self.numbers, self.bytes) = (numbers, bytes);
        }
        Ok(())
    }
}
