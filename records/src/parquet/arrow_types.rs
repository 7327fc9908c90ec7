//! The Arrow types that pyarrow and others keep beside a Parquet schema, as far as they tell more about values than it does:
//! durations, dates with a time, and offsets from UTC.
//!
//! They stand in the key `ARROW:schema`: a message of Arrow's stream format in base64, which is a table of FlatBuffers
//! (<https://github.com/apache/arrow/blob/main/format/Schema.fbs>). What cannot be read there is passed over: other programs
//! keep types there that nobody else knows.

use ::parquet::file::metadata::FileMetaData;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::node::{ColumnNode, NodeKind};
use super::scalar::{Scalar, SecondPart};
use crate::limits::COLUMNS;

const KEY: &str = "ARROW:schema";
/// Nesting that is followed.
const DEPTH: usize = 64;
/// Fields that are read: many can stand for one place of a small file.
const FIELDS: usize = 8 * COLUMNS;
/// Bytes of a name that is read.
const NAME_BYTES: usize = 1024;

/// A field's type, where it matters, and its inner fields by name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ArrowField {
    name: String,
    hint: Option<Hint>,
    fields: Vec<ArrowField>,
}

/// What a type tells.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hint {
    Duration(SecondPart),
    /// A date that is stored as days, and is a moment.
    DateWithTime,
    /// Seconds east of UTC; none where it is the zone's to tell.
    Zone(Option<i32>),
}

/// The types that a file's metadata keeps, one for each field of the rows; none where there are none, or they are damaged.
pub(super) fn of_file(metadata: &FileMetaData) -> Vec<ArrowField> {
    let text = metadata
        .key_value_metadata()
        .and_then(|pairs| pairs.iter().find(|pair| pair.key == KEY))
        .and_then(|pair| pair.value.as_deref());
    let bytes = text.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    schema(&bytes).unwrap_or_default()
}

impl ColumnNode {
    /// The same with what the Arrow type tells.
    pub(super) fn refine(&mut self, arrow: &ArrowField) {
        match &mut self.kind {
            NodeKind::Scalar(kind) => match (*kind, arrow.hint) {
                (Scalar::Signed, Some(Hint::Duration(unit))) => *kind = Scalar::Duration(unit),
                (Scalar::Date, Some(Hint::DateWithTime)) => *kind = Scalar::Midnight,
                (Scalar::Moment(unit, Some(_)), Some(Hint::Zone(Some(offset)))) => {
                    *kind = Scalar::Moment(unit, Some(offset));
                }
                (Scalar::Int96(None), Some(Hint::Zone(offset))) => {
                    *kind = Scalar::Int96(Some(offset.unwrap_or(0)));
                }
                _ => {}
            },
            NodeKind::Object(fields) => {
                for (name, node) in fields {
                    if let Some(field) = arrow.fields.iter().find(|field| field.name == *name) {
                        node.refine(field);
                    }
                }
            }
            NodeKind::List(_, item) => {
                if let [field] = arrow.fields.as_slice() {
                    item.refine(field);
                }
            }
            NodeKind::Map(_, entry) => {
                if let [entries] = arrow.fields.as_slice()
                    && let [key, value] = entries.fields.as_slice()
                {
                    entry.0.refine(key);
                    entry.1.refine(value);
                }
            }
        }
    }
}

/// The fields of a schema's message.
fn schema(message: &[u8]) -> Option<Vec<ArrowField>> {
    // Its length, after a mark in all but the oldest.
    let message = match message.strip_prefix(&[0xff; 4]) {
        Some(rest) => rest.get(4..)?,
        None => message.get(4..)?,
    };
    let root = Table::at(message, Offset(0).follow(message)?)?;
    let schema = root.table(2)?;
    let mut left = FIELDS;
    let fields = schema.tables(1, &mut left)?;
    fields.iter().map(|field| ArrowField::of(field, DEPTH, &mut left)).collect()
}

impl ArrowField {
    /// The field's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn of(field: &Table<'_>, depth: usize, left: &mut usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        let name = field.text(0).filter(|name| name.len() <= NAME_BYTES).unwrap_or_default().to_owned();
        let kind = field.table(3);
        let unit =
            |field: usize, default: u8| kind.as_ref().and_then(|kind| kind.byte(field)).unwrap_or(default);
        let hint = match field.byte(2) {
            // Days or milliseconds; the latter unless it says.
            Some(8) if unit(0, 1) == 1 => Some(Hint::DateWithTime),
            Some(10) => kind.as_ref().and_then(|kind| kind.text(1)).map(|zone| Hint::Zone(offset(zone))),
            Some(18) => Some(Hint::Duration(match unit(0, 1) {
                0 => SecondPart::Whole,
                1 => SecondPart::Milli,
                2 => SecondPart::Micro,
                _ => SecondPart::Nano,
            })),
            _ => None,
        };
        let fields = field.tables(5, left).unwrap_or_default();
        let fields = fields.iter().map(|field| Self::of(field, depth, left)).collect::<Option<_>>()?;
        Some(Self { name, hint, fields })
    }
}

/// The seconds of `+01:00`, `-0530` and `+02`, and of no other zone: these need no table.
fn offset(zone: &str) -> Option<i32> {
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits: String = rest.chars().filter(|&sign| sign != ':').collect();
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let hours: i32 = hours.parse().ok()?;
    let minutes: i32 = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// A place that holds the distance to another one.
#[derive(Clone, Copy)]
struct Offset(usize);

impl Offset {
    fn follow(self, bytes: &[u8]) -> Option<usize> {
        let distance = u32::from_le_bytes(*bytes.get(self.0..)?.first_chunk()?);
        self.0.checked_add(distance as usize)
    }
}

/// A table of FlatBuffers: its fields lie where its list of places says.
struct Table<'a> {
    bytes: &'a [u8],
    start: usize,
    /// The places of the fields from the table's start, two bytes each; 0: left out.
    places: &'a [u8],
}

impl<'a> Table<'a> {
    fn at(bytes: &'a [u8], start: usize) -> Option<Self> {
        let back = i32::from_le_bytes(*bytes.get(start..)?.first_chunk()?);
        let list = i64::try_from(start).ok()?.checked_sub(back.into())?;
        let list = bytes.get(usize::try_from(list).ok()?..)?;
        let length = usize::from(u16::from_le_bytes(*list.first_chunk()?));
        Some(Self { bytes, start, places: list.get(4..length)? })
    }

    fn place(&self, field: usize) -> Option<usize> {
        let place = u16::from_le_bytes(*self.places.get(2 * field..)?.first_chunk()?);
        (place > 0).then(|| self.start + usize::from(place))
    }

    fn byte(&self, field: usize) -> Option<u8> {
        self.bytes.get(self.place(field)?).copied()
    }

    fn table(&self, field: usize) -> Option<Self> {
        Self::at(self.bytes, Offset(self.place(field)?).follow(self.bytes)?)
    }

    /// What a vector of so many things begins with: their number, and where they are.
    fn vector(&self, field: usize) -> Option<(usize, usize)> {
        let place = Offset(self.place(field)?).follow(self.bytes)?;
        let count = u32::from_le_bytes(*self.bytes.get(place..)?.first_chunk()?) as usize;
        (count <= self.bytes.len()).then_some((count, place + 4))
    }

    fn text(&self, field: usize) -> Option<&'a str> {
        let (length, start) = self.vector(field)?;
        std::str::from_utf8(self.bytes.get(start..start + length)?).ok()
    }

    /// The tables of a vector, which are taken off those that may be read.
    fn tables(&self, field: usize, left: &mut usize) -> Option<Vec<Self>> {
        let (count, start) = self.vector(field)?;
        *left = left.checked_sub(count)?;
        (0..count).map(|item| Self::at(self.bytes, Offset(start + 4 * item).follow(self.bytes)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_told_from_names() {
        assert_eq!(offset("+01:00"), Some(3600));
        assert_eq!(offset("-0530"), Some(-19_800));
        assert_eq!(offset("+02"), Some(7200));
        for name in ["UTC", "Europe/Berlin", "", "+", "+1", "+25:00", "+01:99", "+é"] {
            assert_eq!(offset(name), None, "{name}");
        }
    }

    #[test]
    fn damage_is_passed_over() {
        for length in 0..64 {
            for byte in [0, 1, 4, 8, 0x7f, 0xff] {
                let _ = schema(&vec![byte; length]);
            }
        }
    }
}
