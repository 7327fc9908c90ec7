//! What a column's pages say of their size, read from their headers alone: dictionaries and run lengths let a page of a few
//! bytes stand for millions of values, and a compressed page says itself how large it will be.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use super::thrift::{Compact, CompactType, damaged};

/// A page when it is unpacked. Most writers keep to 1 MiB, DuckDB to 100 MB.
const PAGE_BYTES: u64 = 256 << 20;
/// Values of a dictionary. Most writers keep it to 1 MiB; each value takes some 32 bytes when it is unpacked.
const DICTIONARY_VALUES: u64 = 8 << 20;
/// Values of lists beyond one for each row that a column may have whatever its size.
const LIST_VALUES: u64 = 16 << 20;
/// And for each of its unpacked bytes.
const LIST_VALUES_A_BYTE: u64 = 1024;

/// The pages of a column in one row group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pages {
    /// The largest, unpacked.
    pub(super) largest: u64,
    /// All of them, unpacked.
    bytes: u64,
    /// Values, those of lists each by itself.
    values: u64,
}

impl Pages {
    /// Reads the headers of the pages in `length` bytes from `start` on.
    ///
    /// # Errors
    /// Headers that cannot be read; a page that is too large.
    pub(super) fn scan(file: &File, start: u64, length: u64) -> Result<Self, String> {
        let told = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "a page is cut short; the file is damaged".to_owned(),
            _ => error.to_string(),
        };
        let mut reader = BufReader::with_capacity(1 << 12, file);
        reader.seek(SeekFrom::Start(start)).map_err(told)?;
        let mut pages = Self::default();
        let mut left = length;
        while left > 0 {
            let mut header = Compact::new(&mut reader);
            let page = DataPage::read(&mut header).map_err(told)?;
            if page.unpacked > PAGE_BYTES {
                return Err(format!(
                    "a page of {} MiB, and at most {} MiB are unpacked; write the file again with smaller pages",
                    page.unpacked >> 20,
                    PAGE_BYTES >> 20
                ));
            }
            if page.dictionary > DICTIONARY_VALUES.min(page.unpacked.saturating_mul(8)) {
                return Err(format!(
                    "a dictionary of {} values in {} bytes, and at most {DICTIONARY_VALUES} are read; write the file again \
                     without dictionaries",
                    page.dictionary, page.unpacked
                ));
            }
            let taken = header.taken.saturating_add(page.packed);
            left = left.checked_sub(taken).ok_or_else(|| damaged().to_string())?;
            let packed = i64::try_from(page.packed).map_err(|_| damaged().to_string())?;
            reader.seek_relative(packed).map_err(told)?;
            pages.largest = pages.largest.max(page.unpacked);
            pages.bytes = pages.bytes.saturating_add(page.unpacked);
            pages.values = pages.values.saturating_add(page.values);
        }
        Ok(pages)
    }

    /// That the lists of `rows` rows are not made of run lengths alone.
    pub(super) fn check_lists(&self, rows: u64) -> Result<(), String> {
        let most =
            LIST_VALUES.saturating_add(self.bytes.saturating_mul(LIST_VALUES_A_BYTE)).saturating_add(rows);
        if self.values <= most {
            return Ok(());
        }
        Err(format!("lists of {} values in {} bytes, which would fill the memory", self.values, self.bytes))
    }
}

/// What a page's header says.
#[derive(Default)]
struct DataPage {
    unpacked: u64,
    packed: u64,
    values: u64,
    /// Values, where it is a dictionary's.
    dictionary: u64,
}

impl DataPage {
    fn read<R: Read>(header: &mut Compact<R>) -> std::io::Result<Self> {
        let mut page = Self::default();
        let mut last = 0;
        while let Some(field) = header.field(last)? {
            last = field.id;
            match (field.id, field.kind) {
                (2, CompactType::Integer) => page.unpacked = size(header.integer()?)?,
                (3, CompactType::Integer) => page.packed = size(header.integer()?)?,
                // DataPageHeader and DataPageHeaderV2 begin with their number of values.
                (5 | 8, CompactType::Struct) => page.values = first_number(header)?,
                (7, CompactType::Struct) => page.dictionary = first_number(header)?,
                (_, kind) => header.skip(kind)?,
            }
        }
        Ok(page)
    }
}

fn size(number: i64) -> std::io::Result<u64> {
    u64::try_from(number).map_err(|_| damaged())
}

/// Field 1 of a structure.
fn first_number<R: Read>(header: &mut Compact<R>) -> std::io::Result<u64> {
    let (mut last, mut number) = (0, 0);
    while let Some(field) = header.field(last)? {
        last = field.id;
        match (field.id, field.kind) {
            (1, CompactType::Integer) => number = size(header.integer()?)?,
            (_, kind) => header.skip(kind)?,
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_have_as_many_values_as_their_bytes_allow() {
        let pages = |bytes, values| Pages { largest: bytes, bytes, values };
        assert!(pages(100, 1 << 20).check_lists(10).is_ok());
        // One row whose list has 2^31 values in some bytes.
        assert!(pages(100, 1 << 31).check_lists(1).unwrap_err().contains("2147483648 values in 100 bytes"));
        // As many rows of one value each are no lists to speak of.
        assert!(pages(100, 1 << 31).check_lists(1 << 31).is_ok());
        assert!(pages(4 << 20, 1 << 31).check_lists(1).is_ok());
    }
}
