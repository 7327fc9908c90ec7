//! The file of an offline run: LevelDB's log format with a header of W&B's own.
//!
//! ```text
//! ":W&B"  magic 0xbee1 u16  version u8                       7 bytes
//! blocks of 32 KiB, the header in the first: parts of records, each
//!   crc u32 (CRC-32 of kind and data)  length u16  kind u8   kind: 1 whole, 2 first, 3 middle, 4 last
//!   data
//! fewer than 7 bytes at a block's end are zeros
//! ```
//!
//! Source: <https://github.com/wandb/wandb>, wandb/sdk/internal/datastore.py (of 0.17) and core/pkg/leveldb.

use super::super::crc::crc32;

const BLOCK: usize = 32 * 1024;
const HEAD: usize = 7;

/// A file in memory, record by record.
#[derive(Debug)]
pub(super) struct RecordStore(Vec<u8>);

impl RecordStore {
    /// Without records.
    pub(super) fn new() -> Self {
        let mut bytes = b":W&B".to_vec();
        bytes.extend_from_slice(&0xbee1_u16.to_le_bytes());
        bytes.push(0);
        Self(bytes)
    }

    /// Appends a record.
    pub(super) fn append(&mut self, record: &[u8]) {
        let mut rest = record;
        let mut is_first = true;
        loop {
            let mut room = BLOCK - self.0.len() % BLOCK;
            if room < HEAD {
                self.0.resize(self.0.len() + room, 0);
                room = BLOCK;
            }
            let (part, after) = rest.split_at(rest.len().min(room - HEAD));
            let kind = match (is_first, after.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let summed: Vec<u8> = std::iter::once(kind).chain(part.iter().copied()).collect();
            self.0.extend_from_slice(&crc32(&summed).to_le_bytes());
            // At most a block.
            self.0.extend_from_slice(&(part.len() as u16).to_le_bytes());
            self.0.extend_from_slice(&summed);
            if after.is_empty() {
                return;
            }
            (rest, is_first) = (after, false);
        }
    }

    /// Its bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records, read back by the same description.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut at, mut records) = (7, Vec::<Vec<u8>>::new());
        while at < bytes.len() {
            if BLOCK - at % BLOCK < HEAD {
                at += BLOCK - at % BLOCK;
                continue;
            }
            let length = usize::from(u16::from_le_bytes(bytes[at + 4..at + 6].try_into().unwrap()));
            let sum = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(sum, crc32(&bytes[at + 6..at + HEAD + length]));
            let data = &bytes[at + HEAD..at + HEAD + length];
            match bytes[at + 6] {
                1 | 2 => records.push(data.to_vec()),
                _ => records.last_mut().unwrap().extend_from_slice(data),
            }
            at += HEAD + length;
            assert!(
                at % BLOCK == 0 || (at - 1) / BLOCK == (at - HEAD - length) / BLOCK,
                "over a block's end"
            );
        }
        records
    }

    #[test]
    fn records_of_every_length_around_a_block_read_back() {
        let mut store = RecordStore::new();
        let mut wanted = Vec::new();
        for length in [0, 1, 300, BLOCK - 400, 50, BLOCK, BLOCK - HEAD, 3 * BLOCK + 5, BLOCK - 60, 12, 9] {
            let record: Vec<u8> = (0..length).map(|place| (place * 7 + length) as u8).collect();
            store.append(&record);
            wanted.push(record);
        }
        assert_eq!(records(&store.into_bytes()), wanted);
    }

    #[test]
    fn the_header_is_w_and_bs() {
        assert_eq!(RecordStore::new().into_bytes(), [b':', b'W', b'&', b'B', 0xe1, 0xbe, 0]);
    }
}
