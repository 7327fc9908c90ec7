//! What a suite finds: figures, and a sample for each row.

use selfplay_evaluation::suites::average::Average;
use serde::Serialize;
use serde_json::{Map, Value};

/// A figure by its name.
pub(super) type NamedAverage = (String, Average);

/// What a suite found.
#[derive(Clone, Debug, Default)]
pub(super) struct SuiteOutcome {
    /// The figures.
    pub(super) metrics: Vec<NamedAverage>,
    /// The same by category.
    pub(super) categories: Vec<(String, Vec<NamedAverage>)>,
    /// A line for each row.
    pub(super) samples: Vec<SuiteSample>,
    /// What else a reader should know.
    pub(super) notes: Vec<String>,
    /// Figures that are no averages of rows, such as AlpacaEval's whole record.
    pub(super) details: Option<Value>,
    /// Files in the form of the suite's own program, by name.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

/// A row of samples.jsonl.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SuiteSample {
    /// The row's own id, else its number.
    pub(super) id: String,
    /// Its figures, by name: their means over the rows are the suite's.
    pub(super) figures: Map<String, Value>,
    /// What was asked, answered and found.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

impl SuiteSample {
    /// A row; `more` is an object.
    pub(super) fn new<'n>(
        id: String,
        figures: impl IntoIterator<Item = (&'n str, f64)>,
        more: Value,
    ) -> Self {
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let more = match more {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self { id, figures, more }
    }

    /// One of its figures.
    pub(super) fn figure(&self, name: &str) -> Option<f64> {
        self.figures.get(name).and_then(Value::as_f64)
    }
}

/// The means of these figures over the rows that have them.
pub(super) fn averages<'s>(
    samples: impl IntoIterator<Item = &'s SuiteSample> + Clone,
    names: &[&str],
) -> Vec<NamedAverage> {
    let of = |name: &&str| {
        let values: Vec<f64> = samples.clone().into_iter().filter_map(|sample| sample.figure(name)).collect();
        Average::of(&values).map(|average| ((*name).to_owned(), average))
    };
    names.iter().filter_map(of).collect()
}
