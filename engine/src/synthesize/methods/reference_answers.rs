//! The seed's own answer is chosen, the model's rejected.

use super::{Synthesis, questions_of};
use crate::error::Result;
use crate::synthesize::row::{Answer, SynthesizedRow};
use crate::synthesize::seeds::Seed;

pub(super) fn make(work: &mut Synthesis<'_>, seeds: &[Seed]) -> Result<Vec<SynthesizedRow>> {
    let replies = work.steps.ask("generator", "own", &questions_of(seeds))?;
    let rows = seeds.iter().zip(replies).map(|(seed, own)| SynthesizedRow {
        id: seed.id.clone(),
        prompt: seed.messages.clone(),
        response: Answer::given(seed.answer.as_deref().unwrap_or_default()),
        rejected: Some(Answer::of(own)),
        seed: Some(seed.id.clone()),
        reference: None,
    });
    Ok(rows.collect())
}
