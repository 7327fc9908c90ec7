//! The methods, one a file: what is asked of whom, and what becomes a row.

mod evol_instruct;
mod examples;
mod explanations;
mod reference_answers;
mod strong_weak;

use super::question::{ModelQuestion, ModelReply};
use super::row::{Answer, SynthesizedRow};
use super::seeds::Seed;
use super::steps::SynthesisSteps;
use super::templates::Templates;
use crate::error::Result;
use crate::recipe::{SynthesisMethod, SynthesizeSection};

/// A synthesis at work.
pub(super) struct Synthesis<'a> {
    pub(super) section: &'a SynthesizeSection,
    /// The recipe's.
    pub(super) seed: u64,
    pub(super) templates: Templates,
    pub(super) steps: SynthesisSteps<'a>,
}

/// Makes the method's rows, before any filter.
///
/// # Errors
/// When a model cannot be asked.
pub(super) fn make(work: &mut Synthesis<'_>, seeds: &[Seed]) -> Result<Vec<SynthesizedRow>> {
    match work.section.method {
        SynthesisMethod::StrongWeak => strong_weak::make(work, seeds),
        SynthesisMethod::ReferenceAnswers => reference_answers::make(work, seeds),
        SynthesisMethod::Examples => examples::make(work, seeds),
        SynthesisMethod::EvolInstruct => evol_instruct::make(work, seeds),
        SynthesisMethod::Explanations => explanations::make(work, seeds),
    }
}

/// A question for each seed, as it stands.
fn questions_of(seeds: &[Seed]) -> Vec<ModelQuestion> {
    seeds.iter().map(|seed| ModelQuestion { id: seed.id.clone(), messages: seed.messages.clone() }).collect()
}

/// A request that was made, before it is answered.
struct NewRequest {
    id: String,
    text: String,
    seed: Option<String>,
    /// Of the question that it came from, where that could not be asked or was cut.
    problem: Option<Answer>,
}

/// The generator's answers to requests that were made, as rows. Requests with a problem become rows with it, unanswered.
fn answered(work: &mut Synthesis<'_>, requests: Vec<NewRequest>) -> Result<Vec<SynthesizedRow>> {
    let questions: Vec<ModelQuestion> = requests
        .iter()
        .filter(|request| request.problem.is_none())
        .map(|request| ModelQuestion::user(request.id.clone(), request.text.clone()))
        .collect();
    let mut replies = work.steps.ask("generator", "answers", &questions)?.into_iter();
    let row = |request: NewRequest| {
        let response = match request.problem {
            Some(problem) => problem,
            None => replies.next().map(Answer::of).unwrap_or_default(),
        };
        SynthesizedRow {
            prompt: ModelQuestion::user(String::new(), request.text).messages,
            id: request.id,
            response,
            rejected: None,
            seed: request.seed,
            reference: None,
        }
    };
    Ok(requests.into_iter().map(row).collect())
}

/// The problem of a reply that holds no request, as the answer of a row.
fn problem_of(reply: &ModelReply) -> Option<Answer> {
    let answer = Answer::of(reply.clone());
    (answer.is_cut || answer.refused.is_some()).then(|| Answer { text: String::new(), ..answer })
}
