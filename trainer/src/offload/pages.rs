//! The sums of the blocks' gradients in the host's memory (`train.offload = "optimizer+gradients"`).
//!
//! A backward visits the blocks from the last to the first. Before a block the device gets memory for its gradients and, from the
//! second micro-batch of a step on, the sum so far, which the products add to in place, as they do where the device keeps it: the same
//! bits. As soon as the block's backward has passed, the sum goes back to the host. Copies run beside the work: while one
//! block computes, the sum of the next one comes and that of the one before goes, so that the device holds [`BLOCKS_THERE`] blocks'
//! gradients at most. Embedding, output head, final norm and a preference model's heads stay on the device: they are added to outside of
//! the blocks.
//!
//! The host's sums are page-locked where the device's driver locks pages. An error within a backward leaves them as they are: the
//! part of the batch is taken again from zero ([`GradientPages::zero`]), or the training ends.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result, Tensor};
use selfplay_model::decoder::{DecoderPass, Segment, SegmentHooks};
use selfplay_model::gpu::{
    CopyMark, CopyStart, HostCopies, LockedTensor, bytes_of, copy_to_device, copy_to_host, host_copies,
};
use selfplay_model::ops::elementwise::zero;
use selfplay_model::{Decoder, Gradients, Owner, ParameterId, tensor_memory};

use crate::trained::trained;

/// Blocks whose sums are on their way to the host at most, while another one computes.
const LEAVING: usize = 1;
/// Blocks whose gradients have memory on the device at most: one computes, one comes, the others leave.
pub const BLOCKS_THERE: usize = LEAVING + 2;

/// Gradients of which the host keeps the blocks'.
pub struct PagedGradients {
    /// What passes add to: those of blocks have memory only while a backward is at them.
    pub(super) device: Gradients,
    /// The sums, once [`GradientPages::settle`] is done.
    pub(super) sums: Gradients,
    /// Brings and sends them.
    pub(super) pages: Arc<GradientPages>,
}

impl PagedGradients {
    /// Zeros for every trainable parameter.
    ///
    /// # Errors
    /// Out of memory on the device or on the host.
    pub(super) fn zeros(decoder: &Decoder) -> Result<Self> {
        Self::by(decoder, host_copies(decoder.device())?)
    }

    /// As [`PagedGradients::zeros`], with these copies.
    pub(super) fn by(decoder: &Decoder, copies: Box<dyn HostCopies>) -> Result<Self> {
        let device = Gradients::without_memory(decoder.parameters())?;
        let (mut blocks, mut of_blocks, mut hosts) = (Vec::new(), HashSet::new(), HashMap::new());
        for segment in decoder.segments().filter(|segment| matches!(segment, Segment::Block(_))) {
            let ids = decoder.segment_parameters(segment);
            let mut block = BlockPages { is_zero: true, ..BlockPages::default() };
            for owner in device.owners(&ids) {
                let page = Page::new(&*copies, &owner)?;
                hosts.extend(page.views(&device, &owner)?);
                of_blocks.extend(owner.members);
                block.pages.push(page);
            }
            blocks.push(block);
        }
        let residents: Vec<ParameterId> =
            trained(decoder.parameters()).map(|(id, _)| id).filter(|id| !of_blocks.contains(id)).collect();
        let residents: Vec<Tensor> =
            device.owners(&residents).into_iter().map(|owner| owner.tensor).collect();
        residents.iter().try_for_each(tensor_memory::provide)?;
        let sums = device.replaced(|id| hosts.get(&id).cloned());
        let state = PageState { copies, blocks, leaving: VecDeque::new(), is_backward: false, most_there: 0 };
        Ok(Self { device, sums, pages: Arc::new(GradientPages { state: Mutex::new(state), residents }) })
    }
}

impl PagedGradients {
    /// Bytes that the blocks' gradients take of the device at most.
    pub(super) fn most_bytes(&self) -> u64 {
        let state = self.pages.state();
        let of_block =
            |block: &BlockPages| block.pages.iter().map(|page| bytes_of(&page.device) as u64).sum::<u64>();
        state.blocks.iter().map(of_block).max().unwrap_or(0) * BLOCKS_THERE as u64
    }
}

/// What moves the sums while a decoder's passes go by.
pub(super) struct GradientPages {
    state: Mutex<PageState>,
    /// The gradients that stay on the device.
    residents: Vec<Tensor>,
}

struct PageState {
    copies: Box<dyn HostCopies>,
    blocks: Vec<BlockPages>,
    /// Blocks whose sums go to the host, in order.
    leaving: VecDeque<usize>,
    is_backward: bool,
    /// Blocks with memory on the device, at most so far.
    most_there: usize,
}

/// The gradients of a block.
#[derive(Default)]
struct BlockPages {
    pages: Vec<Page>,
    /// The sum is 0, whatever the host's memory holds.
    is_zero: bool,
    /// It has memory on the device.
    is_there: bool,
    /// Copies to the device that its backward must wait for.
    coming: Vec<Box<dyn CopyMark>>,
    /// Copies to the host that its reader must wait for.
    going: Vec<Arc<dyn CopyMark>>,
}

/// A tensor of gradients on the device, and its sum on the host.
struct Page {
    device: Tensor,
    host: LockedTensor,
}

impl Page {
    fn new(copies: &dyn HostCopies, owner: &Owner) -> Result<Self> {
        let host = Tensor::zeros(owner.tensor.shape(), owner.tensor.dtype(), &Device::Cpu)?;
        Ok(Self { device: owner.tensor.clone(), host: LockedTensor::new(copies, host)? })
    }

    /// The host's sum of each parameter.
    fn views(&self, gradients: &Gradients, owner: &Owner) -> Result<Vec<(ParameterId, Tensor)>> {
        let host = self.host.tensor();
        if let [only] = owner.members[..] {
            return Ok(vec![(only, host.clone())]);
        }
        let (mut views, mut first) = (Vec::new(), 0);
        for &member in &owner.members {
            let rows = gradients.get(member).map_or(Ok(0), |gradient| gradient.dim(0))?;
            views.push((member, host.narrow(0, first, rows)?));
            first += rows;
        }
        Ok(views)
    }
}

impl GradientPages {
    fn state(&self) -> MutexGuard<'_, PageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets all sums to 0.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn zero(&self) -> Result<()> {
        self.zero_blocks()?;
        self.residents.iter().try_for_each(zero)
    }

    /// Sets the blocks' sums to 0, which changes no number in the host's memory before the next backward.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn zero_blocks(&self) -> Result<()> {
        let mut state = self.state();
        state.arrive()?;
        state.blocks.iter_mut().for_each(|block| block.is_zero = true);
        Ok(())
    }

    /// The copies to the host that a block's reader must wait for.
    pub(super) fn arrival(&self, block: usize) -> Vec<Arc<dyn CopyMark>> {
        self.state().blocks.get(block).map_or_else(Vec::new, |block| block.going.clone())
    }

    /// Waits until the sums on the host are whole.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn settle(&self) -> Result<()> {
        let mut state = self.state();
        state.arrive()?;
        for block in state.blocks.iter_mut().filter(|block| block.is_zero) {
            // No backward came by.
            for page in &block.pages {
                zero(page.host.tensor())?;
            }
        }
        Ok(())
    }
}

impl Drop for PageState {
    fn drop(&mut self) {
        // The tensors of both sides go now; what fails here has failed before.
        if let Err(error) = self.copies.finish() {
            tracing::debug!("copies of gradients did not end: {error}");
        }
    }
}

impl PageState {
    /// Waits for all copies to the host.
    fn arrive(&mut self) -> Result<()> {
        for block in &mut self.blocks {
            block.going.drain(..).try_for_each(|mark| mark.wait())?;
        }
        Ok(())
    }

    /// Gives a block's gradients memory, and starts to fill it with the sum so far.
    fn bring(&mut self, number: usize) -> Result<()> {
        let Self { copies, blocks, .. } = self;
        let Some(block) = blocks.get_mut(number).filter(|block| !block.is_there) else { return Ok(()) };
        // Its sum has gone to the host before it comes back.
        block.going.drain(..).try_for_each(|mark| mark.wait())?;
        block.is_there = true;
        for page in &block.pages {
            tensor_memory::provide(&page.device)?;
            if !block.is_zero {
                let coming =
                    copy_to_device(&**copies, page.host.tensor(), &page.device, CopyStart::AfterWork)?;
                block.coming.push(coming);
            }
        }
        let there = self.blocks.iter().filter(|block| block.is_there).count();
        self.most_there = self.most_there.max(there);
        Ok(())
    }

    /// Starts to send a block's sum to the host.
    fn send(&mut self, number: usize) -> Result<()> {
        let Self { copies, blocks, leaving, .. } = self;
        let Some(block) = blocks.get_mut(number) else { return Ok(()) };
        for page in &block.pages {
            let going = copy_to_host(&**copies, &page.device, page.host.tensor(), CopyStart::AfterWork)?;
            block.going.push(going.into());
        }
        block.is_zero = false;
        leaving.push_back(number);
        Ok(())
    }

    /// Takes the memory of the blocks whose sums have been leaving the longest, until `most` are left. The device's next work waits
    /// for their copies: the memory may be given to it.
    fn retire(&mut self, most: usize) -> Result<()> {
        while self.leaving.len() > most {
            let Some(number) = self.leaving.pop_front() else { break };
            let block = &mut self.blocks[number];
            block.going.iter().try_for_each(|mark| mark.device_waits())?;
            block.release()?;
        }
        Ok(())
    }

    /// Takes the memory of all blocks.
    fn retire_all(&mut self) -> Result<()> {
        self.retire(0)?;
        for block in self.blocks.iter_mut().filter(|block| block.is_there) {
            // An error came between: what comes must not come into memory that is another's by then.
            block.coming.drain(..).try_for_each(|mark| mark.device_waits())?;
            block.going.iter().try_for_each(|mark| mark.device_waits())?;
            block.release()?;
        }
        Ok(())
    }
}

impl BlockPages {
    fn release(&mut self) -> Result<()> {
        self.is_there = false;
        self.pages.iter().try_for_each(|page| tensor_memory::release(&page.device))
    }
}

impl SegmentHooks for GradientPages {
    fn begin(&self, pass: DecoderPass) -> Result<()> {
        self.state().is_backward = matches!(pass, DecoderPass::Backward { .. });
        Ok(())
    }

    fn before(&self, segment: Segment) -> Result<()> {
        let mut state = self.state();
        let (Segment::Block(number), true) = (segment, state.is_backward) else { return Ok(()) };
        // Room for the next one first.
        state.retire(LEAVING)?;
        state.bring(number)?;
        if let Some(block) = state.blocks.get_mut(number) {
            block.coming.drain(..).try_for_each(|mark| mark.device_waits())?;
        }
        number.checked_sub(1).map_or(Ok(()), |next| state.bring(next))
    }

    fn after(&self, segment: Segment) -> Result<()> {
        let mut state = self.state();
        match (segment, state.is_backward) {
            (Segment::Block(number), true) => state.send(number),
            _ => Ok(()),
        }
    }

    fn end(&self) {
        let mut state = self.state();
        if state.is_backward
            && let Err(error) = state.retire_all()
        {
            // The next use of the memory fails with an error of its own.
            tracing::debug!("gradients could not leave the device: {error}");
        }
        state.is_backward = false;
    }
}

#[cfg(test)]
mod tests;
