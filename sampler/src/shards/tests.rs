//! The sampler over a model small enough to check by hand: what its tests share.

mod borders;
mod candidates;
mod preemption;

use selfplay_records::{FinishReason, HasKind, Kind, Prompt};

use super::*;
use crate::backend::fake::{FakeModel, FakeText};
use crate::schedule::Counts;
use crate::{PickRule, Picker, Sample, Stop};

const VOCAB: usize = 40;
const CONTEXT: usize = 90;
const STOP_ID: u32 = 7;

fn settings() -> SampleSettings {
    SampleSettings { num_samples: 3, max_new_tokens: 40, temperature: 1.2, ..SampleSettings::default() }
}

/// A prompt with the tokens that it is encoded as.
fn prompt(number: usize, tokens: usize) -> Prompt {
    let prompt_ids = (0..tokens).map(|place| ((number * 31 + place * 7) % VOCAB) as u32).collect();
    Prompt { prompt_id: format!("prompt-{number}"), prompt_ids: Some(prompt_ids), ..Prompt::default() }
}

/// As [`crate::encode`] does it, without a tokenizer.
fn encoded(prompts: &[Prompt]) -> Vec<EncodedPrompt<'_>> {
    let encode = |prompt| EncodedPrompt { prompt, prompt_ids: ids(prompt).to_vec() };
    prompts.iter().map(encode).collect()
}

fn ids(prompt: &Prompt) -> &[u32] {
    prompt.prompt_ids.as_deref().unwrap_or_default()
}

/// The responses of some rows.
pub(super) fn samples(rows: Vec<Candidates>) -> Vec<Vec<Sample>> {
    let of_row = |row: Candidates| {
        let responses = row.responses.into_iter().enumerate();
        let sample = responses.map(|(sample, response)| Sample {
            sample,
            ids: response.ids.unwrap(),
            logprobs: response.logprobs.unwrap(),
            finish_reason: response.finish_reason.unwrap(),
        });
        sample.collect()
    };
    rows.into_iter().map(of_row).collect()
}

fn sampler(model: FakeModel, settings: &SampleSettings) -> Sampler<'static> {
    Sampler::with_backend(Box::new(model), &FakeText, &[STOP_ID], settings).unwrap()
}

fn generate(sampler: &mut Sampler<'_>, prompts: &[Prompt]) -> Vec<Vec<Sample>> {
    samples(sampler.generate(&encoded(prompts), &mut |_| ControlFlow::Continue(())).unwrap())
}

fn sample_with(model: FakeModel, settings: &SampleSettings, prompts: &[Prompt]) -> Vec<Vec<Sample>> {
    generate(&mut sampler(model, settings), prompts)
}

fn sample(settings: &SampleSettings, prompts: &[Prompt]) -> Vec<Vec<Sample>> {
    sample_with(FakeModel::new(VOCAB, CONTEXT), settings, prompts)
}

/// The definition, without cache, batch or schedule.
fn by_hand(settings: &SampleSettings, prompt: &Prompt, sample: usize) -> Sample {
    let model = FakeModel::new(VOCAB, CONTEXT);
    let stream = crate::PromptStream::new(settings.seed, settings.iteration, &prompt.prompt_id);
    let (mut response, mut logprobs) = (Vec::new(), Vec::new());
    let mut picker = Picker::default();
    let finish_reason = loop {
        let logits = model.logits(ids(prompt).iter().chain(&response).copied());
        picker.prepare(&logits, &PickRule::new(&settings.sampling())).unwrap();
        let pick = picker.draw(&logits, stream.uniform(sample as u32, response.len() as u32));
        response.push(pick.id);
        logprobs.push(pick.logprob);
        if pick.id == STOP_ID {
            break FinishReason::Stop;
        }
        if response.len() == settings.max_new_tokens || ids(prompt).len() + response.len() == CONTEXT {
            break FinishReason::Length;
        }
    };
    Sample { sample, ids: response, logprobs, finish_reason }
}

fn no_progress(_: SamplingProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
