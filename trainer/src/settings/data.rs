//! `data` of a training's section: its data sets by file, layout, columns and weight.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use selfplay_records::Problems;
use selfplay_records::datasets::{ColumnMap, DataExample, DataFile, DataLayout};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A data set of a training.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DataEntry {
    /// A file, or `hf://datasets/ORG/NAME[@revision][:split]`.
    pub path: String,
    /// The layout's name. `None`: recognised by the columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Its share of an epoch, against the other sets' weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Columns that have other names than the layout's fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: ColumnMap,
    /// The first so many rows of each file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<usize>,
}

/// A data set as a recipe writes it: a file's name, or a table.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is read")]
pub(super) enum WrittenEntry {
    /// A file.
    Path(String),
    /// A file and how it is read.
    Table(EntryTable),
}

/// The keys of a data set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryTable {
    /// A file, or `hf://datasets/ORG/NAME[@revision][:split]`.
    path: String,
    /// The layout's name. Absent: recognised by the columns.
    layout: Option<String>,
    /// Its share of an epoch, against the other sets' weights. Absent: every row of every set once.
    weight: Option<f64>,
    /// Columns that have other names than the layout's fields: field = column.
    #[serde(default)]
    columns: ColumnMap,
    /// The first so many rows of each file. Absent: all.
    max_rows: Option<usize>,
}

const WANTED: &str = "a file, as in \"data.jsonl\", or a table of path, layout, weight, columns and max_rows";

impl<'de> Deserialize<'de> for DataEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(path) => Ok(Self { path, ..Self::default() }),
            table @ Value::Object(_) => {
                let EntryTable { path, layout, weight, columns, max_rows } =
                    EntryTable::deserialize(table)
                        .map_err(|error| D::Error::custom(format!("expected {WANTED}: {error}")))?;
                Ok(Self { path, layout, weight, columns, max_rows })
            }
            _ => Err(D::Error::custom(format!("expected {WANTED}"))),
        }
    }
}

impl DataEntry {
    /// One of the entry's files, as it is read. A layout's name that is none of `T`'s is taken as absent: [`validate_data`]
    /// reports it.
    pub fn file<T: DataExample>(&self, path: &std::path::Path) -> DataFile<T> {
        DataFile {
            layout: self.layout.as_deref().and_then(DataLayout::named),
            columns: self.columns.clone(),
            max_rows: self.max_rows,
            ..DataFile::new(path)
        }
    }
}

/// Every wrong value of a list of data sets whose rows become `T`, without the section: `data[0].layout`.
pub fn validate_data<T: DataExample>(entries: &[DataEntry]) -> Problems {
    let mut found = Problems::default();
    for (place, entry) in entries.iter().enumerate() {
        let key = |name: &str| format!("data[{place}].{name}");
        found.refuse(
            entry.path.is_empty(),
            key("path"),
            "\"\"",
            "the name of a file, or hf://datasets/ORG/NAME",
        );
        let layout = entry.layout.as_deref().map(|name| (name, DataLayout::<T>::named(name)));
        if let Some((name, None)) = layout {
            let names = DataLayout::<T>::names().join(", ");
            found.value(key("layout"), format!("{name:?}"), format!("one of {names}; or left out"));
        }
        if let Some(weight) = entry.weight {
            found.refuse(
                !(weight.is_finite() && weight > 0.0),
                key("weight"),
                weight,
                "a finite number above 0",
            );
        }
        found.refuse(entry.max_rows == Some(0), key("max_rows"), 0, "1 or more");
        let known: Vec<&str> = match layout.and_then(|(_, layout)| layout) {
            Some(layout) => layout.fields().to_vec(),
            None => T::layouts().iter().flat_map(|layout| layout.fields()).copied().collect(),
        };
        for field in entry.columns.keys().filter(|field| !known.contains(&field.as_str())) {
            let mut fields: Vec<&str> = known.clone();
            fields.sort_unstable();
            fields.dedup();
            let want = format!("a field of the layout: one of {}", fields.join(", "));
            found.value(key(&format!("columns.{field}")), format!("{:?}", entry.columns[field]), want);
        }
    }
    let weighted = entries.iter().filter(|entry| entry.weight.is_some()).count();
    if weighted > 0 && weighted < entries.len() {
        let without = entries.iter().position(|entry| entry.weight.is_none()).unwrap_or(0);
        let want = "a weight for every data set, or for none";
        found.key(format!("data[{without}].weight"), format!("absent: {want}"));
    }
    found
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Instruction, Pair};

    use super::*;

    fn entries(json: serde_json::Value) -> Result<Vec<DataEntry>, String> {
        serde_json::from_value(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_set_is_a_file_or_a_table() {
        let written = serde_json::json!(["a.jsonl", {"path": "b.json", "layout": "sharegpt", "weight": 0.3,
            "columns": {"conversations": "dialog"}, "max_rows": 5}]);
        let read = entries(written).unwrap();
        assert_eq!((read[0].path.as_str(), read[0].weight), ("a.jsonl", None));
        assert_eq!(read[1].columns["conversations"], "dialog");
        let again = entries(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(again, read);
        for (wrong, named) in [
            (serde_json::json!([7]), "expected a file"),
            (serde_json::json!([{"path": "a", "wieght": 1}]), "wieght"),
            (serde_json::json!([{"layout": "alpaca"}]), "path"),
        ] {
            assert!(entries(wrong).unwrap_err().contains(named));
        }
    }

    #[test]
    fn wrong_values_are_named_by_their_place() {
        let read = entries(serde_json::json!([
            {"path": "a", "layout": "transcripts", "weight": 1},
            {"path": "", "layout": "alpca", "columns": {"promt": "q"}, "max_rows": 0},
        ]))
        .unwrap();
        assert!(validate_data::<Pair>(&read[..1]).is_empty());
        let keys: Vec<String> =
            validate_data::<Instruction>(&read).list.into_iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            [
                "data[0].layout",
                "data[1].path",
                "data[1].layout",
                "data[1].max_rows",
                "data[1].columns.promt",
                "data[1].weight"
            ]
        );
        let minus = entries(serde_json::json!([{"path": "a", "weight": -1.0}])).unwrap();
        assert_eq!(validate_data::<Pair>(&minus).list[0].key, "data[0].weight");
    }
}
