//! The planner: what a recipe needs of memory, time and disk, from shapes and measured rates alone.
//!
//! ```text
//! memory   bytes by purpose and phase      rates   measured pieces of work
//! time     seconds of each stage           fit     the setting that makes a recipe fit
//! device   what memory there is            memory_check   refuses what cannot be allocated
//! lengths  what times are given for          cluster        all of it over several GPUs
//! clock    seconds of a rank's part          gpu            what is published of GPUs
//! smaller  settings that take less           state_bytes    what a training holds
//! host_update  what an optimizer on the host adds   host_room   whether the host has room
//! micro_batch  tokens of a pass with `auto`
//! ```

mod clock;
pub(crate) mod cluster;
pub(crate) mod device;
pub(crate) mod fit;
pub(crate) mod gpu;
pub(crate) mod host_room;
mod host_update;
pub(crate) mod lengths;
pub(crate) mod memory;
pub(crate) mod memory_check;
pub(crate) mod micro_batch;
pub(crate) mod rates;
pub(crate) mod smaller;
mod state_bytes;
pub(crate) mod time;
