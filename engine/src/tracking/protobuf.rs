//! The few parts of Protocol Buffers' wire format that event files need: fields written, and fields walked over.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

/// A message that is being written, field by field.
#[derive(Debug, Default)]
pub(super) struct WireMessage(Vec<u8>);

impl WireMessage {
    /// `double`.
    pub(super) fn double(mut self, field: u32, value: f64) -> Self {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// `float`.
    pub(super) fn float(mut self, field: u32, value: f32) -> Self {
        self.tag(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// `int64`, `int32` and `bool` of numbers that are not negative.
    pub(super) fn whole(mut self, field: u32, value: u64) -> Self {
        self.tag(field, 0);
        self.varint(value);
        self
    }

    /// `string`, `bytes` and messages.
    pub(super) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// `string`.
    pub(super) fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    /// A message within this one.
    pub(super) fn message(self, field: u32, value: Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// Its bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The number that a message has in a field of type `int64`; 0, the default, where it has none. `None` of bytes that are no message.
pub(super) fn whole_in(bytes: &[u8], wanted: u32) -> Option<u64> {
    let mut rest = bytes;
    let mut found = 0;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if tag >> 3 == u64::from(wanted) {
                    found = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(found)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_bytes_of_the_specification() {
        // 150 is the specification's own example: 08 96 01; so is the text "testing" in field 2.
        assert_eq!(WireMessage::default().whole(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        let text = WireMessage::default().text(2, "testing").into_bytes();
        assert_eq!(text, [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        // 1.0 in binary64 is 3ff0…, in binary32 3f80…, little end first.
        assert_eq!(WireMessage::default().double(1, 1.0).into_bytes(), [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(WireMessage::default().float(2, 1.0).into_bytes(), [0x15, 0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn a_field_is_found_among_others_and_torn_bytes_have_none() {
        let message = |step| {
            WireMessage::default().double(1, 0.5).whole(2, step).text(3, "x").float(4, 1.0).into_bytes()
        };
        for step in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(whole_in(&message(step), 2), Some(step));
        }
        assert_eq!(whole_in(&message(3), 9), Some(0));
        for cut in [1, 9, 11, 13] {
            assert_eq!(whole_in(&message(300)[..cut], 2).filter(|_| cut != 9), None, "{cut}");
        }
    }
}
