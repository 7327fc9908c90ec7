//! Numbers of a device that the host reads when it has given the device more to do, so that the device does not stand still meanwhile.

use candle_core::{DType, Result, Tensor, bail};

use super::{DeviceMark, Gpu, StagingBuffer};

/// Bytes of a room at least: a buffer takes as many in any case, and a pass has some thousand numbers.
const LEAST_ROOM: usize = 64 << 10;

/// Memory that numbers come to, used again: asking a driver for such memory waits for the device.
#[derive(Default)]
pub struct LateReads {
    rooms: Vec<StagingBuffer>,
}

/// Numbers on their way to the host.
pub struct LateRead(Place);

enum Place {
    /// Where the device is the host: at hand.
    Here(Vec<f32>),
    Coming(Coming),
}

/// A copy that the device makes in the order of its work.
struct Coming {
    /// `None` when it was given back.
    room: Option<StagingBuffer>,
    /// Lives until it is copied.
    _tensor: Tensor,
    numbers: usize,
    end: Box<dyn DeviceMark>,
}

impl LateReads {
    /// Starts to bring the numbers of a contiguous tensor of f32, of what the device was given before.
    ///
    /// # Errors
    /// Another dtype, a tensor that is not contiguous; what the device says.
    pub fn start(&mut self, tensor: &Tensor) -> Result<LateRead> {
        if tensor.dtype() != DType::F32 || !tensor.is_contiguous() {
            bail!("{:?} {:?} is read as contiguous f32", tensor.dtype(), tensor.dims())
        }
        let Some(gpu) = Gpu::of(tensor)?.filter(|_| tensor.elem_count() > 0) else {
            return Ok(LateRead(Place::Here(tensor.flatten_all()?.to_vec1()?)));
        };
        let numbers = tensor.elem_count();
        let bytes = numbers * size_of::<f32>();
        let mut room = match self.rooms.iter().position(|room| room.size() >= bytes) {
            Some(place) => self.rooms.swap_remove(place),
            None => gpu.staging(bytes.next_power_of_two().max(LEAST_ROOM))?,
        };
        gpu.copy_out(tensor, &mut room)?;
        let (tensor, end) = (tensor.clone(), gpu.mark()?);
        Ok(LateRead(Place::Coming(Coming { room: Some(room), _tensor: tensor, numbers, end })))
    }

    /// The numbers, in the tensor's order, when they have come.
    ///
    /// # Errors
    /// What the device says.
    pub fn finish(&mut self, read: LateRead) -> Result<Vec<f32>> {
        match read.0 {
            Place::Here(numbers) => Ok(numbers),
            Place::Coming(mut coming) => {
                let Some(room) = coming.wait()? else { bail!("numbers that were given up") };
                let numbers =
                    room.words()[..coming.numbers].iter().map(|&bits| f32::from_bits(bits)).collect();
                self.rooms.push(room);
                Ok(numbers)
            }
        }
    }
}

impl LateRead {
    /// Whether it is at hand, so that there is nothing to be gained by reading it later.
    pub fn is_here(&self) -> bool {
        matches!(self.0, Place::Here(_))
    }
}

impl Coming {
    /// Waits for the copy; the memory is then the caller's.
    fn wait(&mut self) -> Result<Option<StagingBuffer>> {
        let room = self.room.take();
        if let Err(error) = self.end.wait() {
            // Nobody knows whether the device still writes there.
            std::mem::forget(room);
            return Err(error);
        }
        Ok(room)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if self.room.is_some() {
            // The device writes into memory of this. An error is told by whatever is waited for next.
            let _ = self.wait();
        }
    }
}
