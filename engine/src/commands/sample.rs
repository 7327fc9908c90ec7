//! `selfplay sample`: prompts to candidates.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use selfplay_records::{
    Candidates, ColumnSpec, MOST_COLUMNS, Prompt, PromptRow, Row, TokenRow, read_prompt_rows, write_rows,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::stage::{Output, StageArgs, StageCommand, flag};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;
use crate::inputs::usable_prompts::{PromptLimits, usable, without_stop};
use crate::stages::{Collected, Product, Workspace, prepare, sample};

/// The flags of `selfplay sample`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The policy: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Prompts (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub prompts: PathBuf,
    /// Candidates
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a prompt that is wrong; an output that exists, or one begun with other settings.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let output = Output::rows(&args.output, args.stage.force)?;
    let flags = flag("policy.model", args.model.as_ref());
    let command = StageCommand::open("sample", output, &args.stage, common, flags)?;
    let device = command.device()?;
    let recipe = &command.recipe;
    let section = &recipe.prompts;
    let on_bad = section.on_bad_prompt.to_records();
    let read = read_prompt_rows(&args.prompts, &section.column, on_bad, section.max_prompts)?;
    let source = PolicySource::find(recipe, &Hub::default())?;
    let mut policy = source.load(recipe, &device, false)?;
    // Every prompt is looked at before the first is answered: a wrong one at the end must not cost hours.
    let limits = PromptLimits::of(policy.architecture());
    let place = args.prompts.display().to_string();
    let found = usable(limits, &source.codec, read.rows, &place, on_bad, None)?;
    if let Some(first) = read.first_skipped.or(found.first_skipped) {
        let count = read.skipped + found.skipped;
        command
            .progress
            .line(format!("{place}: {count} rows without a usable prompt left out, such as {first}"));
    }
    if let Some(note) = without_stop(&source.stop_ids, &recipe.sample) {
        command.progress.line(note);
    }
    let AskedRows { prompts, others } = AskedRows::of(found.kept);
    check_columns(&args.output, &others)?;

    let mut settings = command.settings(&["sample", "prompts", "policy"])?;
    settings.file("--prompts", &args.prompts)?;
    settings.policy(&source)?;
    let parts = command.open_parts(settings)?;
    if !recipe.sample.backend.is_endpoint() {
        prepare(&mut policy, &recipe.sample)?;
    }
    let rows = parts.during(&args.prompts, || {
        let shards = prompts.len().div_ceil(recipe.sample.shard_prompts);
        let mut collected = Collected::read(&command.path(Product::Candidates), shards)?;
        sample(&command, &policy, &source, &prompts, &collected.missing(), &mut |shard, rows| {
            collected.put(shard, rows);
            ControlFlow::Continue(())
        })?;
        Ok(collected.into_rows())
    })?;
    write_rows(&args.output, &with_other_fields(rows, others))?;
    parts.remove()
}

/// Prompts, and the other fields of their rows in the same order.
struct AskedRows {
    prompts: Vec<Prompt>,
    others: Vec<Map<String, Value>>,
}

impl AskedRows {
    fn of(rows: Vec<PromptRow>) -> Self {
        let (prompts, others) = rows.into_iter().map(|row| (row.prompt, row.others)).unzip();
        Self { prompts, others }
    }
}

/// That the output can hold a column for each field, asked before the first prompt is answered.
fn check_columns(output: &Path, others: &[Map<String, Value>]) -> Result<()> {
    /// Columns of candidates and their responses, and some room.
    const OURS: usize = 32;
    if !output.to_string_lossy().to_lowercase().ends_with(".parquet") {
        return Ok(());
    }
    let names: HashSet<&str> = others.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
    if names.len() + OURS > MOST_COLUMNS {
        return Err(EngineError::input(format!(
            "--output {}: the prompts have {} other fields, and a file of Parquet takes at most {MOST_COLUMNS} columns; \
             leave fields out, or name an output that ends in .jsonl",
            output.display(),
            names.len()
        )));
    }
    Ok(())
}

/// The candidates with the fields of their prompts' rows that are not ours: an answer, a source, a category.
fn with_other_fields(rows: Vec<Candidates>, others: Vec<Map<String, Value>>) -> Vec<CandidatesWithFields> {
    rows.into_iter()
        .zip(others)
        .map(|(candidates, other)| CandidatesWithFields { candidates, other })
        .collect()
}

/// A row of candidates with fields that are not ours. Written only.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CandidatesWithFields {
    #[serde(flatten)]
    candidates: Candidates,
    #[serde(flatten, skip_deserializing)]
    other: Map<String, Value>,
}

impl Row for CandidatesWithFields {
    const NOUN: &'static str = "candidates";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        let ours: Vec<Candidates> = rows.iter().map(|row| row.candidates.clone()).collect();
        // Rows of texts take other fields too, and know how to guess their types.
        let others: Vec<TokenRow> =
            rows.iter().map(|row| TokenRow { extra: row.other.clone(), ..TokenRow::default() }).collect();
        let mut columns = Candidates::schema(&ours);
        columns.extend(TokenRow::schema(&others));
        columns
    }

    fn extra(&self) -> Option<&Map<String, Value>> {
        Some(&self.other)
    }

    fn extra_mut(&mut self) -> Option<&mut Map<String, Value>> {
        Some(&mut self.other)
    }

    fn identity(&self) -> Option<&str> {
        self.candidates.identity()
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{OnBadPrompt, Response, read_rows, read_values};

    use super::*;

    #[test]
    fn other_fields_of_a_prompt_stay_in_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = folder.path().join("in.jsonl");
        let text =
            "{\"prompt\": \"a\", \"answer\": \"7\", \"level\": 2}\n{\"prompt\": \"b\", \"level\": 3}\n";
        selfplay_records::atomic::write_bytes(&prompts, text.as_bytes()).unwrap();
        let row = |id: &str, prompt: &str| Candidates {
            prompt: Prompt {
                prompt_id: id.into(),
                prompt: Some(prompt.into()),
                prompt_ids: Some(vec![1]),
                ..Prompt::default()
            },
            responses: vec![Response { text: "x".into(), ..Response::default() }],
        };
        let read = read_prompt_rows(&prompts, "prompt", OnBadPrompt::Error, None).unwrap();
        let rows = with_other_fields(vec![row("0", "a"), row("1", "b")], AskedRows::of(read.rows).others);
        for name in ["out.jsonl", "out.parquet"] {
            let output = folder.path().join(name);
            write_rows(&output, &rows).unwrap();
            let values = read_values(&output).unwrap();
            assert_eq!(values[0]["answer"], "7", "{name}");
            assert_eq!(values[1]["level"], 3, "{name}");
            assert_eq!(values[1]["prompt"], "b", "{name}");
            let back: Vec<Candidates> = read_rows(&output).unwrap();
            assert_eq!(back[1].prompt.prompt_id, "1");
            assert_eq!(back[1].responses.len(), 1);
        }
    }
}
