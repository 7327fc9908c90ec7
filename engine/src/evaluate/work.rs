//! What a suite asks: answers, log-likelihoods, judgements, step by step. What is answered is on the disk, shard by shard, and is not asked again.

use std::ops::ControlFlow;

use selfplay_evaluation::suites::multiple_choice::ChoiceRequest;
use selfplay_records::{Message, Prompt};
use selfplay_scorer::Contest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::evaluation_setting::EvaluationSetting;
use super::judge::JudgeSource;
use super::policy::{EvaluatedPolicy, GeneratedText, GenerationInput, GenerationRules};
use super::store::AnswerStore;
use crate::error::{EngineError, Result};

/// Questions of a shard.
const SHARD: usize = 16;

/// A suite at work on one model.
pub(super) struct SuiteWork<'w, 'd> {
    /// What messages call it.
    pub(super) title: String,
    /// What files and annotations call the model.
    pub(super) model: &'w str,
    /// Its name: part of what an answer's randomness goes by.
    pub(super) suite: &'static str,
    pub(super) policy: &'w mut EvaluatedPolicy<'d>,
    pub(super) judge: Option<&'w JudgeSource>,
    pub(super) store: &'w AnswerStore,
    pub(super) setting: &'w EvaluationSetting<'d>,
    /// Prompts that were cut to fit the context.
    pub(super) truncated: usize,
}

/// The shards of a step: answers that are there, and the places of those that are missing.
struct StepShards<T> {
    answers: Vec<Option<Vec<T>>>,
    ids: Vec<Vec<String>>,
}

impl<T: DeserializeOwned> StepShards<T> {
    fn read(store: &AnswerStore, step: &str, ids: &[String]) -> Result<Self> {
        let ids: Vec<Vec<String>> = ids.chunks(SHARD).map(<[String]>::to_vec).collect();
        let read = |(shard, ids): (usize, &Vec<String>)| store.read(step, shard, ids);
        Ok(Self { answers: ids.iter().enumerate().map(read).collect::<Result<_>>()?, ids })
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.ids.len()).filter(|&shard| self.answers[shard].is_none()).collect()
    }

    fn whole(self, step: &str) -> Result<Vec<T>> {
        let wanted: usize = self.ids.iter().map(Vec::len).sum();
        let answers: Vec<T> = self.answers.into_iter().flatten().flatten().collect();
        if answers.len() == wanted {
            return Ok(answers);
        }
        Err(EngineError::failure(format!("{step}: {} of {wanted} questions were answered", answers.len())))
    }
}

/// The rows of a shard among all.
fn rows_of<T>(rows: &[T], shard: usize) -> &[T] {
    rows.chunks(SHARD).nth(shard).unwrap_or_default()
}

impl SuiteWork<'_, '_> {
    /// An error when a signal has asked for a stop.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    fn check_stop(&self) -> Result<()> {
        let Some(signal) = self.setting.stop.requested() else { return Ok(()) };
        let folder = self.store.folder().display();
        let kept = format!("what is answered lies in {folder}, and the same command goes on from there");
        Err(EngineError::Stopped { signal, kept })
    }

    /// What a raw text is given to the model as.
    pub(super) fn text_input(&self, text: String, applies_template: bool) -> GenerationInput {
        if applies_template {
            GenerationInput::Conversation(vec![Message::user(text)])
        } else {
            GenerationInput::Text(text)
        }
    }

    /// What an instruction is given to the model as: a user's turn, or, for a model without a template, a text.
    pub(super) fn instruction_input(&self, text: String) -> GenerationInput {
        let has_template = self.policy.has_template();
        self.text_input(text, has_template)
    }

    /// Answers to questions with ids of their own within the step.
    ///
    /// # Errors
    /// A question that cannot be asked; a stop by a signal.
    pub(super) fn generate(
        &mut self,
        step: &str,
        questions: &[(String, GenerationInput)],
        rules: &GenerationRules,
    ) -> Result<Vec<GeneratedText>> {
        let ids: Vec<String> = questions.iter().map(|(id, _)| id.clone()).collect();
        let mut shards = StepShards::read(self.store, step, &ids)?;
        let missing = shards.missing();
        let mut asked: Vec<Vec<Prompt>> = Vec::with_capacity(missing.len());
        for (shard, _) in shards.ids.iter().enumerate() {
            let mut prompts = Vec::new();
            for (id, input) in rows_of(questions, shard) {
                let id = format!("{}/{step}/{id}", self.suite);
                let encoded = self.policy.encode(id, input, rules.max_new_tokens)?;
                // Counted also of shards that are there: the figure is the same after a kill.
                self.truncated += usize::from(encoded.is_truncated);
                prompts.push(encoded.prompt);
            }
            if missing.contains(&shard) {
                asked.push(prompts);
            }
        }
        if !missing.is_empty() {
            self.check_stop()?;
            let total = asked.iter().map(Vec::len).sum::<usize>();
            let task =
                self.setting.progress.task(format!("{}: {step}", self.title), "questions", total as u64);
            let (store, stop, kept_ids) = (self.store, self.setting.stop, shards.ids.clone());
            let folder = store.folder().to_path_buf();
            let mut keep = |place: usize, answers: Vec<GeneratedText>| {
                let shard = missing[place];
                store.write(step, shard, &kept_ids[shard], &answers)?;
                shards.answers[shard] = Some(answers);
                match stop.requested() {
                    None => Ok(()),
                    Some(signal) => Err(EngineError::Stopped {
                        signal,
                        kept: format!(
                            "what is answered lies in {}, and the same command goes on from there",
                            folder.display()
                        ),
                    }),
                }
            };
            let mut seen = 0;
            let mut on_progress = |finished: usize, tokens: u64| {
                seen = tokens;
                task.set(finished as u64, "");
            };
            self.policy.generate(&asked, rules, &mut on_progress, &mut keep)?;
            task.finish(&format!("{total} questions answered, {seen} tokens"));
        }
        shards.whole(step)
    }

    /// Log-likelihoods of the continuations of each question, in nats. Neighbours with the same context share its computation.
    ///
    /// # Errors
    /// A continuation that cannot be computed, by its question; a stop by a signal.
    pub(super) fn log_likelihoods(
        &mut self,
        step: &str,
        questions: &[(String, Vec<ChoiceRequest>)],
    ) -> Result<Vec<Vec<f64>>> {
        self.by_shards(step, "questions", questions, |work, some| {
            let named = |(id, requests): &(String, Vec<ChoiceRequest>)| {
                let name = format!("{}: row {id}", work.suite);
                requests.iter().map(|request| (name.clone(), request.clone())).collect::<Vec<_>>()
            };
            let flat: Vec<(String, ChoiceRequest)> = some.iter().flat_map(named).collect();
            let mut values = work.policy.log_likelihoods(&flat)?.into_iter();
            Ok(some.iter().map(|(_, requests)| values.by_ref().take(requests.len()).collect()).collect())
        })
    }

    /// P(first ≻ second) of each contest by the preference model. The policy's memory is given back.
    ///
    /// # Errors
    /// A judge that does not load, a contest that it cannot take; a stop by a signal.
    pub(super) fn win_probabilities(
        &mut self,
        step: &str,
        contests: &[(String, Contest)],
    ) -> Result<Vec<f64>> {
        self.policy.put_away();
        let mut model = None;
        self.by_shards(step, "comparisons", contests, |work, some| {
            if model.is_none() {
                let judge = work.judge()?;
                model = Some(judge.preference_model(work.store.folder(), work.setting.device)?);
            }
            let contests: Vec<Contest> = some.iter().map(|(_, contest)| contest.clone()).collect();
            Ok(model
                .as_ref()
                .map(|model| model.win_probabilities(&contests))
                .transpose()?
                .unwrap_or_default())
        })
    }

    /// What the judge writes. The policy's memory is given back.
    ///
    /// # Errors
    /// As [`SuiteWork::win_probabilities`].
    pub(super) fn judgements(
        &mut self,
        step: &str,
        questions: &[(String, Vec<Message>)],
    ) -> Result<Vec<String>> {
        self.policy.put_away();
        let mut judge = None;
        self.by_shards(step, "judgements", questions, |work, some| {
            if judge.is_none() {
                judge = Some(work.judge()?.text_judge(work.store.folder(), work.setting.device)?);
            }
            let conversations: Vec<Vec<Message>> = some.iter().map(|(_, turns)| turns.clone()).collect();
            let stop = work.setting.stop;
            let mut progress = |_: usize| match stop.requested() {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            };
            let texts = judge.as_ref().map(|judge| judge.write(&conversations, &mut progress)).transpose()?;
            work.check_stop()?;
            Ok(texts.unwrap_or_default())
        })
    }

    fn judge(&self) -> Result<&JudgeSource> {
        self.judge.ok_or_else(|| EngineError::failure(format!("{}: no judge was found for it", self.suite)))
    }

    /// Asks shard by shard what is missing.
    fn by_shards<Q, T: Serialize + DeserializeOwned>(
        &mut self,
        step: &str,
        unit: &'static str,
        questions: &[(String, Q)],
        mut ask: impl FnMut(&mut Self, &[(String, Q)]) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let ids: Vec<String> = questions.iter().map(|(id, _)| id.clone()).collect();
        let mut shards = StepShards::read(self.store, step, &ids)?;
        let missing = shards.missing();
        if !missing.is_empty() {
            let total: usize = missing.iter().map(|&shard| shards.ids[shard].len()).sum();
            let task = self.setting.progress.task(format!("{}: {step}", self.title), unit, total as u64);
            let mut done = 0;
            for shard in missing {
                self.check_stop()?;
                let answers = ask(self, rows_of(questions, shard))?;
                self.store.write(step, shard, &shards.ids[shard], &answers)?;
                done += answers.len();
                task.set(done as u64, "");
                shards.answers[shard] = Some(answers);
            }
            task.finish(&format!("{done} {unit}"));
        }
        shards.whole(step)
    }
}
