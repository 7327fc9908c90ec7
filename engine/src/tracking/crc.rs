//! The two 32-bit cyclic redundancy checks of the event files: CRC-32C (Castagnoli) and CRC-32 (ISO-HDLC, zlib's).

/// Reflected polynomial of CRC-32C.
const CASTAGNOLI: [u32; 256] = table(0x82f6_3b78);
/// Reflected polynomial of CRC-32.
const ISO_HDLC: [u32; 256] = table(0xedb8_8320);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ polynomial } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc(table: &[u32; 256], bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| table[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

/// CRC-32C.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc(&CASTAGNOLI, bytes)
}

/// CRC-32.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    crc(&ISO_HDLC, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_the_published_ones() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and ascending.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        // The check values of the catalogue of CRCs.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
