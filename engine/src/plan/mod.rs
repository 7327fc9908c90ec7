//! The planner: what a recipe needs of memory, time and disk, from shapes and measured rates alone.
//!
//! ```text
//! memory   bytes by purpose and phase      rates   measured pieces of work
//! time     seconds of each stage           fit     the setting that makes a recipe fit
//! device   what memory there is            memory_check   refuses what cannot be allocated
//! lengths  what times are given for
//! ```

pub(crate) mod device;
pub(crate) mod fit;
pub(crate) mod lengths;
pub(crate) mod memory;
pub(crate) mod memory_check;
pub(crate) mod rates;
pub(crate) mod time;
