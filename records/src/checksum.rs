//! A checksum inside the Parquet files that selfplay writes: one flipped bit anywhere in the file is found.
//!
//! The `parquet` crate writes no page checksums (it verifies those of others). So the file's own key-value metadata holds the
//! SHA-256 of the whole file, taken while the digits of that value are zeros:
//!
//! ```text
//! PAR1 pages … footer( … "selfplay.sha256" = 64 digits, "selfplay.checksum" = "sha256 …" ) length PAR1
//! ```
//!
//! The second key says what the first one is, and that a file whose first key was hit had one. Files without either key
//! are others', or of an earlier selfplay, and are read as they are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use parquet::file::metadata::KeyValue;
use sha2::{Digest, Sha256};

use crate::RecordError;

const KEY: &str = "selfplay.sha256";
const MARK: &str = "selfplay.checksum";
const MEANING: &str = "sha256 of the whole file, its own digits as zeros";
/// What stands between the two: the next field is a text, of as many bytes as [`MEANING`] has.
const BETWEEN_MARK: &str = "\x18\x31";
const DIGITS: usize = 64;
/// What stands between key and value in the footer: the next field is a text, of 64 bytes.
const BETWEEN: [u8; 2] = [0x18, DIGITS as u8];
/// Length of the footer, then `PAR1`.
const TAIL: usize = 8;
/// The keys are looked for so far from the end at least: the footer's length may be what was hit.
const LEAST_SEARCHED: u64 = 64 << 10;

/// The metadata with which a file is to be written before it is sealed.
pub(crate) fn placeholder() -> Vec<KeyValue> {
    vec![
        KeyValue { key: KEY.to_owned(), value: Some("0".repeat(DIGITS)) },
        KeyValue { key: MARK.to_owned(), value: Some(MEANING.to_owned()) },
    ]
}

/// Puts the checksum of a whole file into its placeholder; false where the file has none.
pub(crate) fn seal(file: &mut [u8]) -> bool {
    let Some(place) = digits_in(file) else { return false };
    let digits = hex(Sha256::digest(&*file).as_slice());
    file[place..place + DIGITS].copy_from_slice(digits.as_bytes());
    true
}

/// That a file which has a checksum is what was written. The file's place is its beginning afterwards.
pub(crate) fn verify(path: &Path, file: &mut File) -> Result<(), RecordError> {
    let read = |source| RecordError::read(path, source);
    let whole = is_whole(file).map_err(read)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    if whole {
        return Ok(());
    }
    let problem = "it is damaged: its bytes are not those that were written (sha256); remove it, so that it is made again";
    Err(RecordError::Parquet { path: path.to_path_buf(), problem: problem.to_owned() })
}

fn is_whole(file: &mut File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    if length < TAIL as u64 {
        return Ok(true);
    }
    let mut tail = [0; TAIL];
    file.seek(SeekFrom::Start(length - TAIL as u64))?;
    file.read_exact(&mut tail)?;
    let start = (length - TAIL as u64).saturating_sub(footer_length(&tail).max(LEAST_SEARCHED));
    file.seek(SeekFrom::Start(start))?;
    let mut footer = Vec::new();
    file.take(length - start).read_to_end(&mut footer)?;
    let Some(place) = digits_in(&footer) else {
        // Where the other key is there, this one was hit.
        return Ok(find(&footer, &[MARK, MEANING].join(BETWEEN_MARK).into_bytes()).is_none());
    };
    let told = footer[place..place + DIGITS].to_vec();
    footer[place..place + DIGITS].fill(b'0');
    let mut hasher = Sha256::new();
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = start;
    while left > 0 {
        let part = &mut buffer[..(left.min(1 << 20)) as usize];
        file.read_exact(part)?;
        hasher.update(&*part);
        left -= part.len() as u64;
    }
    hasher.update(&footer);
    Ok(hex(hasher.finalize().as_slice()).as_bytes() == told)
}

fn footer_length(tail: &[u8]) -> u64 {
    tail.first_chunk::<4>().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
}

/// Where the checksum's digits begin in a footer, or in a file that ends with one.
fn digits_in(footer: &[u8]) -> Option<usize> {
    let key = [KEY.as_bytes(), &BETWEEN].concat();
    let place = find(footer, &key)? + key.len();
    (footer.len() >= place + DIGITS).then_some(place)
}

/// Where `part` begins last in `bytes`.
fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).rposition(|window| window == part)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Seek, SeekFrom, Write};

    use crate::{HasKind, Kind, Preference, read_rows, write_rows};

    fn rows() -> Vec<Preference> {
        let row = |id: &str| Preference {
            prompt_id: id.to_owned(),
            scores: vec![vec![0.0, 0.25], vec![-0.25, 0.0]],
            probabilities: vec![vec![0.5, 0.6], vec![0.4, 0.5]],
            mean_scores: vec![0.1, -0.1],
            mean_probabilities: vec![0.55, 0.45],
            ..Preference::default()
        };
        (0..40).map(|number| row(&number.to_string())).collect()
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write_rows(&path, &rows()).unwrap();
        assert_eq!(read_rows::<Preference>(&path).unwrap(), rows());
        let whole = std::fs::read(&path).unwrap();
        let flip = |byte: usize, bit: u8| {
            let put = |value: u8| {
                let mut file = OpenOptions::new().write(true).open(&path).unwrap();
                file.seek(SeekFrom::Start(byte as u64)).unwrap();
                file.write_all(&[value]).unwrap();
            };
            put(whole[byte] ^ (1 << bit));
            let read = read_rows::<Preference>(&path);
            put(whole[byte]);
            read
        };
        // Every byte, and every bit of the end, where lengths and keys stand.
        let ends = (whole.len() - 700..whole.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
        for (byte, bit) in (0..whole.len()).map(|byte| (byte, (byte % 8) as u8)).chain(ends) {
            let error = flip(byte, bit).expect_err(&format!("bit {bit} of byte {byte} of {}", whole.len()));
            assert!(error.kind() == Kind::Input && error.to_string().contains("a.parquet"), "{error}");
        }
    }

    #[test]
    fn the_same_rows_are_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        write_rows(&one, &rows()).unwrap();
        write_rows(&other, &rows()).unwrap();
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    }
}
