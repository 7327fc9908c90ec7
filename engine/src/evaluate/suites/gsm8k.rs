//! GSM8K over a model.

use selfplay_evaluation::suites::fewshot::{FewshotRule, FewshotSampler};
use selfplay_evaluation::suites::gsm8k::{
    self, FEWSHOT, MAX_NEW_TOKENS, MathProblem, STOP, context, flexible_extract, strict_match,
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

const FIGURES: [&str; 2] = ["strict-match", "flexible-extract"];

struct Gsm8k {
    problems: Vec<MathProblem>,
    contexts: Vec<String>,
    applies_template: bool,
    rules: GenerationRules,
}

/// Reads the problems and chooses examples.
pub(in crate::evaluate) fn open(files: &SuiteFiles, settings: &SuiteSettings) -> Result<Box<dyn Suite>> {
    let all = rows_of(files.own(), gsm8k::read)?;
    let solved = files.more("fewshot").map(|files| rows_of(files, gsm8k::read)).transpose()?;
    let (pool, is_own) = (solved.as_deref().unwrap_or(&all), solved.is_none());
    let wanted = settings.num_fewshot.unwrap_or(FEWSHOT);
    let mut sampler = FewshotSampler::new(FewshotRule::Drawn);
    let problems = settings.limited(all.clone());
    let contexts = problems.iter().enumerate().map(|(row, problem)| {
        let chosen = sampler.next(pool.len(), wanted, is_own.then_some(row));
        context(&chosen.into_iter().map(|place| &pool[place]).collect::<Vec<_>>(), problem)
    });
    let rules = GenerationRules {
        temperature: settings.temperature.unwrap_or(0.0),
        max_new_tokens: settings.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        stop: STOP.map(str::to_owned).to_vec(),
    };
    let (contexts, applies_template) = (contexts.collect(), settings.apply_chat_template);
    Ok(Box::new(Gsm8k { problems, contexts, applies_template, rules }))
}

impl Suite for Gsm8k {
    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome> {
        let questions: Vec<_> = self
            .contexts
            .iter()
            .enumerate()
            .map(|(row, text)| (row.to_string(), work.text_input(text.clone(), self.applies_template)))
            .collect();
        let answers = work.generate("answers", &questions, &self.rules)?;
        let samples = self.problems.iter().zip(&answers).enumerate().map(|(row, (problem, answer))| {
            let strict = strict_match(&answer.text, &problem.answer);
            let flexible = flexible_extract(&answer.text, &problem.answer);
            let right = |is_right| f64::from(u8::from(is_right));
            let more = json!({
                "question": problem.question, "answer": problem.answer, "response": answer.text, "tokens": answer.tokens,
                "extracted": {"strict-match": strict.text, "flexible-extract": flexible.text},
            });
            let figures = [("strict-match", right(strict.is_right)), ("flexible-extract", right(flexible.is_right))];
            SuiteSample::new(row.to_string(), figures, more)
        });
        let samples: Vec<SuiteSample> = samples.collect();
        Ok(SuiteOutcome { metrics: averages(&samples, &FIGURES), samples, ..SuiteOutcome::default() })
    }
}
