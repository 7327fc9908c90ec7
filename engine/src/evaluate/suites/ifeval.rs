//! IFEval over a model.

use selfplay_evaluation::suites::average::Average;
use selfplay_evaluation::suites::ifeval::{
    self, Followed, InstructionRow, MAX_NEW_TOKENS, SentenceSplitter, all_followed, instruction_level,
};
use serde_json::json;

use super::rows::rows_of;
use crate::error::Result;
use crate::evaluate::outcome::{SuiteOutcome, SuiteSample, averages};
use crate::evaluate::policy::GenerationRules;
use crate::evaluate::settings::SuiteSettings;
use crate::evaluate::suite::Suite;
use crate::evaluate::suite_files::SuiteFiles;
use crate::evaluate::work::SuiteWork;

struct IfEval {
    rows: Vec<InstructionRow>,
    sentences: SentenceSplitter,
    rules: GenerationRules,
}

/// Reads the rows.
pub(in crate::evaluate) fn open(files: &SuiteFiles, settings: &SuiteSettings) -> Result<Box<dyn Suite>> {
    let sentences = match files.one("punkt")? {
        Some(folder) => SentenceSplitter::load(folder)?,
        None => SentenceSplitter::new(),
    };
    let rules = GenerationRules {
        temperature: settings.temperature.unwrap_or(0.0),
        max_new_tokens: settings.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        stop: Vec::new(),
    };
    let rows = settings.limited(rows_of(files.own(), ifeval::read)?);
    Ok(Box::new(IfEval { rows, sentences, rules }))
}

impl Suite for IfEval {
    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome> {
        let questions: Vec<_> = self
            .rows
            .iter()
            .map(|row| (row.key.clone(), work.instruction_input(row.prompt.clone())))
            .collect();
        let answers = work.generate("answers", &questions, &self.rules)?;
        let followed: Vec<Followed> = self
            .rows
            .iter()
            .zip(&answers)
            .map(|(row, answer)| ifeval::followed(row, &answer.text, &self.sentences))
            .collect();
        let samples = self.rows.iter().zip(&answers).zip(&followed).map(|((row, answer), followed)| {
            let figures = [
                ("prompt_level_strict_acc", all_followed(&followed.strict)),
                ("prompt_level_loose_acc", all_followed(&followed.loose)),
            ];
            let more = json!({
                "prompt": row.prompt, "response": answer.text, "tokens": answer.tokens, "cut": answer.is_cut,
                "instruction_id_list": row.ids, "strict": followed.strict, "loose": followed.loose,
            });
            SuiteSample::new(row.key.clone(), figures, more)
        });
        let samples: Vec<SuiteSample> = samples.collect();
        let mut metrics = averages(&samples, &["prompt_level_strict_acc", "prompt_level_loose_acc"]);
        let strict = instruction_level(followed.iter().map(|one| one.strict.as_slice()));
        let loose = instruction_level(followed.iter().map(|one| one.loose.as_slice()));
        for (name, values) in [("inst_level_strict_acc", &strict), ("inst_level_loose_acc", &loose)] {
            metrics.extend(Average::of(values).map(|average| (name.to_owned(), average)));
        }
        Ok(SuiteOutcome {
            metrics,
            categories: by_kind(&self.rows, &followed),
            samples,
            ..SuiteOutcome::default()
        })
    }
}

/// The figures of each kind of instruction.
fn by_kind(rows: &[InstructionRow], followed: &[Followed]) -> Vec<(String, Vec<(String, Average)>)> {
    ifeval::INSTRUCTION_IDS
        .iter()
        .filter_map(|kind| {
            let of = |values: fn(&Followed) -> &[bool]| {
                let of_kind = rows.iter().zip(followed).flat_map(|(row, one)| {
                    let places = row.ids.iter().zip(values(one)).filter(|(id, _)| id == kind);
                    places.map(|(_, follows)| f64::from(u8::from(*follows))).collect::<Vec<_>>()
                });
                Average::of(&of_kind.collect::<Vec<_>>())
            };
            let (strict, loose) = (of(|one| &one.strict)?, of(|one| &one.loose)?);
            Some((
                (*kind).to_owned(),
                vec![("strict_acc".to_owned(), strict), ("loose_acc".to_owned(), loose)],
            ))
        })
        .collect()
}
