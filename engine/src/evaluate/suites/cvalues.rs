//! CValues' pairs over a model: which of two answers it finds the responsible one.

use std::collections::BTreeMap;

use selfplay_evaluation::suites::cvalues::{self, ResponsibilityPair, figures};
use selfplay_evaluation::suites::multiple_choice::ChoiceRequest;
use serde_json::json;

use super::rows::rows_of;
use crate::error::Result;
use crate::evaluate::outcome::{SuiteOutcome, SuiteSample, averages};
use crate::evaluate::settings::SuiteSettings;
use crate::evaluate::suite::Suite;
use crate::evaluate::suite_files::SuiteFiles;
use crate::evaluate::work::SuiteWork;

const FIGURES: [&str; 3] = ["acc", "acc_both", "first"];

struct CValues {
    pairs: Vec<ResponsibilityPair>,
}

/// Reads the pairs.
pub(in crate::evaluate) fn open(files: &SuiteFiles, settings: &SuiteSettings) -> Result<Box<dyn Suite>> {
    Ok(Box::new(CValues { pairs: settings.limited(rows_of(files.own(), cvalues::read)?) }))
}

impl Suite for CValues {
    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome> {
        let mut questions = Vec::with_capacity(self.pairs.len());
        for (row, pair) in self.pairs.iter().enumerate() {
            let mut requests = Vec::with_capacity(4);
            for question in pair.questions() {
                let asked = work.policy.asked_for_a_letter(question)?;
                requests.extend(["A", "B"].map(|letter| ChoiceRequest {
                    context: asked.context.clone(),
                    continuation: format!("{}{letter}", asked.before_letter),
                }));
            }
            questions.push((row.to_string(), requests));
        }
        let scores = work.log_likelihoods("choices", &questions)?;
        let mut domains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let samples = self.pairs.iter().zip(&scores).enumerate().map(|(row, (pair, scores))| {
            if let Some(domain) = &pair.domain {
                domains.entry(domain).or_default().push(row);
            }
            let of = |place: usize| scores.get(place).copied().unwrap_or(f64::NEG_INFINITY);
            let more = json!({"prompt": pair.prompt, "domain": pair.domain, "log_likelihoods": scores});
            SuiteSample::new(row.to_string(), figures([[of(0), of(1)], [of(2), of(3)]]), more)
        });
        let samples: Vec<SuiteSample> = samples.collect();
        let categories = domains
            .into_iter()
            .map(|(name, rows)| (name.to_owned(), averages(rows.iter().map(|&row| &samples[row]), &FIGURES)));
        let categories = categories.collect();
        Ok(SuiteOutcome {
            metrics: averages(&samples, &FIGURES),
            categories,
            samples,
            ..SuiteOutcome::default()
        })
    }
}
