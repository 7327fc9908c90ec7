//! The part of Thrift's compact protocol that measuring a Parquet file needs: numbers by field, everything else skipped.
//!
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

use std::io::{self, ErrorKind, Read};

/// Nesting that is followed; Parquet's own structures have some six levels.
const DEPTH: usize = 32;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompactType {
    Bool,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

/// A field of a structure: its number and kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) id: i16,
    pub(super) kind: CompactType,
}

/// Reads a structure from bytes; the bytes that it took are counted.
pub(super) struct Compact<R> {
    reader: R,
    pub(super) taken: u64,
}

impl<R: Read> Compact<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, taken: 0 }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        self.taken += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    /// A number in zigzag form.
    pub(super) fn integer(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field's header after the field `last`, or `None` at the structure's end.
    pub(super) fn field(&mut self, last: i16) -> io::Result<Option<Field>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        let id = match byte >> 4 {
            0 => i16::try_from(self.integer()?).map_err(|_| damaged())?,
            step => last.checked_add(i16::from(step)).ok_or_else(damaged)?,
        };
        Ok(Some(Field { id, kind: kind(byte & 0xf)? }))
    }

    /// The elements of a list: how many, and of which kind.
    pub(super) fn list(&mut self) -> io::Result<(u64, CompactType)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        Ok((count, kind(byte & 0xf)?))
    }

    /// Passes over a field's value.
    pub(super) fn skip(&mut self, kind: CompactType) -> io::Result<()> {
        self.skip_at(kind, DEPTH, false)
    }

    fn skip_at(&mut self, kind: CompactType, depth: usize, is_element: bool) -> io::Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(damaged)?;
        match kind {
            // A field's truth stands in its header, an element's in a byte.
            CompactType::Bool if !is_element => Ok(()),
            CompactType::Bool | CompactType::Byte => self.byte().map(drop),
            CompactType::Integer => self.varint().map(drop),
            CompactType::Double => self.pass(8),
            CompactType::Binary => {
                let length = self.varint()?;
                self.pass(length)
            }
            CompactType::List => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.skip_at(kind, depth, true))
            }
            CompactType::Map => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                let (key, value) = (self::kind(kinds >> 4)?, self::kind(kinds & 0xf)?);
                (0..count).try_for_each(|_| {
                    self.skip_at(key, depth, true)?;
                    self.skip_at(value, depth, true)
                })
            }
            CompactType::Struct => {
                let mut last = 0;
                while let Some(field) = self.field(last)? {
                    self.skip_at(field.kind, depth, false)?;
                    last = field.id;
                }
                Ok(())
            }
        }
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.reader).take(bytes), &mut io::sink())?;
        self.taken += passed;
        if passed == bytes { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

fn kind(code: u8) -> io::Result<CompactType> {
    Ok(match code {
        1 | 2 => CompactType::Bool,
        3 => CompactType::Byte,
        4..=6 => CompactType::Integer,
        7 => CompactType::Double,
        8 => CompactType::Binary,
        9 | 10 => CompactType::List,
        11 => CompactType::Map,
        12 => CompactType::Struct,
        _ => return Err(damaged()),
    })
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the file is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_skipped() {
        // 1: i32 = -3; 3: list of two structs {1: binary "ab"}; 4: true; 20: double; end.
        let mut bytes =
            vec![0x15, 5, 0x29, 0x2c, 0x18, 2, b'a', b'b', 0, 0x18, 2, b'a', b'b', 0, 0x11, 0x07, 40];
        bytes.extend([0; 8]);
        bytes.push(0);
        let mut compact = Compact::new(bytes.as_slice());
        let first = compact.field(0).unwrap().unwrap();
        assert_eq!((first.id, compact.integer().unwrap()), (1, -3));
        let mut last = first.id;
        let mut ids = Vec::new();
        while let Some(field) = compact.field(last).unwrap() {
            compact.skip(field.kind).unwrap();
            last = field.id;
            ids.push(field.id);
        }
        assert_eq!(ids, [3, 4, 20]);
        assert_eq!(compact.taken, bytes.len() as u64);
    }

    #[test]
    fn damage_is_an_error_and_ends() {
        // A list that says it has 2^60 elements, a binary that goes past the end, structs without end.
        let long = [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert!(Compact::new(&long[..]).skip(CompactType::List).is_err());
        assert!(Compact::new(&[0xff, 0x01, 1][..]).skip(CompactType::Binary).is_err());
        assert!(Compact::new(&[0x1c_u8; 1000][..]).skip(CompactType::Struct).is_err());
    }
}
