//! AlpacaEval over a model: its answers against the baseline's, judged by a preference model of any kind.

use selfplay_evaluation::suites::alpaca_eval::{Annotation, ModelOutput, read_outputs};
use selfplay_evaluation::suites::average::Average;
use selfplay_evaluation::winrate::{Annotations, LengthTables, win_rate};
use selfplay_records::{Message, Prompt, atomic};
use selfplay_scorer::Contest;
use serde_json::{Value, json};

use super::rows::rows_of;
use crate::error::{EngineError, Result};
use crate::evaluate::judge::JudgeNeed;
use crate::evaluate::names::{ANNOTATIONS, MODEL_OUTPUTS};
use crate::evaluate::outcome::{SuiteOutcome, SuiteSample};
use crate::evaluate::policy::GenerationRules;
use crate::evaluate::settings::SuiteSettings;
use crate::evaluate::suite::Suite;
use crate::evaluate::suite_files::SuiteFiles;
use crate::evaluate::work::SuiteWork;

/// Tokens of an answer at most, as AlpacaEval's own configurations of models have it.
const MAX_NEW_TOKENS: usize = 2048;
/// The temperature of most of these configurations.
const TEMPERATURE: f64 = 0.7;

struct AlpacaEval {
    baseline: Vec<ModelOutput>,
    tables: Option<LengthTables>,
    rules: GenerationRules,
}

/// Reads the baseline's outputs, and the tables of the length-controlled win rate.
pub(in crate::evaluate) fn open(files: &SuiteFiles, settings: &SuiteSettings) -> Result<Box<dyn Suite>> {
    let tables = match (files.one("difficulty")?, files.one("gamed")?) {
        (Some(difficulty), Some(gamed)) => Some(LengthTables::read(difficulty, gamed)?),
        (None, None) => None,
        _ => {
            return Err(EngineError::input(
                "--data alpaca_eval.difficulty and alpaca_eval.gamed: one of them alone; both are wanted, or neither",
            ));
        }
    };
    let rules = GenerationRules {
        temperature: settings.temperature.unwrap_or(TEMPERATURE),
        max_new_tokens: settings.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        stop: Vec::new(),
    };
    let baseline = settings.limited(rows_of(files.own(), read_outputs)?);
    Ok(Box::new(AlpacaEval { baseline, tables, rules }))
}

impl Suite for AlpacaEval {
    fn judge(&self) -> Option<JudgeNeed> {
        Some(JudgeNeed::Preference)
    }

    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome> {
        let questions: Vec<_> = self
            .baseline
            .iter()
            .enumerate()
            .map(|(row, one)| (row.to_string(), work.instruction_input(one.instruction.clone())))
            .collect();
        let answers = work.generate("answers", &questions, &self.rules)?;
        let generator = work.model.to_owned();
        let outputs: Vec<ModelOutput> = self
            .baseline
            .iter()
            .zip(&answers)
            .map(|(one, answer)| ModelOutput {
                output: answer.text.clone(),
                generator: generator.clone(),
                ..one.clone()
            })
            .collect();
        let contests: Vec<(String, Contest)> = self
            .baseline
            .iter()
            .zip(&outputs)
            .enumerate()
            .map(|(row, (baseline, model))| {
                let prompt = Prompt {
                    prompt_id: row.to_string(),
                    messages: Some(vec![Message::user(baseline.instruction.clone())]),
                    ..Prompt::default()
                };
                let contest =
                    Contest { prompt, first: model.output.clone(), second: baseline.output.clone() };
                (row.to_string(), contest)
            })
            .collect();
        let wins = work.win_probabilities("comparisons", &contests)?;
        let annotator = work.judge.map_or(String::new(), |judge| judge.name.clone());
        let annotations: Vec<Annotation> = self
            .baseline
            .iter()
            .zip(&outputs)
            .zip(&wins)
            .map(|((baseline, model), win)| Annotation::new(baseline, model, &annotator, *win))
            .collect();
        let bytes = array(&annotations)?;
        // Read back as `selfplay winrate` would, so that the figures are those of the file.
        let path = work.store.folder().join(ANNOTATIONS);
        atomic::write_bytes(&path, &bytes)?;
        let found = Annotations::read(&path).map(|read| win_rate(&read, self.tables.as_ref()));
        let _ = std::fs::remove_file(&path);
        let found = found?.map_err(|missing| {
            EngineError::input(format!(
                "--data alpaca_eval.difficulty: no instruction {}; the file of the whole evaluation set is wanted",
                missing.number
            ))
        })?;
        let figure = |value: f64, error: f64| Average { value, standard_error: Some(error), n: found.n };
        let mut metrics = vec![
            ("win_rate".to_owned(), figure(found.win_rate, found.standard_error)),
            (
                "discrete_win_rate".to_owned(),
                Average { value: found.discrete_win_rate, standard_error: None, n: found.n },
            ),
        ];
        if let (Some(rate), Some(error)) = (found.lc_win_rate, found.lc_standard_error) {
            metrics.push(("lc_win_rate".to_owned(), figure(rate, error)));
        }
        let samples = annotations.iter().zip(&answers).zip(&wins).enumerate().map(|(row, ((one, answer), win))| {
            let more = json!({
                "instruction": one.instruction, "response": one.output_2, "baseline": one.output_1, "tokens": answer.tokens,
                "cut": answer.is_cut,
            });
            SuiteSample::new(row.to_string(), [("win_rate", 100.0 * win)], more)
        });
        Ok(SuiteOutcome {
            metrics,
            samples: samples.collect(),
            details: Some(serde_json::to_value(&found).unwrap_or(Value::Null)),
            files: vec![(MODEL_OUTPUTS.to_owned(), array(&outputs)?), (ANNOTATIONS.to_owned(), bytes)],
            ..SuiteOutcome::default()
        })
    }
}

fn array(rows: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(rows)
        .map_err(|error| EngineError::failure(format!("the rows have no JSON form: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}
