//! What the page needs of a shard's candidates and preferences.
//!
//! A run of 20,000 prompts has a hundred million ids and characters: of the rows that are not shown only the lists' lengths are
//! read, and what preferences say of them.

use std::path::Path;

use selfplay_records::{
    Candidates, RecordError, Response, read_columns, read_list_lengths, read_rows, read_rows_at,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What is read of a shard of candidates.
pub(super) struct ShardRows {
    pub(super) prompt_ids: Vec<String>,
    /// Of each row's responses: tokens, or characters of those without ids.
    pub(super) lengths: Vec<Vec<f32>>,
    /// The rows whose texts are wanted, and perhaps others.
    pub(super) shown: Vec<Candidates>,
}

impl ShardRows {
    /// Reads a shard; of rows whose prompt's id is not `is_shown` no text.
    ///
    /// # Errors
    /// A file that does not read.
    pub(super) fn read(file: &Path, is_shown: &dyn Fn(&str) -> bool) -> Result<Self, RecordError> {
        let Some(lengths) = read_list_lengths(file, "responses", "ids")? else { return Self::whole(file) };
        let lengths: Option<Vec<Vec<f32>>> = lengths
            .into_iter()
            .map(|row| row.into_iter().map(|length| length.map(|length| length as f32)).collect())
            .collect();
        // A response without ids is as long as its text.
        let Some(lengths) = lengths else { return Self::whole(file) };
        let ids = read_columns(file, &["prompt_id"])?;
        let text = |row: &Map<String, Value>| {
            row.get("prompt_id").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let prompt_ids: Vec<String> = ids.iter().map(text).collect();
        let places = prompt_ids.iter().enumerate().filter(|(_, id)| is_shown(id));
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        Ok(Self { shown: read_rows_at(file, &places)?, prompt_ids, lengths })
    }

    fn whole(file: &Path) -> Result<Self, RecordError> {
        let shown: Vec<Candidates> = read_rows(file)?;
        let prompt_ids = shown.iter().map(|row| row.prompt.prompt_id.clone()).collect();
        let lengths =
            shown.iter().map(|row| row.responses.iter().map(|one| length(one) as f32).collect()).collect();
        Ok(Self { prompt_ids, lengths, shown })
    }
}

/// What the page tells of a preference.
#[derive(Debug, Deserialize)]
pub(super) struct PreferenceNumbers {
    pub(super) prompt_id: String,
    /// s(y_i ≻ y_j).
    pub(super) scores: Vec<Vec<f64>>,
    /// Mean P(y_i ≻ one of its prompt).
    pub(super) mean_probabilities: Vec<f64>,
}

impl PreferenceNumbers {
    /// The rows of a shard.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(file: &Path) -> Result<Vec<Self>, String> {
        let rows = read_columns(file, &["prompt_id", "scores", "mean_probabilities"])
            .map_err(|error| error.to_string())?;
        let typed = |(number, row): (usize, Map<String, Value>)| {
            serde_json::from_value(Value::Object(row))
                .map_err(|error| format!("{}: row {number}: {error}", file.display()))
        };
        rows.into_iter().enumerate().map(typed).collect()
    }
}

fn length(response: &Response) -> usize {
    response.ids.as_ref().map_or_else(|| response.text.chars().count(), Vec::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_by_lengths_is_the_whole_shard() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: usize, lengths: &[usize]| {
            let response = |&length: &usize| Response {
                text: "é".repeat(length),
                ids: Some(vec![1; length]),
                ..Response::default()
            };
            let prompt = selfplay_records::Prompt {
                prompt_id: id.to_string(),
                prompt: Some("?".into()),
                ..Default::default()
            };
            Candidates { prompt, responses: lengths.iter().map(response).collect() }
        };
        let mut rows = vec![row(0, &[3, 0]), row(1, &[7, 2]), row(2, &[1, 1])];
        for has_ids in [true, false] {
            let path = folder.path().join(format!("{has_ids}.parquet"));
            selfplay_records::write_rows(&path, &rows).unwrap();
            let read = ShardRows::read(&path, &|id| id == "1").unwrap();
            assert_eq!(read.prompt_ids, ["0", "1", "2"]);
            assert_eq!(read.lengths, [[3.0, 0.0], [7.0, 2.0], [1.0, 1.0]], "{has_ids}");
            assert!(read.shown.iter().any(|row| row.responses[0].text == "ééééééé"));
            assert_eq!(read.shown.len(), if has_ids { 1 } else { 3 });
            rows.iter_mut().flat_map(|row| &mut row.responses).for_each(|one| one.ids = None);
        }
    }
}
