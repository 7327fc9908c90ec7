//! Rows from and to Parquet.
//!
//! Over the column readers and writers of the `parquet` crate, without Arrow's arrays between them and the rows: half of what
//! there was to compile served these.
//!
//! Read: the columns that are asked for and no others, so that a type or a codec of a column that is not needed never
//! matters. A file is measured by its footer and the headers of its pages before it is decoded ([`pages`]): a few bytes
//! of it can stand for gigabytes. Then each column's values are decoded a batch of rows at a time ([`leaf`]), and each row put
//! together from them ([`node`], [`value`], [`scalar`], [`arrow_types`]). Where only lengths of lists are asked for, no row is
//! ([`lengths`]).
//!
//! Written: a row is taken apart as it is serialized ([`shred`], [`buffer`]), into the columns that its kind of row has
//! ([`schema`]).

mod arrow_types;
mod buffer;
mod footer;
mod leaf;
mod lengths;
mod node;
mod pages;
mod read;
mod scalar;
mod schema;
mod shred;
mod thrift;
mod value;
mod write;

pub use lengths::ListLengths;
pub(crate) use lengths::{list_lengths, row_count};
pub(crate) use read::each_row;
pub(crate) use write::write;
