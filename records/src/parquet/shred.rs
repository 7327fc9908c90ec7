//! A row's own serialization, straight into its columns' [`ColumnBuffer`]s: no table in between, so that a file of Parquet holds
//! what a line of JSON would.

mod parts;

use std::fmt;

use serde::ser::{self, Impossible, Serialize};

use self::parts::{ListPlace, ObjectPlace};
use super::buffer::{ColumnBuffer, Content, LeafValues};

/// Adds a row.
///
/// # Errors
/// A value that its column cannot hold.
pub(super) fn push_row<R: Serialize>(row: &R, buffer: &mut ColumnBuffer) -> Result<(), Unstorable> {
    row.serialize(FieldPlace { buffer, repetition: 0 })
}

/// Why a row is not stored.
#[derive(Debug)]
pub(super) struct Unstorable(String);

impl fmt::Display for Unstorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unstorable {}

impl ser::Error for Unstorable {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

type Pushed = Result<(), Unstorable>;

/// Where the next value goes.
struct FieldPlace<'a> {
    buffer: &'a mut ColumnBuffer,
    repetition: i16,
}

fn unfit(found: &str) -> Unstorable {
    Unstorable(format!("{found} in a column of other values"))
}

impl<'a> FieldPlace<'a> {
    fn null(self) -> Pushed {
        self.buffer.push_null(self.repetition);
        Ok(())
    }

    fn unsigned(self, value: u64) -> Pushed {
        match self.buffer.push_value(self.repetition) {
            Some(LeafValues::UInt32(values)) => {
                let value = u32::try_from(value).map_err(|_| unfit(&value.to_string()))?;
                values.push(value.cast_signed());
            }
            Some(LeafValues::UInt64(values)) => values.push(value.cast_signed()),
            Some(LeafValues::Int64(values)) => {
                values.push(i64::try_from(value).map_err(|_| unfit(&value.to_string()))?);
            }
            Some(LeafValues::Float64(values)) => values.push(value as f64),
            Some(LeafValues::Float32(values)) => values.push(value as f32),
            _ => return Err(unfit("a number")),
        }
        Ok(())
    }

    fn signed(self, value: i64) -> Pushed {
        if let Ok(value) = u64::try_from(value) {
            return self.unsigned(value);
        }
        match self.buffer.push_value(self.repetition) {
            Some(LeafValues::Int64(values)) => values.push(value),
            Some(LeafValues::Float64(values)) => values.push(value as f64),
            Some(LeafValues::Float32(values)) => values.push(value as f32),
            _ => return Err(unfit("a negative number")),
        }
        Ok(())
    }

    fn items(self) -> Result<ListPlace<'a>, Unstorable> {
        let Self { buffer, repetition } = self;
        // The levels of an empty list are noted at its end, and need the list itself.
        match buffer.content {
            Content::List(again, _) => Ok(ListPlace { list: buffer, first: repetition, again, any: false }),
            Content::Leaf(_) | Content::Fields(_) => Err(unfit("an array")),
        }
    }

    fn fields(self) -> Result<ObjectPlace<'a>, Unstorable> {
        match &mut self.buffer.content {
            Content::Fields(fields) => {
                fields.filled.fill(false);
                Ok(ObjectPlace { fields, repetition: self.repetition, next: 0, key: None })
            }
            Content::Leaf(_) | Content::List(..) => Err(unfit("an object")),
        }
    }
}

impl<'a> ser::Serializer for FieldPlace<'a> {
    type Ok = ();
    type Error = Unstorable;
    type SerializeSeq = ListPlace<'a>;
    type SerializeTuple = ListPlace<'a>;
    type SerializeTupleStruct = ListPlace<'a>;
    type SerializeTupleVariant = Impossible<(), Unstorable>;
    type SerializeMap = ObjectPlace<'a>;
    type SerializeStruct = ObjectPlace<'a>;
    type SerializeStructVariant = Impossible<(), Unstorable>;

    /// Typed columns: a message's fields of any kind are text here ([`crate::Message`]).
    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Pushed {
        match self.buffer.push_value(self.repetition) {
            Some(LeafValues::Bool(values)) => values.push(value),
            _ => return Err(unfit("true or false")),
        }
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Pushed {
        self.signed(value.into())
    }

    fn serialize_i16(self, value: i16) -> Pushed {
        self.signed(value.into())
    }

    fn serialize_i32(self, value: i32) -> Pushed {
        self.signed(value.into())
    }

    fn serialize_i64(self, value: i64) -> Pushed {
        self.signed(value)
    }

    fn serialize_u8(self, value: u8) -> Pushed {
        self.unsigned(value.into())
    }

    fn serialize_u16(self, value: u16) -> Pushed {
        self.unsigned(value.into())
    }

    fn serialize_u32(self, value: u32) -> Pushed {
        self.unsigned(value.into())
    }

    fn serialize_u64(self, value: u64) -> Pushed {
        self.unsigned(value)
    }

    fn serialize_f32(self, value: f32) -> Pushed {
        match self.buffer.push_value(self.repetition) {
            Some(LeafValues::Float32(values)) => values.push(value),
            Some(LeafValues::Float64(values)) => values.push(value.into()),
            _ => return Err(unfit("a number")),
        }
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Pushed {
        match self.buffer.push_value(self.repetition) {
            Some(LeafValues::Float64(values)) => values.push(value),
            Some(LeafValues::Float32(values)) => values.push(value as f32),
            _ => return Err(unfit("a number with a fraction")),
        }
        Ok(())
    }

    fn serialize_char(self, value: char) -> Pushed {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Pushed {
        match self.buffer.push_value(self.repetition) {
            Some(LeafValues::Text(text, ends)) => {
                text.extend_from_slice(value.as_bytes());
                ends.push(text.len());
            }
            _ => return Err(unfit("a string")),
        }
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Pushed {
        Err(unfit("bytes"))
    }

    fn serialize_none(self) -> Pushed {
        self.null()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Pushed {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Pushed {
        self.null()
    }

    fn serialize_unit_struct(self, _: &'static str) -> Pushed {
        self.null()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Pushed {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Pushed {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Pushed {
        Err(unfit(variant))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<ListPlace<'a>, Unstorable> {
        self.items()
    }

    fn serialize_tuple(self, _: usize) -> Result<ListPlace<'a>, Unstorable> {
        self.items()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<ListPlace<'a>, Unstorable> {
        self.items()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unstorable> {
        Err(unfit(variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<ObjectPlace<'a>, Unstorable> {
        self.fields()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<ObjectPlace<'a>, Unstorable> {
        self.fields()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unstorable> {
        Err(unfit(variant))
    }
}
