//! TFRecord's framing: each record with its length before it, and a masked CRC-32C of both.
//!
//! ```text
//! length  u64 little-endian    masked CRC of these 8 bytes  u32
//! data    length bytes         masked CRC of the data       u32
//! ```
//!
//! Source: <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>

use crate::tracking::crc::crc32c;

/// Bytes before the data.
const HEAD: usize = 12;
/// Bytes after it.
const TAIL: usize = 4;

/// The mask keeps the CRC of data that holds CRCs itself from being degenerate.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A record with its frame.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(HEAD + data.len() + TAIL);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// The data of the record at the start of `bytes`; `None` where no whole one stands there.
pub(super) fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let length: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    let is_sum =
        |at: usize, of: &[u8]| bytes.get(at..at + 4) == Some(masked_crc(of).to_le_bytes().as_slice());
    if !is_sum(8, &length) {
        return None;
    }
    let end = HEAD.checked_add(usize::try_from(u64::from_le_bytes(length)).ok()?)?;
    let data = bytes.get(HEAD..end)?;
    is_sum(end, data).then_some(data)
}

/// Bytes of a record with its frame.
pub(super) fn framed_length(data: &[u8]) -> usize {
    HEAD + data.len() + TAIL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_masked() {
        // ((0xe3069283 >> 15) | (0xe3069283 << 17)) + 0xa282ead8 = 0x2507c60d + 0xa282ead8.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn a_record_reads_back_and_a_torn_or_changed_one_does_not() {
        let record = framed(b"some bytes");
        assert_eq!(record.len(), framed_length(b"some bytes"));
        assert_eq!(first_record(&record), Some(b"some bytes".as_slice()));
        let two = [record.clone(), framed(b"")].concat();
        assert_eq!(first_record(&two[record.len()..]), Some(b"".as_slice()));
        for cut in 0..record.len() {
            assert_eq!(first_record(&record[..cut]), None, "{cut}");
        }
        for place in 0..record.len() {
            let mut changed = record.clone();
            changed[place] ^= 4;
            assert_eq!(first_record(&changed), None, "{place}");
        }
    }
}
