//! Whose memory a training's state is in.

/// Whose memory holds what a training keeps between passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePlace {
    /// All of it the device's.
    Device,
    /// The optimizer's state and the f32 masters the host's.
    Host,
    /// These, and the sums of the blocks' gradients, the host's.
    HostWithGradients,
}

impl StatePlace {
    /// Whether the optimizer's state and the masters are the host's.
    pub fn is_host(self) -> bool {
        self != Self::Device
    }
}
