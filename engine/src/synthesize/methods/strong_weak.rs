//! The strong model's answer is chosen, the weak one's rejected.

use super::{Synthesis, questions_of};
use crate::error::Result;
use crate::synthesize::row::{Answer, SynthesizedRow};
use crate::synthesize::seeds::Seed;

pub(super) fn make(work: &mut Synthesis<'_>, seeds: &[Seed]) -> Result<Vec<SynthesizedRow>> {
    let questions = questions_of(seeds);
    let strong = work.steps.ask("generator", "strong", &questions)?;
    let weak = work.steps.ask("weak", "weak", &questions)?;
    let rows = seeds.iter().zip(strong.into_iter().zip(weak)).map(|(seed, (strong, weak))| SynthesizedRow {
        id: seed.id.clone(),
        prompt: seed.messages.clone(),
        response: Answer::of(strong),
        rejected: Some(Answer::of(weak)),
        seed: Some(seed.id.clone()),
        reference: seed.answer.clone(),
    });
    Ok(rows.collect())
}
