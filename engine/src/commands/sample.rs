//! `selfplay sample`: prompts to candidates.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow_schema::{Field, Schema};
use selfplay_model::ModelError;
use selfplay_records::{
    Candidates, MOST_COLUMNS, Prompt, PromptRow, Row, TokenRow, read_prompt_rows, write_rows,
};
use selfplay_sampler::{EncodedPrompt, Sampler, SamplingProgress, encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::models;
use super::parts::Parts;
use super::stage::{Fingerprint, Stage, StageArgs, check_row_output, flag};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::run::sampling_file;
use crate::stages::tokens_of;
use crate::usable_prompts::{PromptLimits, Refused, usable, without_stop};

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
    check_row_output(&args.output, args.stage.force)?;
    let device = common.device.open()?;
    let stage = Stage::new(&args.stage, common, flag("policy.model", args.model.as_ref()))?;
    stage.hold_clock(&args.output)?;
    let recipe = &stage.recipe;
    let section = &recipe.prompts;
    let on_bad = section.on_bad_prompt.to_records();
    let read = read_prompt_rows(&args.prompts, &section.column, on_bad, section.max_prompts)?;
    let mut policy = models::policy(recipe, &device)?;
    let stop_ids = policy.codec.stop_ids(&policy.folder)?;
    // Every prompt is looked at before the first is answered: a wrong one at the end must not cost hours.
    let limits = PromptLimits::of(policy.decoder.architecture());
    let found = usable(limits, &policy.codec, read.rows, on_bad, None).map_err(|refused| match refused {
        Refused::Prompts(problem) => EngineError::input(format!("{}: {problem}", args.prompts.display())),
        Refused::Model(error) => EngineError::in_file(&args.prompts, error),
    })?;
    if let Some(first) = read.first_skipped.or(found.first_skipped) {
        let count = read.skipped + found.skipped;
        stage.progress.line(format!(
            "{}: {count} rows without a usable prompt left out, such as {first}",
            args.prompts.display()
        ));
    }
    if let Some(note) = without_stop(&stop_ids, &recipe.sample) {
        stage.progress.line(note);
    }
    let Asked { prompts, others } = Asked::of(found.kept);
    check_columns(&args.output, &others)?;
    let asked =
        encode(&policy.codec, &prompts).map_err(|error| EngineError::in_file(&args.prompts, error))?;

    let mut fingerprint = Fingerprint::new(&stage, "sample", common);
    fingerprint.section(recipe, "sample")?;
    fingerprint.section(recipe, "prompts")?;
    fingerprint.section(recipe, "policy")?;
    fingerprint.file("--prompts", &args.prompts)?;
    fingerprint.model("--model", &policy.folder)?;
    let parts = Parts::open(&args.output, &fingerprint.into_map(), stage.force)?;

    policy.decoder.prepare_inference().map_err(ModelError::from)?;
    policy.decoder.set_batch_invariant(recipe.sample.batch_invariant);
    let mut settings = recipe.sample.clone();
    settings.capacity = sampling_file::earlier(&parts.sampling_file(), &device)?;
    let sampler = Sampler::new(&policy.decoder, &policy.codec, &stop_ids, &settings);
    let mut sampler = parts.remove_if_nothing_finished(sampler.map_err(EngineError::from))?;
    sampling_file::keep(&parts.sampling_file(), &device, sampler.capacity())?;
    let task = stage.progress.task("sample", "prompts", asked.len() as u64);
    let started = Instant::now();
    let shards: Vec<&[EncodedPrompt<'_>]> = asked.chunks(settings.shard_prompts).collect();
    let mut on_progress = |earlier: usize, seen: SamplingProgress| {
        let rate = seen.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
        task.set((earlier + seen.finished / settings.num_samples) as u64, &format!("{rate:.0} tokens/s"));
        ControlFlow::Continue(())
    };
    let Sampled { rows, tokens } = sample_missing(&stage, &parts, &mut sampler, &shards, &mut on_progress)?;
    let done = rows.len();
    let seconds = started.elapsed().as_secs_f64();
    let rate = tokens as f64 / seconds.max(1e-9);
    task.finish(&format!(
        "{done} prompts × {}, {tokens} tokens, {rate:.0} tokens/s",
        recipe.sample.num_samples
    ));
    write_rows(&args.output, &with_other_fields(rows, others))?;
    parts.remove()
}

/// The candidates of all shards, and the tokens that this command drew.
struct Sampled {
    rows: Vec<Candidates>,
    tokens: usize,
}

/// Samples and keeps the shards that no earlier command has finished; `on_progress` is told how many prompts those had.
fn sample_missing(
    stage: &Stage,
    parts: &Parts,
    sampler: &mut Sampler<'_>,
    shards: &[&[EncodedPrompt<'_>]],
    on_progress: &mut dyn FnMut(usize, SamplingProgress) -> ControlFlow<()>,
) -> Result<Sampled> {
    let numbers = 0..shards.len();
    let mut rows = numbers.clone().map(|number| parts.shard(number)).collect::<Result<Vec<_>>>()?;
    let earlier = rows.iter().flatten().map(Vec::len).sum();
    let missing: Vec<usize> = numbers.filter(|&number| rows[number].is_none()).collect();
    let prompts: Vec<&[EncodedPrompt<'_>]> = missing.iter().map(|&number| shards[number]).collect();
    let (mut tokens, mut left) = (0, missing.len());
    if left > 0 {
        stage.check_stop(parts.folder())?;
    }
    let mut on_shard = |place: usize, sampled: Vec<Candidates>| -> Result<ControlFlow<()>> {
        let number = missing[place];
        tokens += tokens_of(&sampled);
        parts.keep(number, &sampled)?;
        rows[number] = Some(sampled);
        left -= 1;
        if left > 0 {
            stage.check_stop(parts.folder())?;
        }
        Ok(ControlFlow::Continue(()))
    };
    // Nothing breaks off but by an error.
    let _ = sampler.generate_shards(&prompts, &mut |seen| on_progress(earlier, seen), &mut on_shard)?;
    Ok(Sampled { rows: rows.into_iter().flatten().flatten().collect(), tokens })
}

/// Prompts, and the other fields of their rows in the same order.
struct Asked {
    prompts: Vec<Prompt>,
    others: Vec<Map<String, Value>>,
}

impl Asked {
    fn of(rows: Vec<PromptRow>) -> Self {
        let (prompts, others) = rows.into_iter().map(|row| (row.prompt, row.others)).unzip();
        Self { prompts, others }
    }
}

/// That the output can hold a column for each field, asked before the first prompt is answered.
fn check_columns(output: &Path, others: &[Map<String, Value>]) -> Result<()> {
    /// Columns of candidates.
    const OURS: usize = 5;
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

    fn schema(rows: &[Self]) -> Schema {
        let ours: Vec<Candidates> = rows.iter().map(|row| row.candidates.clone()).collect();
        // Rows of texts take other fields too, and know how to guess their types.
        let others: Vec<TokenRow> =
            rows.iter().map(|row| TokenRow { extra: row.other.clone(), ..TokenRow::default() }).collect();
        let (ours, others) = (Candidates::schema(&ours), TokenRow::schema(&others));
        let fields = ours.fields().iter().chain(others.fields());
        Schema::new(fields.map(|field| Field::clone(field)).collect::<Vec<_>>())
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
        let rows = with_other_fields(vec![row("0", "a"), row("1", "b")], Asked::of(read.rows).others);
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
