//! MT-bench over a model: two turns, then a judge that rates each, or compares it with a baseline's.

use std::collections::HashMap;

use selfplay_evaluation::suites::mt_bench::{
    JudgePrompt, JudgePrompts, JudgedTurn, ModelAnswer, MtBenchQuestion, PairJudgment, PairWinner,
    SingleJudgment, needs_reference, pair_figures, pair_winner, rating, read_answers, read_questions,
    single_figures, temperature,
};
use selfplay_records::Message;
use serde_json::{Value, json};

use super::rows::{bad_row, rows_of};
use crate::error::{EngineError, Result};
use crate::evaluate::judge::JudgeNeed;
use crate::evaluate::lines::json_lines;
use crate::evaluate::names::{MODEL_ANSWERS, PAIR_JUDGMENTS, SINGLE_JUDGMENTS};
use crate::evaluate::outcome::{NamedAverage, SuiteOutcome, SuiteSample};
use crate::evaluate::policy::{GenerationInput, GenerationRules};
use crate::evaluate::settings::SuiteSettings;
use crate::evaluate::suite::Suite;
use crate::evaluate::suite_files::SuiteFiles;
use crate::evaluate::work::SuiteWork;

/// Tokens of an answer at most, as FastChat has it.
const MAX_NEW_TOKENS: usize = 1024;

struct MtBench {
    questions: Vec<MtBenchQuestion>,
    references: HashMap<u64, ModelAnswer>,
    baseline: Option<HashMap<u64, ModelAnswer>>,
    prompts: JudgePrompts,
    max_new_tokens: usize,
    temperature: Option<f64>,
}

/// Reads questions, reference answers, wordings and the baseline's answers; each question that needs one has its reference.
pub(in crate::evaluate) fn open(files: &SuiteFiles, settings: &SuiteSettings) -> Result<Box<dyn Suite>> {
    let questions = settings.limited(rows_of(files.own(), read_questions)?);
    let references = files.one("references")?.map(read_answers).transpose()?.unwrap_or_default();
    let baseline = files.one("baseline")?.map(read_answers).transpose()?;
    let prompts = match files.one("prompts")? {
        Some(path) => JudgePrompts::read(path)?,
        None => JudgePrompts::own(),
    };
    let suite = MtBench {
        questions,
        references,
        baseline,
        prompts,
        max_new_tokens: settings.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        temperature: settings.temperature,
    };
    suite.check()?;
    Ok(Box::new(suite))
}

/// A turn that is judged, with the wording.
struct AskedTurn<'a> {
    turn: JudgedTurn<'a>,
    prompt: &'a JudgePrompt,
}

impl MtBench {
    /// That everything that the judge is shown is there, and that the wordings have places for it, before hours of answers.
    fn check(&self) -> Result<()> {
        for asked in self.asked()? {
            let question = asked.turn.question;
            let blank =
                ModelAnswer { question_id: question.id, model: String::new(), turns: vec![String::new(); 2] };
            self.conversation(&asked, &blank, true)?;
        }
        Ok(())
    }

    /// Every turn of every question.
    fn asked(&self) -> Result<Vec<AskedTurn<'_>>> {
        let mut asked = Vec::new();
        for question in &self.questions {
            let reference = self.references.get(&question.id);
            if reference.is_none() && needs_reference(&question.category) {
                let problem = format!(
                    "the category {:?} is judged with a reference answer, and there is none; give --data mt_bench.references=FILE",
                    question.category
                );
                return Err(bad_row("mt_bench", format!("question_id {}", question.id), problem));
            }
            let reference = reference.filter(|_| needs_reference(&question.category));
            for place in 0..question.turns.len() {
                let turn = JudgedTurn { question, reference, is_second: place == 1 };
                let prompt = self.prompts.of(self.baseline.is_some(), &turn).map_err(|name| {
                    EngineError::input(format!(
                        "--data mt_bench.prompts: no wording named {name:?} in the file"
                    ))
                })?;
                asked.push(AskedTurn { turn, prompt });
            }
        }
        Ok(asked)
    }

    /// What the judge is asked about an answer; of a pair, in one of both orders.
    fn conversation(
        &self,
        asked: &AskedTurn<'_>,
        answer: &ModelAnswer,
        is_first: bool,
    ) -> Result<Vec<Message>> {
        let question = asked.turn.question;
        let filled = match &self.baseline {
            None => asked.prompt.single(&asked.turn, answer),
            Some(baseline) => {
                let Some(other) = baseline.get(&question.id) else {
                    let problem = "the baseline has no answer to it";
                    return Err(bad_row(
                        "mt_bench.baseline",
                        format!("question_id {}", question.id),
                        problem,
                    ));
                };
                let (a, b) = if is_first { (answer, other) } else { (other, answer) };
                asked.prompt.pair(&asked.turn, a, b)
            }
        };
        let user = filled.map_err(|problem| {
            EngineError::input(format!("--data mt_bench.prompts: {:?}: {problem}", asked.prompt.name))
        })?;
        let mut turns = Vec::new();
        if !asked.prompt.system.is_empty() {
            turns.push(Message::new("system", asked.prompt.system.clone()));
        }
        turns.push(Message::user(user));
        Ok(turns)
    }

    /// The model's answers, turn after turn.
    fn answer(&self, work: &mut SuiteWork<'_, '_>) -> Result<Vec<ModelAnswer>> {
        let model = work.model.to_owned();
        let mut answers: Vec<ModelAnswer> = self
            .questions
            .iter()
            .map(|question| ModelAnswer { question_id: question.id, model: model.clone(), turns: Vec::new() })
            .collect();
        let temperature =
            |question: &MtBenchQuestion| self.temperature.unwrap_or(temperature(&question.category));
        let mut temperatures: Vec<f64> = self.questions.iter().map(temperature).collect();
        temperatures.sort_unstable_by(f64::total_cmp);
        temperatures.dedup();
        for turn in 0..2 {
            for (number, &wanted) in temperatures.iter().enumerate() {
                let places: Vec<usize> = (0..self.questions.len())
                    .filter(|&place| {
                        self.questions[place].turns.len() > turn
                            && temperature(&self.questions[place]) == wanted
                    })
                    .collect();
                let questions: Vec<_> = places
                    .iter()
                    .map(|&place| {
                        let question = &self.questions[place];
                        let mut turns = Vec::new();
                        for (said, answered) in question.turns.iter().zip(&answers[place].turns) {
                            turns.push(Message::user(said.clone()));
                            turns.push(Message::assistant(answered.clone()));
                        }
                        turns.push(Message::user(question.turns[turn].clone()));
                        (question.id.to_string(), GenerationInput::Conversation(turns))
                    })
                    .collect();
                let rules = GenerationRules {
                    temperature: wanted,
                    max_new_tokens: self.max_new_tokens,
                    stop: Vec::new(),
                };
                let step = format!("turn_{}_{number}", turn + 1);
                let found = work.generate(&step, &questions, &rules)?;
                for (place, answer) in places.into_iter().zip(found) {
                    // As FastChat keeps them.
                    answers[place].turns.push(answer.text.trim().to_owned());
                }
            }
        }
        Ok(answers)
    }
}

impl Suite for MtBench {
    fn judge(&self) -> Option<JudgeNeed> {
        Some(JudgeNeed::Text)
    }

    fn run(&self, work: &mut SuiteWork<'_, '_>) -> Result<SuiteOutcome> {
        let answers = self.answer(work)?;
        let by_id: HashMap<u64, &ModelAnswer> =
            answers.iter().map(|answer| (answer.question_id, answer)).collect();
        let asked = self.asked()?;
        let orders: &[bool] = if self.baseline.is_some() { &[true, false] } else { &[true] };
        let mut questions = Vec::new();
        for one in &asked {
            let question = one.turn.question;
            for is_first in orders {
                let order = if *is_first { "" } else { "_reversed" };
                let id = format!("{}_{}{order}", question.id, 1 + u8::from(one.turn.is_second));
                questions.push((id, self.conversation(one, by_id[&question.id], *is_first)?));
            }
        }
        let texts = work.judgements("judgements", &questions)?;
        let judge = work.judge.map_or(String::new(), |judge| judge.name.clone());
        let judged: Vec<JudgedAnswer<'_>> = asked
            .iter()
            .zip(questions.chunks(orders.len()))
            .zip(texts.chunks(orders.len()))
            .map(|((asked, questions), texts)| JudgedAnswer {
                asked,
                answer: by_id[&asked.turn.question.id],
                prompts: questions
                    .iter()
                    .map(|(_, turns)| turns.last().map_or("", |turn| turn.content.as_str()))
                    .collect(),
                texts,
            })
            .collect();
        let mut outcome =
            if self.baseline.is_some() { self.pairs(&judged, &judge) } else { singles(&judged, &judge) };
        let rows = answers.iter().map(ModelAnswer::to_value);
        outcome.files.push((MODEL_ANSWERS.to_owned(), json_lines(rows)));
        Ok(outcome)
    }
}

/// A turn with what the judge was asked and wrote, in one order or both.
struct JudgedAnswer<'a> {
    asked: &'a AskedTurn<'a>,
    answer: &'a ModelAnswer,
    prompts: Vec<&'a str>,
    texts: &'a [String],
}

impl JudgedAnswer<'_> {
    fn turn(&self) -> u8 {
        1 + u8::from(self.asked.turn.is_second)
    }

    fn text(&self, place: usize) -> &str {
        self.texts.get(place).map_or("", String::as_str)
    }

    fn sample(&self, figure: Option<(&str, f64)>, more: Value) -> SuiteSample {
        let id = format!("{}_{}", self.asked.turn.question.id, self.turn());
        SuiteSample::new(id, figure, more)
    }
}

fn categories(named: Vec<NamedAverage>, figure: &str) -> Vec<(String, Vec<NamedAverage>)> {
    named.into_iter().map(|(category, average)| (category, vec![(figure.to_owned(), average)])).collect()
}

/// Ratings, in FastChat's file `JUDGE_single.jsonl`.
fn singles(judged: &[JudgedAnswer<'_>], judge: &str) -> SuiteOutcome {
    let mut outcome = SuiteOutcome::default();
    let (mut judgments, mut rows) = (Vec::new(), Vec::new());
    for one in judged {
        let question = one.asked.turn.question;
        let score = rating(one.text(0));
        judgments.push(SingleJudgment {
            question_id: question.id,
            category: question.category.clone(),
            turn: one.turn(),
            score,
        });
        rows.push(json!({
            "question_id": question.id, "model": one.answer.model, "judge": [judge, one.asked.prompt.name],
            "user_prompt": one.prompts.first(), "judgment": one.text(0), "score": score.unwrap_or(-1.0), "turn": one.turn(),
            "tstamp": 0.0,
        }));
        let more = json!({"category": question.category, "judgment": one.text(0)});
        outcome.samples.push(one.sample(score.map(|score| ("average", score)), more));
    }
    let unrated = judgments.iter().filter(|one| one.score.is_none()).count();
    if unrated > 0 {
        outcome.notes.push(format!(
            "{unrated} of {} turns without a rating in the judge's text, left out",
            judgments.len()
        ));
    }
    let (metrics, by_category) = single_figures(&judgments);
    (outcome.metrics, outcome.categories) = (metrics, categories(by_category, "average"));
    outcome.files.push((SINGLE_JUDGMENTS.to_owned(), json_lines(rows)));
    outcome
}

impl MtBench {
    /// Choices between the model and the baseline, in FastChat's file `JUDGE_pair.jsonl`; the model is its `model_1`.
    fn pairs(&self, judged: &[JudgedAnswer<'_>], judge: &str) -> SuiteOutcome {
        let mut outcome = SuiteOutcome::default();
        let (mut judgments, mut rows) = (Vec::new(), Vec::new());
        for one in judged {
            let question = one.asked.turn.question;
            let judgment = PairJudgment {
                question_id: question.id,
                category: question.category.clone(),
                turn: one.turn(),
                model_first: pair_winner(one.text(0)),
                model_second: pair_winner(one.text(1)),
            };
            let other = self.baseline.as_ref().and_then(|answers| answers.get(&question.id));
            rows.push(json!({
                "question_id": question.id, "model_1": one.answer.model, "model_2": other.map(|other| &other.model),
                "g1_winner": named(judgment.model_first, true), "g2_winner": named(judgment.model_second, false),
                "judge": [judge, one.asked.prompt.name], "g1_user_prompt": one.prompts.first(), "g1_judgment": one.text(0),
                "g2_user_prompt": one.prompts.get(1), "g2_judgment": one.text(1), "turn": one.turn(), "tstamp": 0.0,
            }));
            let more = json!({"category": question.category, "judgments": one.texts});
            outcome.samples.push(one.sample(judgment.outcome().map(|won| ("win_rate_adjusted", won)), more));
            judgments.push(judgment);
        }
        let missing = judgments.iter().filter(|one| one.outcome().is_none()).count();
        if missing > 0 {
            outcome.notes.push(format!(
                "{missing} of {} turns without a verdict in one order, left out",
                judgments.len()
            ));
        }
        let (metrics, by_category) = pair_figures(&judgments);
        (outcome.metrics, outcome.categories) = (metrics, categories(by_category, "win_rate_adjusted"));
        outcome.files.push((PAIR_JUDGMENTS.to_owned(), json_lines(rows)));
        outcome
    }
}

/// FastChat's word for a winner, with the model shown first or second.
fn named(winner: PairWinner, model_is_first: bool) -> &'static str {
    match (winner, model_is_first) {
        (PairWinner::A, true) | (PairWinner::B, false) => "model_1",
        (PairWinner::B, true) | (PairWinner::A, false) => "model_2",
        (PairWinner::Tie, _) => "tie",
        (PairWinner::Missing, _) => "error",
    }
}
