//! A row of columns as JSON, whatever types they have.
//!
//! Nulls in objects are left out, those in lists stand. Bytes that are UTF-8 are a text, and others hexadecimal digits, but
//! only in columns that are merely carried along; a map's keys are texts, whatever they were; a decimal of more digits than a
//! float holds is a text; times are texts ([`super::scalar`]).

use std::io::Write;

use half::f16;
use serde::Serialize;

use super::leaf::{Damaged, Leaf, StoredLeaf};
use super::node::{ColumnNode, ItemLevels, NodeKind};
use super::scalar::{self, Scalar, SecondPart};

/// Digits that a float holds whatever they are.
const EXACT_DIGITS: usize = 15;

/// Writes values of one row, up to a number of bytes.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) most: usize,
    /// Whether bytes that are no text are refused, because somebody reads the column.
    pub(super) text_wanted: bool,
    /// All columns of the file's that are read.
    pub(super) leaves: &'a mut [Leaf],
}

/// Why a value was not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// The row has more bytes than it may.
    TooLarge,
    /// The value cannot be a row's.
    Value(String),
    /// The columns contradict each other.
    Damaged,
}

impl From<Damaged> for Unwritten {
    fn from(Damaged: Damaged) -> Self {
        Self::Damaged
    }
}

type Written = Result<(), Unwritten>;

impl Writer<'_> {
    /// Writes and takes the next value of a field; false where it is null, and then nothing was written.
    pub(super) fn value(&mut self, node: &ColumnNode) -> Result<bool, Unwritten> {
        if self.definition(node)? < node.present {
            self.pass(node)?;
            return Ok(false);
        }
        self.check_room(0)?;
        match &node.kind {
            NodeKind::Scalar(kind) => return self.scalar(*kind, node),
            NodeKind::Object(fields) => self.object(fields)?,
            NodeKind::List(items, item) => self.list(*items, node, item)?,
            NodeKind::Map(items, entry) => self.map(*items, node, &entry.0, &entry.1)?,
        }
        Ok(true)
    }

    /// The definition level of the field's next entry, which all of its columns share where it is null or empty.
    fn definition(&self, node: &ColumnNode) -> Result<i16, Damaged> {
        self.leaves.get(node.leaves.start).ok_or(Damaged)?.definition()
    }

    /// Passes over an entry without a value, in each of the field's columns.
    fn pass(&mut self, node: &ColumnNode) -> Result<(), Damaged> {
        self.leaves.get_mut(node.leaves.clone()).ok_or(Damaged)?.iter_mut().try_for_each(Leaf::pass)
    }

    fn goes_on(&self, items: ItemLevels, node: &ColumnNode) -> bool {
        self.leaves.get(node.leaves.start).is_some_and(|leaf| leaf.goes_on(items.again))
    }

    /// `name: value` of each field that is not null, between braces.
    fn object(&mut self, fields: &[(String, ColumnNode)]) -> Written {
        self.out.push(b'{');
        let first = self.out.len();
        for (name, node) in fields {
            self.field(name, node, first)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// `name: value`, where the value is not null, of an object that began at `first`.
    pub(super) fn field(&mut self, name: &str, node: &ColumnNode, first: usize) -> Written {
        let start = self.out.len();
        if start > first {
            self.out.push(b',');
        }
        self.text(name)?;
        self.out.push(b':');
        if !self.value(node)? {
            self.out.truncate(start);
        }
        Ok(())
    }

    fn list(&mut self, items: ItemLevels, node: &ColumnNode, item: &ColumnNode) -> Written {
        self.out.push(b'[');
        if self.definition(node)? < items.present {
            self.pass(node)?;
        } else {
            loop {
                self.check_room(0)?;
                if !self.value(item)? {
                    self.null();
                }
                if !self.goes_on(items, node) {
                    break;
                }
                self.out.push(b',');
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, items: ItemLevels, node: &ColumnNode, key: &ColumnNode, value: &ColumnNode) -> Written {
        self.out.push(b'{');
        let first = self.out.len();
        if self.definition(node)? < items.present {
            self.pass(node)?;
        } else {
            loop {
                self.check_room(0)?;
                let start = self.out.len();
                if start > first {
                    self.out.push(b',');
                }
                self.key(key)?;
                self.out.push(b':');
                if !self.value(value)? {
                    self.out.truncate(start);
                }
                if !self.goes_on(items, node) {
                    break;
                }
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    /// A key of a map as a text.
    fn key(&mut self, key: &ColumnNode) -> Written {
        let start = self.out.len();
        if !self.value(key)? {
            self.null();
        }
        if self.out.get(start) != Some(&b'"') {
            let written = self.out.split_off(start);
            self.text(&String::from_utf8_lossy(&written))?;
        }
        Ok(())
    }

    fn scalar(&mut self, kind: Scalar, node: &ColumnNode) -> Result<bool, Unwritten> {
        let Self { out, most, text_wanted, leaves } = self;
        let leaf = leaves.get_mut(node.leaves.start).ok_or(Damaged)?;
        // The same with the column lent out, for values that are parts of it.
        let mut to = ScalarWriter { out, most: *most, text_wanted: *text_wanted };
        to.scalar(kind, leaf.take()?)
    }

    /// A text as JSON.
    pub(super) fn text(&mut self, text: &str) -> Written {
        self.scalar_writer().text(text)
    }

    fn check_room(&mut self, bytes: usize) -> Written {
        self.scalar_writer().check_room(bytes)
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn scalar_writer(&mut self) -> ScalarWriter<'_> {
        ScalarWriter { out: self.out, most: self.most, text_wanted: self.text_wanted }
    }
}

/// A [`Writer`] of one value.
struct ScalarWriter<'a> {
    out: &'a mut Vec<u8>,
    most: usize,
    text_wanted: bool,
}

impl ScalarWriter<'_> {
    /// False where what is stored stands for null.
    fn scalar(&mut self, kind: Scalar, value: StoredLeaf<'_>) -> Result<bool, Unwritten> {
        match (kind, value) {
            (Scalar::Null, _) => return Ok(false),
            (Scalar::Bool, StoredLeaf::Bool(value)) => self.json(&value),
            (Scalar::Signed, StoredLeaf::Int32(value)) => self.json(&value),
            (Scalar::Signed, StoredLeaf::Int64(value)) => self.json(&value),
            (Scalar::Unsigned, StoredLeaf::Int32(value)) => self.json(&value.cast_unsigned()),
            (Scalar::Unsigned, StoredLeaf::Int64(value)) => self.json(&value.cast_unsigned()),
            (Scalar::Float, StoredLeaf::Float(value)) => self.json(&value),
            (Scalar::Float, StoredLeaf::Double(value)) => self.json(&value),
            (Scalar::Half, StoredLeaf::Bytes(&[low, high])) => {
                self.json(&f16::from_le_bytes([low, high]).to_f32())
            }
            (Scalar::Text, StoredLeaf::Bytes(bytes)) => self.bytes(bytes, true),
            (Scalar::Bytes, StoredLeaf::Bytes(bytes)) => self.bytes(bytes, self.text_wanted),
            (Scalar::Fixed, StoredLeaf::Bytes(bytes)) if self.text_wanted => self.bytes(bytes, true),
            (Scalar::Fixed, StoredLeaf::Bytes(bytes)) => self.digits(bytes),
            (Scalar::Decimal(scale), StoredLeaf::Int32(value)) => self.decimal(&value.to_be_bytes(), scale),
            (Scalar::Decimal(scale), StoredLeaf::Int64(value)) => self.decimal(&value.to_be_bytes(), scale),
            (Scalar::Decimal(scale), StoredLeaf::Bytes(bytes)) => self.decimal(bytes, scale),
            (Scalar::Date, StoredLeaf::Int32(days)) => self.text(&scalar::date(days)),
            (Scalar::Time(unit), StoredLeaf::Int32(value)) => self.text(&scalar::time(unit, value.into())),
            (Scalar::Time(unit), StoredLeaf::Int64(value)) => self.text(&scalar::time(unit, value)),
            (Scalar::Midnight, StoredLeaf::Int32(days)) => {
                self.text(&scalar::moment(SecondPart::Whole, None, i64::from(days) * 86_400))
            }
            (Scalar::Moment(unit, east), StoredLeaf::Int64(value)) => {
                self.text(&scalar::moment(unit, east, value))
            }
            (Scalar::Int96(east), StoredLeaf::Int96(parts)) => self.text(&scalar::int96(parts, east)),
            (Scalar::Duration(unit), StoredLeaf::Int64(value)) => self.text(&scalar::duration(unit, value)),
            (Scalar::Duration(unit), StoredLeaf::Int32(value)) => {
                self.text(&scalar::duration(unit, value.into()))
            }
            (Scalar::Interval, StoredLeaf::Bytes(bytes)) => self.text(&scalar::interval(bytes)),
            _ => Err(Unwritten::Damaged),
        }?;
        Ok(true)
    }

    /// At most so many bytes of a decimal are read: the digits of more take too long, and nobody has them.
    fn decimal(&mut self, bytes: &[u8], scale: i32) -> Written {
        const BYTES: usize = 32;
        if bytes.len() > BYTES || !(0..=100).contains(&scale) {
            return Err(Unwritten::Value(format!(
                "a decimal of {} bytes and the scale {scale}, and at most {BYTES} bytes are read",
                bytes.len()
            )));
        }
        let text = scalar::decimal(bytes, scale);
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        let is_integer = text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
        if digits > EXACT_DIGITS && !is_integer {
            return self.text(&text);
        }
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Bytes that are a text, or `must` be one.
    fn bytes(&mut self, bytes: &[u8], must: bool) -> Written {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(error) if must => Err(Unwritten::Value(format!(
                "expected a text, found bytes that are not UTF-8 from byte {} on",
                error.valid_up_to()
            ))),
            Err(_) => self.digits(bytes),
        }
    }

    /// Bytes as hexadecimal digits.
    fn digits(&mut self, bytes: &[u8]) -> Written {
        self.check_room(bytes.len().saturating_mul(2))?;
        self.out.push(b'"');
        for byte in bytes {
            // Writing to a vector does not fail.
            let _ = write!(self.out, "{byte:02x}");
        }
        self.out.push(b'"');
        Ok(())
    }

    fn text(&mut self, text: &str) -> Written {
        self.check_room(text.len())?;
        self.json(text)
    }

    fn check_room(&self, bytes: usize) -> Written {
        if self.out.len().saturating_add(bytes) > self.most { Err(Unwritten::TooLarge) } else { Ok(()) }
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        serde_json::to_writer(&mut *self.out, value).map_err(|error| Unwritten::Value(error.to_string()))
    }
}
