//! A Parquet file's footer, measured before it is parsed: a schema nested without end, or of millions of columns, would take
//! the stack or the memory of the parser.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::thrift::{Compact, CompactType, damaged};
use crate::limits::COLUMNS;

/// A footer has some hundred bytes for each column of each row group.
const FOOTER_BYTES: u64 = 256 << 20;
/// Levels of nesting in a schema.
const DEPTH: usize = 64;
/// Elements of a schema: columns, and the groups around them.
const ELEMENTS: u64 = 8 * COLUMNS as u64;

/// Checks the footer of an open file.
///
/// # Errors
/// What exceeds its bound, or that this is no Parquet file.
pub(super) fn check(file: &mut File) -> Result<(), String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "the footer is cut short; the file is damaged".to_owned(),
        _ => error.to_string(),
    };
    let length = file.metadata().map_err(told)?.len();
    // What is too short, or has no mark at its end, is for the reader to name.
    if length < 12 {
        return Ok(());
    }
    let mut tail = [0; 8];
    file.seek(SeekFrom::Start(length - 8)).map_err(told)?;
    file.read_exact(&mut tail).map_err(told)?;
    let [a, b, c, d, mark @ ..] = tail;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if mark != *b"PAR1" || footer > length - 8 {
        return Ok(());
    }
    if footer > FOOTER_BYTES {
        let (found, most) = (footer >> 20, FOOTER_BYTES >> 20);
        return Err(format!("its footer has {found} MiB, and at most {most} MiB are read"));
    }
    file.seek(SeekFrom::Start(length - 8 - footer)).map_err(told)?;
    let mut bytes = Vec::new();
    file.take(footer).read_to_end(&mut bytes).map_err(told)?;
    schema(&mut Compact::new(bytes.as_slice())).map_err(told)
}

/// Walks over the whole footer; every list is as long as it says.
fn schema<R: Read>(footer: &mut Compact<R>) -> io::Result<()> {
    let mut last = 0;
    while let Some(field) = footer.field(last)? {
        last = field.id;
        if field.id != 2 || field.kind != CompactType::List {
            footer.skip(field.kind)?;
            continue;
        }
        let (count, kind) = footer.list()?;
        if kind != CompactType::Struct {
            return Err(damaged());
        }
        if count > ELEMENTS {
            let text = format!("its schema has {count} elements, and at most {ELEMENTS} are read");
            return Err(io::Error::other(text));
        }
        // Children that are still to come, of each group around this element.
        let mut open: Vec<i64> = Vec::new();
        for _ in 0..count {
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            match children(footer)? {
                0 => {}
                some if open.len() < DEPTH => open.push(some),
                _ => {
                    let text = format!("its columns are nested more than {DEPTH} levels deep");
                    return Err(io::Error::other(text));
                }
            }
        }
    }
    Ok(())
}

/// `num_children` of a schema's element.
fn children<R: Read>(footer: &mut Compact<R>) -> io::Result<i64> {
    let (mut last, mut children) = (0, 0);
    while let Some(field) = footer.field(last)? {
        last = field.id;
        match (field.id, field.kind) {
            (5, CompactType::Integer) => children = footer.integer()?,
            (_, kind) => footer.skip(kind)?,
        }
    }
    if children < 0 { Err(damaged()) } else { Ok(children) }
}
