//! A value of an Arrow array as JSON, whatever type it has.
//!
//! As `arrow-json` writes it, with these differences: bytes that are UTF-8 are a text, and others hexadecimal digits only in
//! columns that are merely carried along; a map's keys are texts, whatever they were; a decimal of more digits than a float
//! holds is a text; a time with a zone is written in UTC, which needs no table of zones. Nulls in objects are left out.

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    RunEndIndexType, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrowPrimitiveType, RunArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, TimeUnit};
use serde::Serialize;

/// Digits that a float holds whatever they are.
const EXACT_DIGITS: usize = 15;

/// Writes values of one row, up to a number of bytes.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) most: usize,
    /// Whether bytes that are no text are refused, because somebody reads the column.
    pub(super) text_wanted: bool,
}

/// Why a value was not written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// The row has more bytes than it may.
    TooLarge,
    /// The value cannot be a row's.
    Value(String),
}

type Written = Result<(), Unwritten>;

impl Writer<'_> {
    /// Writes the value at `row`; false where it is null, and then nothing was written.
    pub(super) fn value(&mut self, array: &dyn Array, row: usize) -> Result<bool, Unwritten> {
        if array.is_null(row) {
            return Ok(false);
        }
        if self.out.len() > self.most {
            return Err(Unwritten::TooLarge);
        }
        match array.data_type() {
            DataType::Null => return Ok(false),
            DataType::Boolean => self.json(&array.as_boolean().value(row)),
            DataType::Int8 => self.json(&native::<Int8Type>(array, row)),
            DataType::Int16 => self.json(&native::<Int16Type>(array, row)),
            DataType::Int32 => self.json(&native::<Int32Type>(array, row)),
            DataType::Int64 => self.json(&native::<Int64Type>(array, row)),
            DataType::UInt8 => self.json(&native::<UInt8Type>(array, row)),
            DataType::UInt16 => self.json(&native::<UInt16Type>(array, row)),
            DataType::UInt32 => self.json(&native::<UInt32Type>(array, row)),
            DataType::UInt64 => self.json(&native::<UInt64Type>(array, row)),
            DataType::Float16 => self.json(&native::<Float16Type>(array, row).to_f32()),
            DataType::Float32 => self.json(&native::<Float32Type>(array, row)),
            DataType::Float64 => self.json(&native::<Float64Type>(array, row)),
            DataType::Utf8 => self.text(array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => self.text(array.as_string::<i64>().value(row)),
            DataType::Utf8View => self.text(array.as_string_view().value(row)),
            DataType::Binary => self.bytes(array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => self.bytes(array.as_binary::<i64>().value(row)),
            DataType::BinaryView => self.bytes(array.as_binary_view().value(row)),
            // Of a fixed length are hashes and wide integers, whose bytes are text by chance.
            DataType::FixedSizeBinary(_) if self.text_wanted => {
                self.bytes(array.as_fixed_size_binary().value(row))
            }
            DataType::FixedSizeBinary(_) => self.digits(array.as_fixed_size_binary().value(row)),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let ends = list.value_offsets();
                self.list(list.values(), ends[row] as usize, ends[row + 1] as usize)
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                let ends = list.value_offsets();
                self.list(list.values(), ends[row] as usize, ends[row + 1] as usize)
            }
            DataType::ListView(_) => {
                let list = array.as_list_view::<i32>();
                let start = list.value_offset(row) as usize;
                self.list(list.values(), start, start + list.value_size(row) as usize)
            }
            DataType::LargeListView(_) => {
                let list = array.as_list_view::<i64>();
                let start = list.value_offset(row) as usize;
                self.list(list.values(), start, start + list.value_size(row) as usize)
            }
            DataType::FixedSizeList(_, _) => {
                let list = array.as_fixed_size_list();
                let start = list.value_offset(row) as usize;
                self.list(list.values(), start, start + list.value_length() as usize)
            }
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns();
                self.object(fields.iter().map(|field| field.name().as_str()).zip(columns), row)
            }
            DataType::Map(_, _) => self.map(array, row),
            DataType::Dictionary(key, _) => return self.of_dictionary(key, array, row),
            DataType::RunEndEncoded(ends, _) => return self.of_runs(ends.data_type(), array, row),
            DataType::Decimal32(_, _)
            | DataType::Decimal64(_, _)
            | DataType::Decimal128(_, _)
            | DataType::Decimal256(_, _) => self.decimal(array, row),
            DataType::Timestamp(unit, Some(zone)) if !is_offset(zone) => {
                return self.in_utc(*unit, array, row);
            }
            kind if kind.is_temporal() => {
                let text = display(array, row)?;
                self.text(&text)
            }
            other => Err(Unwritten::Value(format!("values of the type {other}, which no row can have"))),
        }?;
        Ok(true)
    }

    /// `name: value` of each column that is not null, between braces.
    pub(super) fn object<'a>(
        &mut self,
        columns: impl Iterator<Item = (&'a str, &'a arrow_array::ArrayRef)>,
        row: usize,
    ) -> Written {
        self.out.push(b'{');
        let first = self.out.len();
        for (name, column) in columns {
            let start = self.out.len();
            if start > first {
                self.out.push(b',');
            }
            self.text(name)?;
            self.out.push(b':');
            if !self.value(column, row)? {
                self.out.truncate(start);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn list(&mut self, items: &dyn Array, start: usize, end: usize) -> Written {
        self.out.push(b'[');
        for item in start..end {
            if item > start {
                self.out.push(b',');
            }
            if !self.value(items, item)? {
                self.null();
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn map(&mut self, array: &dyn Array, row: usize) -> Written {
        let map = array.as_map();
        let (keys, values) = (map.keys(), map.values());
        let ends = map.value_offsets();
        self.out.push(b'{');
        let first = self.out.len();
        for entry in ends[row] as usize..ends[row + 1] as usize {
            let start = self.out.len();
            if start > first {
                self.out.push(b',');
            }
            let key = self.out.len();
            if !self.value(keys, entry)? {
                self.null();
            }
            if self.out.get(key) != Some(&b'"') {
                let written = self.out.split_off(key);
                self.text(&String::from_utf8_lossy(&written))?;
            }
            self.out.push(b':');
            if !self.value(values, entry)? {
                self.out.truncate(start);
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn of_dictionary(&mut self, key: &DataType, array: &dyn Array, row: usize) -> Result<bool, Unwritten> {
        fn place<K: ArrowDictionaryKeyType>(array: &dyn Array, row: usize) -> Option<usize> {
            array.as_dictionary::<K>().key(row)
        }
        let place = match key {
            DataType::Int8 => place::<Int8Type>(array, row),
            DataType::Int16 => place::<Int16Type>(array, row),
            DataType::Int32 => place::<Int32Type>(array, row),
            DataType::Int64 => place::<Int64Type>(array, row),
            DataType::UInt8 => place::<UInt8Type>(array, row),
            DataType::UInt16 => place::<UInt16Type>(array, row),
            DataType::UInt32 => place::<UInt32Type>(array, row),
            DataType::UInt64 => place::<UInt64Type>(array, row),
            _ => None,
        };
        match place {
            Some(place) => self.value(array.as_any_dictionary().values().as_ref(), place),
            None => Ok(false),
        }
    }

    fn of_runs(&mut self, ends: &DataType, array: &dyn Array, row: usize) -> Result<bool, Unwritten> {
        fn run<E: RunEndIndexType>(array: &dyn Array, row: usize) -> Option<(&arrow_array::ArrayRef, usize)> {
            let runs = array.as_any().downcast_ref::<RunArray<E>>()?;
            Some((runs.values(), runs.get_physical_index(row)))
        }
        let found = match ends {
            DataType::Int16 => run::<Int16Type>(array, row),
            DataType::Int32 => run::<Int32Type>(array, row),
            DataType::Int64 => run::<Int64Type>(array, row),
            _ => None,
        };
        match found {
            Some((values, place)) => self.value(values, place),
            None => Ok(false),
        }
    }

    fn decimal(&mut self, array: &dyn Array, row: usize) -> Written {
        let text = display(array, row)?;
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        let is_integer = text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
        if digits > EXACT_DIGITS && !is_integer {
            return self.text(&text);
        }
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// A time in a zone that needs a table of zones: the moment is kept, and written in UTC.
    fn in_utc(&mut self, unit: TimeUnit, array: &dyn Array, row: usize) -> Result<bool, Unwritten> {
        fn at<T: arrow_array::types::ArrowTimestampType>(
            array: &dyn Array,
            row: usize,
        ) -> arrow_array::ArrayRef {
            let one = array.as_primitive::<T>().slice(row, 1);
            std::sync::Arc::new(one.with_timezone("+00:00"))
        }
        let moment = match unit {
            TimeUnit::Second => at::<TimestampSecondType>(array, row),
            TimeUnit::Millisecond => at::<TimestampMillisecondType>(array, row),
            TimeUnit::Microsecond => at::<TimestampMicrosecondType>(array, row),
            TimeUnit::Nanosecond => at::<TimestampNanosecondType>(array, row),
        };
        self.value(&moment, 0)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Written {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(error) if self.text_wanted => Err(Unwritten::Value(format!(
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

    /// A text as JSON.
    pub(super) fn text(&mut self, text: &str) -> Written {
        self.check_room(text.len())?;
        self.json(text)
    }

    fn check_room(&self, bytes: usize) -> Written {
        if self.out.len().saturating_add(bytes) > self.most { Err(Unwritten::TooLarge) } else { Ok(()) }
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        serde_json::to_writer(&mut *self.out, value).map_err(|error| Unwritten::Value(error.to_string()))
    }
}

fn native<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

fn display(array: &dyn Array, row: usize) -> Result<String, Unwritten> {
    let wrong = |error: arrow_schema::ArrowError| Unwritten::Value(error.to_string());
    let options = FormatOptions::new().with_display_error(true);
    Ok(ArrayFormatter::try_new(array, &options).map_err(wrong)?.value(row).to_string())
}

/// `+01:00` and the like, which need no table.
fn is_offset(zone: &str) -> bool {
    let bytes = zone.as_bytes();
    matches!(bytes.first(), Some(b'+' | b'-'))
        && bytes[1..].iter().all(|byte| byte.is_ascii_digit() || *byte == b':')
}

#[cfg(test)]
mod tests;
