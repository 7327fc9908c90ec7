//! Each seed is answered under a system message that asks for an explanation; the message stays in the row.

use selfplay_records::{Message, counter};

use super::Synthesis;
use crate::error::Result;
use crate::synthesize::question::ModelQuestion;
use crate::synthesize::row::{Answer, SynthesizedRow};
use crate::synthesize::seeds::Seed;

pub(super) fn make(work: &mut Synthesis<'_>, seeds: &[Seed]) -> Result<Vec<SynthesizedRow>> {
    let systems = work.templates.system_messages();
    let question = |seed: &Seed| {
        let mut random =
            counter::CounterRng::new(counter::key(work.seed, [counter::fnv1a_64(seed.id.as_bytes())]));
        let system = systems[random.below(systems.len())];
        let mut messages = vec![Message::new("system", system)];
        // A seed's own system message gives way: it asks for another manner of answering.
        messages.extend(seed.messages.iter().filter(|turn| turn.role != "system").cloned());
        ModelQuestion { id: seed.id.clone(), messages }
    };
    let questions: Vec<ModelQuestion> = seeds.iter().map(question).collect();
    let replies = work.steps.ask("generator", "explanations", &questions)?;
    let rows = seeds.iter().zip(questions).zip(replies).map(|((seed, question), reply)| SynthesizedRow {
        id: seed.id.clone(),
        prompt: question.messages,
        response: Answer::of(reply),
        rejected: None,
        seed: Some(seed.id.clone()),
        reference: seed.answer.clone(),
    });
    Ok(rows.collect())
}
