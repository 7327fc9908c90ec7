//! Rows that compare two responses to a prompt, for `train-preference` and `eval-preference`: pairs in any layout that is read, with what
//! labels stand beside them, and PandaLM's comparisons.
//!
//! ```text
//! subset              the part of a benchmark that the row belongs to, a text
//! tie                 true: neither response is better
//! margin              how much better the chosen one is, a number
//! chosen_probs        P(chosen ≻ rejected), from 0 to 1
//! annotator1, …       who wins by each annotator: 1 the first response (the chosen one), 2 the second, 0 a tie
//! response1, response2   PandaLM's layout, beside instruction and input: the winner is what most annotators say
//! ```

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use selfplay_evaluation::preference::Winner;
use selfplay_records::datasets::{DataFile, each_example};
use selfplay_records::{FieldProblem, Message, Pair, RecordError, each_columns, read_columns};
use serde_json::{Map, Value};

use crate::error::{EngineError, Result};

/// Columns of the annotators.
const ANNOTATORS: [&str; 9] = [
    "annotator1",
    "annotator2",
    "annotator3",
    "annotator4",
    "annotator5",
    "annotator6",
    "annotator7",
    "annotator8",
    "annotator9",
];

/// The comparisons of a file.
pub(crate) struct ComparedRows {
    /// In the file's order.
    pub(crate) rows: Vec<ComparedRow>,
    /// What was odd in the file, in words.
    pub(crate) told: Option<String>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ComparedRow {
    /// Its place in the file, from 0.
    pub(crate) row: usize,
    /// The prompt's own id, where it has one.
    pub(crate) prompt_id: Option<String>,
    /// The conversation that both responses answer.
    pub(crate) prompt: Vec<Message>,
    /// The first response: of a pair, the chosen one.
    pub(crate) first: String,
    /// The second response.
    pub(crate) second: String,
    /// P(first ≻ second) by whoever labelled it.
    pub(crate) probability: Option<f64>,
    /// Who wins, and what else is known.
    pub(crate) labels: RowLabels,
}

/// What labels say of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowLabels {
    /// Who wins.
    pub(crate) winner: Winner,
    /// What each annotator says.
    pub(crate) annotators: Vec<Winner>,
    /// The part of the file that it belongs to.
    pub(crate) subset: Option<String>,
    /// How much better the first response is.
    pub(crate) margin: Option<f64>,
}

impl Default for RowLabels {
    fn default() -> Self {
        Self { winner: Winner::First, annotators: Vec::new(), subset: None, margin: None }
    }
}

/// The labels of several files, each of which is read once. Rows that have none take no room.
#[derive(Default)]
pub(crate) struct LabelFiles(HashMap<PathBuf, HashMap<usize, RowLabels>>);

impl LabelFiles {
    /// The labels of a row.
    ///
    /// # Errors
    /// A file that does not read, a label that is none.
    pub(crate) fn of(&mut self, path: &Path, row: usize) -> Result<RowLabels> {
        if !self.0.contains_key(path) {
            let mut rows = HashMap::new();
            let mut wrong = None;
            each_columns(path, &label_columns(), &mut |row, fields| match at(path, row, labels(&fields)) {
                Ok(labels) if labels == RowLabels::default() => ControlFlow::Continue(()),
                Ok(labels) => {
                    rows.insert(row, labels);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    wrong = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            if let Some(error) = wrong {
                return Err(error);
            }
            self.0.insert(path.to_path_buf(), rows);
        }
        Ok(self.0.get(path).and_then(|rows| rows.get(&row)).cloned().unwrap_or_default())
    }
}

/// Reads a file of comparisons.
///
/// # Errors
/// A file that does not read, a row without texts, a label that is none.
pub(crate) fn read(path: &Path) -> Result<ComparedRows> {
    let fields = fields_of(path)?;
    let is_pandalm =
        |row: &Map<String, Value>| row.contains_key("response1") && row.contains_key("response2");
    if fields.first().is_some_and(is_pandalm) {
        let rows = fields.iter().enumerate().map(|(row, fields)| at(path, row, pandalm(row, fields)));
        return Ok(ComparedRows { rows: rows.collect::<Result<_>>()?, told: None });
    }
    let mut rows = Vec::new();
    let report = each_example::<Pair, EngineError>(&DataFile::new(path), &mut |row, pair| {
        let labels = match fields.get(row) {
            Some(fields) => at(path, row, labels(fields))?,
            None => RowLabels::default(),
        };
        let compared = ComparedRow::of_pair(row, &pair, labels);
        rows.push(compared.map_err(|error| EngineError::at_row(path, row, error))?);
        Ok(())
    })?;
    let told = (report.examples != report.rows).then(|| report.line("comparisons"));
    Ok(ComparedRows { rows, told })
}

fn at<T>(path: &Path, row: usize, found: std::result::Result<T, FieldProblem>) -> Result<T> {
    found.map_err(|problem| RecordError::Field { path: path.to_path_buf(), row, problem }.into())
}

fn label_columns() -> Vec<&'static str> {
    ["subset", "tie", "margin"].into_iter().chain(ANNOTATORS).collect()
}

/// The columns with labels and those of PandaLM, a map for each row; no map where none of these columns is there.
fn fields_of(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let others = ["response1", "response2", "instruction", "input"];
    let columns: Vec<&str> = label_columns().into_iter().chain(others).collect();
    match read_columns(path, &columns) {
        Ok(fields) => Ok(fields),
        Err(RecordError::Empty { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

impl ComparedRow {
    /// A pair with its labels.
    ///
    /// # Errors
    /// A pair without texts.
    pub(crate) fn of_pair(row: usize, pair: &Pair, labels: RowLabels) -> Result<Self> {
        let chosen = Conversation::of(pair, pair.chosen.as_deref(), "chosen")?;
        let rejected = Conversation::of(pair, pair.rejected.as_deref(), "rejected")?;
        if chosen.prompt != rejected.prompt {
            return Err(EngineError::input(
                "\"chosen\" and \"rejected\" answer different prompts; one prompt is wanted",
            ));
        }
        Ok(Self {
            row,
            prompt_id: pair.prompt_id.clone(),
            prompt: chosen.prompt.to_vec(),
            first: chosen.reply.content.clone(),
            second: rejected.reply.content.clone(),
            probability: pair.chosen_probs,
            labels,
        })
    }
}

/// A row of PandaLM's test set.
fn pandalm(row: usize, fields: &Map<String, Value>) -> std::result::Result<ComparedRow, FieldProblem> {
    let instruction = text(fields, "instruction")?.unwrap_or_default();
    let input = text(fields, "input")?.unwrap_or_default();
    // Alpaca's way to put the two together.
    let prompt = if input.is_empty() { instruction } else { format!("{instruction}\n{input}") };
    let response = |name: &str| {
        text(fields, name)?.ok_or_else(|| FieldProblem::new(name, "a response's text", "nothing"))
    };
    let mut labels = labels(fields)?;
    if labels.annotators.is_empty() {
        return Err(FieldProblem::new("annotator1", "0, 1 or 2, as PandaLM's test set has", "nothing"));
    }
    labels.winner = Winner::majority(&labels.annotators);
    Ok(ComparedRow {
        row,
        prompt_id: None,
        prompt: vec![Message::user(prompt)],
        first: response("response1")?,
        second: response("response2")?,
        probability: None,
        labels,
    })
}

/// The labels that stand beside the texts.
fn labels(fields: &Map<String, Value>) -> std::result::Result<RowLabels, FieldProblem> {
    // A file of others may have a column of that name: what is no number is wrong only where margins are asked for.
    let margin = fields.get("margin").and_then(Value::as_f64).filter(|margin| margin.is_finite());
    let mut labels = RowLabels { subset: text(fields, "subset")?, margin, ..RowLabels::default() };
    match fields.get("tie") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(Value::Bool(true)) => labels.winner = Winner::Tie,
        Some(other) => return Err(FieldProblem::new("tie", "true or false", other)),
    }
    for name in ANNOTATORS {
        let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { break };
        labels.annotators.push(match value.as_i64() {
            Some(0) => Winner::Tie,
            Some(1) => Winner::First,
            Some(2) => Winner::Second,
            _ => {
                let expected = "1 (the first response wins), 2 (the second), or 0 (a tie)";
                return Err(FieldProblem::new(name, expected, value));
            }
        });
    }
    Ok(labels)
}

fn text(fields: &Map<String, Value>, name: &str) -> std::result::Result<Option<String>, FieldProblem> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        // PandaLM's test set has answers that its writer's JSON took for these.
        Some(Value::Bool(truth)) => Ok(Some(truth.to_string())),
        Some(other) => Err(FieldProblem::new(name, "a text", other)),
    }
}

/// A prompt and a reply, as messages.
struct Conversation<'a> {
    prompt: &'a [Message],
    reply: &'a Message,
}

impl<'a> Conversation<'a> {
    /// A list with the reply alone follows the row's prompt.
    fn of(pair: &'a Pair, messages: Option<&'a [Message]>, field: &str) -> Result<Self> {
        let text_wanted = || {
            EngineError::input(format!(
                "field \"{field}\": a preference model reads text; expected the prompt and the response as messages"
            ))
        };
        match messages.and_then(<[Message]>::split_last) {
            Some((reply, prompt)) if !prompt.is_empty() => Ok(Self { prompt, reply }),
            Some((reply, _)) => match pair.prompt.as_deref() {
                Some(prompt) if !prompt.is_empty() => Ok(Self { prompt, reply }),
                _ => Err(text_wanted()),
            },
            None => Err(text_wanted()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use selfplay_records::atomic;

    use super::*;

    fn read_text(text: &str) -> Result<ComparedRows> {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("rows.jsonl");
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        read(&path)
    }

    #[test]
    fn labels_stand_beside_the_pairs_that_are_kept() {
        let read = read_text(
            "{\"prompt\": \"p\", \"chosen\": \"same\", \"rejected\": \"same\", \"subset\": \"a\"}\n\
             {\"prompt\": \"p\", \"chosen\": \"x\", \"rejected\": \"y\", \"subset\": \"b\", \"tie\": true}\n\
             {\"prompt\": \"q\", \"chosen\": \"v\", \"rejected\": \"w\", \"subset\": \"c\", \"margin\": 0.5, \"annotator1\": 1, \"annotator2\": 0, \"annotator3\": 2}\n",
        )
        .unwrap();
        assert!(read.told.is_some_and(|told| told.contains("3 rows") && told.contains("2 comparisons")));
        let [tie, other] = read.rows.as_slice() else { panic!("{}", read.rows.len()) };
        assert_eq!((tie.row, tie.labels.subset.as_deref(), tie.labels.winner), (1, Some("b"), Winner::Tie));
        assert_eq!(
            (other.row, other.labels.subset.as_deref(), other.labels.margin),
            (2, Some("c"), Some(0.5))
        );
        assert_eq!(other.labels.annotators, [Winner::First, Winner::Tie, Winner::Second]);
        assert_eq!((other.labels.winner, other.first.as_str()), (Winner::First, "v"));
    }

    #[test]
    fn pandalm_s_rows_take_the_majority() {
        let read = read_text(
            "{\"instruction\": \"Do\", \"input\": \"this\", \"response1\": true, \"response2\": \"b\", \"annotator1\": 2, \"annotator2\": 2, \"annotator3\": 0}\n",
        )
        .unwrap();
        assert_eq!(read.rows[0].prompt, [Message::user("Do\nthis")]);
        assert_eq!(read.rows[0].first, "true");
        assert_eq!((read.rows[0].labels.winner, read.rows[0].labels.annotators.len()), (Winner::Second, 3));
    }

    #[test]
    fn labels_that_are_none_are_named() {
        let with = |labels: &str| {
            let text = format!("{{\"prompt\": \"p\", \"chosen\": \"x\", \"rejected\": \"y\", {labels}}}\n");
            read_text(&text).err().map(|error| error.to_string()).unwrap()
        };
        for (labels, words) in [
            ("\"tie\": 1", ["row 0", "\"tie\"", "true or false"]),
            ("\"annotator1\": 3", ["row 0", "annotator1", "the first response wins"]),
            ("\"subset\": [1]", ["row 0", "subset", "a text"]),
        ] {
            let error = with(labels);
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
