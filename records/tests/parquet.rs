//! Files of Parquet that pyarrow wrote (`parquet/make.py`), as the rows in the JSON Lines beside each; and rows of ours,
//! through Parquet and back.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use selfplay_records::{
    HasKind, Kind, OnBadPrompt, TokenRow, read_columns, read_prompts, read_values, write_rows,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn given(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(name)
}

#[test]
fn every_type_that_pyarrow_writes_is_read() {
    let files = [
        "types",
        "types_v2",
        "types_bare",
        "types_decimal_integers",
        "types_int96",
        "arrow_types",
        "nested",
        "nested_v2",
        "required",
        "prompts",
    ];
    for name in files {
        let text = fs::read_to_string(given(&format!("{name}.jsonl"))).unwrap();
        let expected: Vec<Map<String, Value>> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let rows = read_values(&given(&format!("{name}.parquet"))).unwrap();
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (row, expected) in rows.iter().zip(&expected) {
            for (column, value) in expected {
                assert_eq!(row.get(column), Some(value), "{name}: {column}");
            }
            assert_eq!(row.len(), expected.len(), "{name}: {row:?}");
        }
    }
}

#[test]
fn every_encoding_is_read_across_pages_and_row_groups() {
    let rows = read_values(&given("encodings.parquet")).unwrap();
    assert_eq!(rows.len(), 200);
    for (n, row) in rows.into_iter().enumerate() {
        let fixed: String = format!("{n:04}").bytes().map(|byte| format!("{byte:02x}")).collect();
        let expected = json!({
            "int": n, "long": 3 * n, "float": n as f64 / 4.0, "prefixed": format!("prefix{n}"),
            "text": format!("t{}", n * n), "fixed": fixed, "even": n % 2 == 0,
        });
        assert_eq!(Value::Object(row), expected);
    }
}

#[test]
fn bytes_are_text_or_an_error_where_text_is_read() {
    let path = given("types.parquet");
    // Carried along, they are digits.
    assert_eq!(read_values(&path).unwrap()[2]["bytes"], json!("61ff"));
    let error = read_columns(&path, &["bytes", "i8"]).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("row 2: field \"bytes\": expected a text"), "{error}");
    assert!(error.to_string().contains("not UTF-8 from byte 1 on"), "{error}");
    assert_eq!(read_columns(&path, &["fixed"]).unwrap_err().kind(), Kind::Input);
}

#[test]
fn a_row_that_is_refused_does_not_shift_those_after_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let row = |text: &str, list: Value| TokenRow {
        text: Some(text.to_owned()),
        extra: Map::from_iter([("instruction".to_owned(), list)]),
        ..TokenRow::default()
    };
    let lists = [json!(["a", "b"]), json!([]), json!(["c"]), json!(null), json!(["d", null, "e"])];
    let rows: Vec<TokenRow> = lists.iter().map(|list| row("x", list.clone())).collect();
    write_rows(&path, &rows).unwrap();
    let back = read_values(&path).unwrap();
    for (row, list) in back.iter().zip(&lists) {
        assert_eq!(row.get("instruction").unwrap_or(&Value::Null), list);
    }
    // No prompt is a list: all are refused, each by its number.
    let error = read_prompts(&path, "instruction", OnBadPrompt::Error).unwrap_err();
    assert!(error.to_string().contains("row 0"), "{error}");
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("damaged.parquet");
    // Thousands of writes that need not survive a crash.
    selfplay_records::atomic::write_bytes(&path, b"").unwrap();
    let open = || fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    let put = |bytes: &[u8]| open().write_all(bytes).unwrap();
    for name in ["nested.parquet", "nested_v2.parquet", "encodings.parquet", "arrow_types.parquet"] {
        let bytes = fs::read(given(name)).unwrap();
        for at in (0..bytes.len()).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xFF;
            put(&damaged);
            let _ = read_values(&path);
        }
        for at in (0..bytes.len()).step_by(7) {
            put(&bytes[..at]);
            assert!(read_values(&path).is_err(), "{name} cut at {at}");
        }
    }
}

/// JSON of one type all through, as far as a depth: what a column can hold as it is, or what has to be text.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(|number: f64| json!(number)),
        "[a-cé\"\\n]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Nulls in objects are left out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        Value::Object(fields) => {
            let some = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(some.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}

/// The same, or the same number.
fn agree(back: &Value, value: &Value) -> bool {
    match (back, value) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agree(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && b.iter().all(|(name, b)| a.get(name).is_some_and(|a| agree(a, b)))
        }
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_row_carries_comes_back(values in proptest::collection::vec(json_value(), 1..6)) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.parquet");
        let row = |value: &Value| TokenRow {
            text: Some("a".to_owned()),
            ids: Some(vec![1, u32::MAX]),
            extra: Map::from_iter([("x".to_owned(), value.clone())]),
            ..TokenRow::default()
        };
        let rows: Vec<TokenRow> = values.iter().map(row).collect();
        write_rows(&path, &rows).unwrap();
        let back = read_values(&path).unwrap();
        prop_assert_eq!(back.len(), values.len());
        for (row, value) in back.iter().zip(&values) {
            prop_assert_eq!(&row["ids"], &json!([1, u32::MAX]));
            let found = row.get("x").cloned().unwrap_or_default();
            let json = value.to_string();
            let as_text = || found.as_str() == Some(json.as_str());
            prop_assert!(agree(&found, &without_nulls(value)) || as_text(), "{} for {}", found, value);
        }
    }
}
