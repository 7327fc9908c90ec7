//! Questions with choices over a model: ARC, HellaSwag, WinoGrande, MMLU, TruthfulQA.

use std::collections::{BTreeMap, HashSet};

use selfplay_evaluation::suites::average::Average;
use selfplay_evaluation::suites::fewshot::FewshotSampler;
use selfplay_evaluation::suites::multiple_choice::{
    self, ChoiceLayout, ChoiceQuestion, ChoiceRequest, figures, requests,
};
use selfplay_records::read_regular_text;
use serde_json::json;

use super::rows::rows_of;
use crate::error::{EngineError, Result};
use crate::evaluate::outcome::{NamedAverage, SuiteOutcome, SuiteSample, averages};
use crate::evaluate::settings::SuiteSettings;
use crate::evaluate::suite::Suite;
use crate::evaluate::suite_files::SuiteFiles;
use crate::evaluate::work::SuiteWork;

/// Bytes of a prefix at most.
const LONGEST_PREFIX: u64 = 1 << 20;

struct Choices {
    layout: ChoiceLayout,
    questions: Vec<ChoiceQuestion>,
    /// The continuations of each question.
    requests: Vec<(String, Vec<ChoiceRequest>)>,
    notes: Vec<String>,
}

/// Reads the questions and chooses examples.
pub(in crate::evaluate) fn open(
    layout: ChoiceLayout,
    files: &SuiteFiles,
    settings: &SuiteSettings,
) -> Result<Box<dyn Suite>> {
    let wanted = settings.num_fewshot.unwrap_or(0);
    if wanted > 0 && !layout.takes_examples() {
        return Err(EngineError::input(
            "--num-fewshot: TruthfulQA has one text of examples for all questions; give it with --data truthfulqa_mc1.prefix=FILE",
        ));
    }
    if settings.apply_chat_template {
        return Err(EngineError::input(
            "--apply-chat-template: questions with choices are raw text, as lm-eval asks them by default; leave the flag out, or \
             evaluate such suites in a command of their own",
        ));
    }
    let mut notes = Vec::new();
    let prefix = match files.one("prefix")? {
        None => String::new(),
        Some(path) => {
            let text =
                read_regular_text(path, LONGEST_PREFIX).map_err(|source| EngineError::named(path, source))?;
            // Examples and question have an empty line between.
            format!("{}\n\n", text.trim_end())
        }
    };
    if prefix.is_empty() && !layout.takes_examples() {
        notes.push(
            "without the published examples (--data truthfulqa_mc1.prefix=FILE): figures are not comparable"
                .to_owned(),
        );
    }
    let read =
        |files: &[std::path::PathBuf]| rows_of(files, |file| multiple_choice::read(layout, file, &prefix));
    let mut all = read(files.own())?;
    with_own_ids(&mut all);
    let solved = files.more("fewshot").map(read).transpose()?;
    let (pool, is_own) = (solved.as_deref().unwrap_or(&all), solved.is_none());
    let questions = settings.limited(all.clone());
    let mut samplers: BTreeMap<Option<String>, FewshotSampler> = BTreeMap::new();
    let asked = questions.iter().enumerate().map(|(row, question)| {
        // MMLU's subjects are tasks of their own: each has its examples.
        let is_of = |place: &usize| pool[*place].category == question.category;
        let places: Vec<usize> =
            if wanted == 0 { Vec::new() } else { (0..pool.len()).filter(is_of).collect() };
        let own = if is_own { places.iter().position(|&place| place == row) } else { None };
        let sampler = samplers
            .entry(question.category.clone())
            .or_insert_with(|| FewshotSampler::new(layout.fewshot_rule()));
        let chosen = sampler.next(places.len(), wanted, own);
        let examples: Vec<&ChoiceQuestion> = chosen.into_iter().map(|place| &pool[places[place]]).collect();
        (question.id.clone(), requests(question, &examples))
    });
    let requests = asked.collect();
    Ok(Box::new(Choices { layout, questions, requests, notes }))
}

/// Numbers the questions where files have an id twice.
fn with_own_ids(questions: &mut [ChoiceQuestion]) {
    let mut seen = HashSet::new();
    if questions.iter().all(|question| seen.insert(question.id.clone())) {
        return;
    }
    for (number, question) in questions.iter_mut().enumerate() {
        question.id = number.to_string();
    }
}

impl Suite for Choices {
    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome> {
        let scores = work.log_likelihoods("choices", &self.requests)?;
        let wanted = self.layout.figures();
        let samples = self.questions.iter().zip(&scores).map(|(question, scores)| {
            let figures = figures(question, scores).into_iter().filter(|(name, _)| wanted.contains(name));
            let more = json!({
                "category": question.category, "choices": question.choices, "log_likelihoods": scores,
                "correct": match &question.correct {
                    multiple_choice::Correct::One(right) => json!(right),
                    multiple_choice::Correct::Each(truths) => json!(truths),
                },
            });
            SuiteSample::new(question.id.clone(), figures, more)
        });
        let samples: Vec<SuiteSample> = samples.collect();
        let categories = categories(&self.questions, &samples, wanted);
        let mut metrics = averages(&samples, wanted);
        if !categories.is_empty() {
            // As lm-eval has a group of subtasks: the error of deviations from each one's own mean.
            for (name, average) in &mut metrics {
                let of = |(_, named): &(String, Vec<NamedAverage>)| {
                    named.iter().find(|(other, _)| other == name).map(|(_, average)| *average)
                };
                let groups: Vec<Average> = categories.iter().filter_map(of).collect();
                *average = Average::pooled(&groups).unwrap_or(*average);
            }
        }
        Ok(SuiteOutcome {
            metrics,
            categories,
            samples,
            notes: self.notes.clone(),
            ..SuiteOutcome::default()
        })
    }
}

fn categories(
    questions: &[ChoiceQuestion],
    samples: &[SuiteSample],
    wanted: &[&str],
) -> Vec<(String, Vec<NamedAverage>)> {
    let mut groups: BTreeMap<&str, Vec<&SuiteSample>> = BTreeMap::new();
    for (question, sample) in questions.iter().zip(samples) {
        if let Some(category) = &question.category {
            groups.entry(category).or_default().push(sample);
        }
    }
    groups
        .into_iter()
        .map(|(name, group)| (name.to_owned(), averages(group.iter().copied(), wanted)))
        .collect()
}
