//! Tokens of a GPU against the sampler's own choice.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use selfplay_model::check::{CheckTarget, Deviation, noise};
use selfplay_model::ops::draw::{RowDraw, draw};
use selfplay_model::{Architecture, Decoder, LoadOptions};
use selfplay_records::Prompt;
use selfplay_sampler::{
    EncodedPrompt, NativeBackend, PickRule, Picker, PromptStream, SampleSettings, Sampler, Sampling,
};
use serde_json::json;

use super::super::sample::NoText;
use super::super::work::WorkRng;
use crate::bench::fault;
use crate::error::Result;

/// Temperature, top-p, top-k, min-p.
const RULES: [(f64, f64, usize, f64); 6] = [
    (0.0, 1.0, 0, 0.0),
    (1.0, 1.0, 0, 0.0),
    (0.7, 0.9, 0, 0.0),
    (1.0, 1.0, 20, 0.0),
    (1.3, 0.8, 7, 0.05),
    (1.0, 1.0, 0, 0.3),
];

fn exact(name: String, distance: f64) -> Deviation {
    Deviation { name, dtype: DType::F32, distance, bound: 0.0 }
}

/// Draws from rows of several shapes by several rules: how many tokens are others, and how far log-probs are.
pub(super) fn draws(target: &CheckTarget, seed: u64) -> candle_core::Result<Vec<Deviation>> {
    // An emulator takes its time.
    let largest = if target.device().is_cpu() { 700 } else { 128_256 };
    let mut found = Vec::new();
    for vocab in [5, 333, largest] {
        let base: Vec<f32> = noise(&[vocab], seed)?.to_vec1()?;
        let row = |change: &dyn Fn(f32) -> f32| base.iter().map(|&x| change(x)).collect::<Vec<f32>>();
        // Peaked, flat, with ties, with −∞, all equal.
        let rows = [
            row(&|x| 20.0 * x),
            row(&|x| 0.01 * x),
            row(&|x| (4.0 * x).round()),
            row(&|x| if x < -0.3 { f32::NEG_INFINITY } else { 5.0 * x }),
            row(&|_| 1.5),
        ];
        let stream = PromptStream::new(seed, 1, &vocab.to_string());
        let (key, tag) = stream.words();
        let rule = |(temperature, top_p, top_k, min_p): (f64, f64, usize, f64)| {
            PickRule::new(&Sampling { temperature, top_p, top_k, min_p, ..Sampling::default() })
        };
        let rules = RULES.map(rule);
        let places = (0..rows.len() * RULES.len()).map(|place| (place % rows.len(), place % RULES.len()));
        let places: Vec<(usize, usize)> = places.collect();
        let draws: Vec<RowDraw> = places
            .iter()
            .enumerate()
            .map(|(number, &(row, rule))| RowDraw {
                row: row as u32,
                step: number as u32,
                sample: 3,
                tag,
                key,
                rule: rules[rule].on_device(),
            })
            .collect();
        let logits = Tensor::from_vec(rows.concat(), (rows.len(), vocab), &Device::Cpu)?;
        let got = target.run(|| draw(&logits.to_device(target.device())?, &draws))?;
        let (mut picker, mut others, mut apart) = (Picker::default(), 0, 0f64);
        for ((drawn, &(row, rule)), begun) in got.iter().zip(&places).zip(&draws) {
            let row = &rows[row];
            if picker.prepare(row, &rules[rule]).is_err() {
                candle_core::bail!("logits that are not finite")
            }
            let want = picker.draw(row, stream.uniform(begun.sample, begun.step));
            match drawn {
                Some(drawn) if drawn.id == want.id => {
                    let off = (drawn.logprob - want.logprob).abs() / want.logprob.abs().max(1.0);
                    apart = apart.max(f64::from(off));
                }
                _ => others += 1,
            }
        }
        others += got.len().abs_diff(draws.len());
        found.push(exact(format!("tokens drawn from {vocab}"), others as f64));
        let name = format!("log-probs of tokens drawn from {vocab}");
        found.push(Deviation { name, dtype: DType::F32, distance: apart, bound: 1e-6 });
    }
    Ok(found)
}

/// Greedy answers of a small model in f32, through the whole sampler: how many tokens are others than the CPU's.
pub(super) fn greedy(target: &CheckTarget, seed: u64) -> Result<Vec<Deviation>> {
    let config = json!({
        "model_type": "llama", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let shape = Architecture::from_json(&config, "config.json".as_ref())?;
    let options = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::default() };
    let mut cpu = Decoder::random(shape.clone(), seed, &options)?;
    let options = LoadOptions { device: target.device().clone(), ..options };
    let mut there = target.run(|| Decoder::random(shape, seed, &options))?;
    for (id, parameter) in cpu.parameters().iter() {
        // Larger than fresh weights are: answers that do not settle on one token.
        let value = (&parameter.value * 4.0).map_err(fault)?;
        let copy = || -> candle_core::Result<()> {
            let twin = &there.parameters().get(id).value;
            twin.slice_set(&value.to_device(target.device())?, 0, 0)?;
            parameter.value.slice_set(&value, 0, 0)
        };
        copy().map_err(fault)?;
    }
    cpu.prepare_inference().map_err(fault)?;
    target.run(|| there.prepare_inference()).map_err(fault)?;
    let want = answers(&cpu, seed)?;
    let got = target.run(|| answers(&there, seed))?;
    let others = want.iter().flatten().zip(got.iter().flatten()).filter(|(want, got)| want != got).count();
    let missing = want.iter().flatten().count().abs_diff(got.iter().flatten().count());
    let tokens = want.iter().flatten().count();
    Ok(vec![exact(format!("of {tokens} greedy tokens"), (others + missing) as f64)])
}

/// Ids of every prompt's answer.
fn answers(decoder: &Decoder, seed: u64) -> Result<Vec<Vec<u32>>> {
    let settings = SampleSettings {
        num_samples: 1,
        temperature: 0.0,
        max_new_tokens: 16,
        max_batch_rows: Some(8),
        token_budget: Some(48),
        cache_mib: Some(16),
        seed,
        ..SampleSettings::default()
    };
    let backend = NativeBackend::new(decoder).with_step(settings.max_batch_rows, settings.token_budget);
    let mut sampler = Sampler::with_backend(Box::new(backend), &NoText, &[], &settings)?;
    let mut random = WorkRng::new(seed);
    let prompts: Vec<Prompt> =
        (0..12).map(|number| Prompt { prompt_id: number.to_string(), ..Prompt::default() }).collect();
    let prompts: Vec<EncodedPrompt<'_>> = prompts
        .iter()
        .enumerate()
        .map(|(number, prompt)| EncodedPrompt {
            prompt,
            prompt_ids: random.ids(1 + 5 * number, decoder.architecture().vocab_size),
        })
        .collect();
    let rows = sampler.generate(&prompts, &mut |_| ControlFlow::Continue(()))?;
    Ok(rows
        .into_iter()
        .flat_map(|row| row.responses)
        .map(|response| response.ids.unwrap_or_default())
        .collect())
}
