use std::sync::Arc;

use arrow_array::builder::{Int32Builder, Int64Builder, MapBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, DictionaryArray, DurationSecondArray, Float32Array,
    Int32Array, ListArray, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::Field;

use super::*;

fn json_of(array: &dyn Array, row: usize, text_wanted: bool) -> Result<String, Unwritten> {
    let mut out = Vec::new();
    let written = Writer { out: &mut out, most: 1000, text_wanted }.value(array, row)?;
    Ok(if written { String::from_utf8(out).unwrap() } else { "absent".to_owned() })
}

#[track_caller]
fn is(array: impl Array, expected: &str) {
    assert_eq!(json_of(&array, 0, false).unwrap(), expected);
}

#[test]
fn every_type_of_a_column_is_a_value() {
    is(UInt64Array::from(vec![u64::MAX]), "18446744073709551615");
    is(Float32Array::from(vec![0.1]), "0.1");
    is(Float32Array::from(vec![f32::NAN]), "null");
    is(StringViewArray::from(vec!["a\"b"]), "\"a\\\"b\"");
    is(Date32Array::from(vec![0]), "\"1970-01-01\"");
    is(DurationSecondArray::from(vec![90]), "\"PT90S\"");
    is(Int32Array::from(vec![None]), "absent");
    let moment = || TimestampMicrosecondArray::from(vec![1_000_000]);
    is(moment(), "\"1970-01-01T00:00:01\"");
    for zone in ["UTC", "Europe/Berlin", "+00:00"] {
        is(moment().with_timezone(zone), "\"1970-01-01T00:00:01Z\"");
    }
    is(moment().with_timezone("+01:00"), "\"1970-01-01T01:00:01+01:00\"");
    let decimal = |value| Decimal128Array::from(vec![value]).with_precision_and_scale(38, 2).unwrap();
    is(decimal(150), "1.50");
    is(decimal(123_456_789_012_345_678_901), "\"1234567890123456789.01\"");
    let keys = Int32Array::from(vec![1]);
    is(DictionaryArray::new(keys, Arc::new(StringArray::from(vec!["a", "b"]))), "\"b\"");
}

#[test]
fn nested_values_leave_nulls_out_of_objects_only() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None])]);
    is(list, "[1,null]");
    let fields = vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, true)];
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![None])), Arc::new(Int32Array::from(vec![2]))];
    is(StructArray::new(fields.into(), columns, None), "{\"b\":2}");
    let mut map = MapBuilder::new(None, Int64Builder::new(), Int32Builder::new());
    map.keys().append_value(7);
    map.values().append_value(1);
    map.append(true).unwrap();
    is(map.finish(), "{\"7\":1}");
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_null();
    map.append(true).unwrap();
    is(map.finish(), "{}");
}

#[test]
fn bytes_are_text_or_an_error_where_text_is_read() {
    let text = BinaryArray::from_vec(vec![b"caf\xc3\xa9"]);
    assert_eq!(json_of(&text, 0, true).unwrap(), "\"café\"");
    let other = BinaryArray::from_vec(vec![b"a\xff"]);
    assert_eq!(json_of(&other, 0, false).unwrap(), "\"61ff\"");
    let Err(Unwritten::Value(problem)) = json_of(&other, 0, true) else { panic!("accepted") };
    assert!(problem.contains("not UTF-8 from byte 1 on"), "{problem}");
}

#[test]
fn a_row_ends_at_its_bound() {
    let long = StringArray::from(vec!["x".repeat(1001)]);
    assert_eq!(json_of(&long, 0, true), Err(Unwritten::TooLarge));
    let many = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(12_345); 500])]);
    assert_eq!(json_of(&many, 0, true), Err(Unwritten::TooLarge));
}
