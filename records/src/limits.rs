//! Bounds on what a file of rows may hold, so that a small file cannot fill the memory: compression and Parquet's encodings
//! can turn a kilobyte into gigabytes. All of them lie far above any published data set.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::path::Path;

use crate::RecordError;
use crate::large_integer::Scanner;

/// Bytes of one row as JSON.
pub(crate) const ROW_BYTES: usize = 64 << 20;
/// The same of rows that this program writes: many candidates of many tokens.
pub(crate) const OWN_ROW_BYTES: usize = 1 << 30;
/// A parsed value takes some 32 bytes; a row may have one value for so many of its bytes.
const BYTES_OF_A_VALUE: usize = 8;
/// Columns of a Parquet file that is read or written.
pub const COLUMNS: usize = 10_000;
/// Bytes that a file of any size may hold when it is unpacked.
const UNPACKED_BYTES: u64 = 1 << 30;
/// Bytes that a file may hold for each of its own beyond that.
const UNPACKED_RATIO: u64 = 256;

/// What the rows of a file may take: each by itself, and together what is left.
pub(crate) struct Budget {
    row_bytes: usize,
    left: u64,
    most: u64,
}

impl Budget {
    /// Of a file of `bytes` whose rows have at most `row_bytes`.
    pub(crate) fn of(bytes: u64, row_bytes: usize) -> Self {
        let most = bytes.saturating_mul(UNPACKED_RATIO).saturating_add(UNPACKED_BYTES);
        Self { row_bytes, left: most, most }
    }

    /// Bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Takes a row's bytes; an error where the row or the file holds too much.
    pub(crate) fn take(&mut self, path: &Path, row: usize, bytes: usize) -> Result<(), RecordError> {
        if bytes > self.row_bytes {
            return Err(self.row_too_large(path, row));
        }
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(RecordError::Limit {
                path: path.to_path_buf(),
                row,
                problem: format!(
                    "is where the file has unpacked to more than {} MiB ({UNPACKED_RATIO} times its size and 1 GiB); \
                     split it, or take fewer rows of it",
                    self.most >> 20
                ),
            }),
        }
    }

    /// That a row is larger than it may be.
    pub(crate) fn row_too_large(&self, path: &Path, row: usize) -> RecordError {
        let problem = format!(
            "has more than {} MiB, or more than {} million values; leave the row out or shorten it",
            self.row_bytes >> 20,
            (self.row_bytes / BYTES_OF_A_VALUE) >> 20,
        );
        RecordError::Limit { path: path.to_path_buf(), row, problem }
    }

    /// Whether a text of JSON has more values than a row may have. Commas inside of texts count too.
    pub(crate) fn has_too_many_values(&self, json: &[u8]) -> bool {
        let most = self.row_bytes / BYTES_OF_A_VALUE;
        json.len() > most && separators(json) > most
    }
}

fn separators(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

/// What a row may still take while its file is parsed.
pub(crate) struct RowMeter {
    row_bytes: usize,
    bytes: Cell<usize>,
    values: Cell<usize>,
    integers: RefCell<Scanner>,
}

impl RowMeter {
    /// For the first row.
    pub(crate) fn new(row_bytes: usize) -> Self {
        let values = Cell::new(row_bytes / BYTES_OF_A_VALUE);
        Self { row_bytes, bytes: Cell::new(row_bytes), values, integers: RefCell::default() }
    }

    /// Bytes of the row that ends here; the next one begins. Large integers that nobody has asked for are forgotten.
    pub(crate) fn next_row(&self) -> usize {
        self.integers.borrow_mut().take();
        self.values.set(self.row_bytes / BYTES_OF_A_VALUE);
        self.row_bytes - self.bytes.replace(self.row_bytes)
    }

    /// Integers of more than 64 bits in the row that ends here, in their order.
    pub(crate) fn large_integers(&self) -> Vec<String> {
        self.integers.borrow_mut().take()
    }

    fn count(&self, bytes: &[u8]) -> Option<()> {
        self.bytes.set(self.bytes.get().checked_sub(bytes.len())?);
        self.values.set(self.values.get().checked_sub(separators(bytes))?);
        self.integers.borrow_mut().read(bytes);
        Some(())
    }
}

/// A reader that fails where a row takes more than its meter has.
pub(crate) struct Metered<'a, R> {
    pub(crate) reader: R,
    pub(crate) meter: &'a RowMeter,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        match self.meter.count(&buffer[..read]) {
            Some(()) => Ok(read),
            None => Err(io::Error::new(io::ErrorKind::FileTooLarge, "a row is too large")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_and_names_the_row() {
        let mut budget = Budget::of(0, ROW_BYTES);
        let path = Path::new("x.parquet");
        for row in 0..16 {
            budget.take(path, row, ROW_BYTES).unwrap();
        }
        let error = budget.take(path, 16, 1).unwrap_err();
        assert_eq!(crate::HasKind::kind(&error), crate::Kind::Input);
        assert!(error.to_string().starts_with("x.parquet: row 16 "), "{error}");
        let error = Budget::of(u64::MAX, ROW_BYTES).take(path, 3, ROW_BYTES + 1).unwrap_err();
        assert!(error.to_string().contains("row 3 has more than 64 MiB"), "{error}");
    }

    #[test]
    fn a_meter_keeps_nothing_of_a_row_that_has_ended() {
        let meter = RowMeter::new(1000);
        meter.count(b"123456789012345678901, ").unwrap();
        assert_eq!(meter.next_row(), 23);
        assert!(meter.large_integers().is_empty());
        meter.count(b"[123456789012345678901]").unwrap();
        assert_eq!(meter.large_integers(), ["123456789012345678901"]);
    }

    #[test]
    fn values_are_counted_in_long_rows_only() {
        let budget = Budget::of(0, 80);
        assert!(!budget.has_too_many_values(b"[0,0,0,0]"));
        assert!(budget.has_too_many_values(&[b','; 11]));
        assert!(!budget.has_too_many_values(&[b'a'; 70]));
    }
}
