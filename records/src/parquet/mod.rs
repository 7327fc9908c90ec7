//! Rows from and to Parquet.
//!
//! Read: the columns that are asked for and no others, so that a type or a codec of a column that is not needed never
//! matters. A file is measured by its footer and the headers of its pages before it is decoded ([`pages`]): a few bytes
//! of it can stand for gigabytes.

mod footer;
mod pages;
mod read;
mod thrift;
mod value;
mod write;

pub(crate) use read::each_row;
pub(crate) use write::write;
