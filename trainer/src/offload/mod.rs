//! Where a training's state is, on the device or on the host (`train.offload`), and what moves it there.
//!
//! ```text
//! place      whose memory has it                 need     what it needs of either
//! choice     which is taken
//! gradients  a batch's, wherever they are        pages    blocks' that come and go with a backward
//! updates    the step on the host, beside        groups   what moves together
//!            the device's passes                 worker   the thread that moves it
//! ```

mod choice;
mod gradients;
mod groups;
mod need;
mod pages;
mod place;
mod updates;
mod worker;

pub use gradients::BatchGradients;
pub(crate) use need::StateNeed;
pub use pages::{BLOCKS_THERE, PagedGradients};
pub use place::StatePlace;
pub use updates::HostUpdates;
