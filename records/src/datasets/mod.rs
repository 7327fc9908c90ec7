//! Data sets of others, by layout and column: instructions to imitate and pairs to learn a preference from.
//!
//! ```text
//! read       a file, row by row: columns renamed, layout recognised, examples handed on, oddities counted
//! layout     what a layout is: its name, its columns, which rows fit it, how a row becomes examples
//! columns    the map from a layout's fields to a file's columns
//! oddity     what is strange about a row that is of the right layout, counted by kind
//! instructions/, pairs/    one file per layout
//! ```
//!
//! A row at a time is in memory (a tree of messages, of layouts whose rows belong together). A row that does not fit its
//! layout is an error with file, row and key; one that fits and teaches nothing is left out and counted.

mod columns;
mod conversation;
mod instructions;
mod layout;
mod oasst;
mod oddity;
mod pairs;
mod read;

pub use columns::ColumnMap;
pub use layout::{DataExample, DataLayout};
pub use oddity::{Oddities, Oddity, OddityCount};
pub use pairs::{ReadPairs, read_pairs};
pub use read::{DataFile, DataReport, each_example};

pub(crate) use instructions::instruction_of;
