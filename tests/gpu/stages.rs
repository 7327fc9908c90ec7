//! Sampling and scoring by the GPU forms, run by the emulator, with the quickstart's own models.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{DType, Device};
use selfplay_model::{Codec, Decoder, LoadOptions};
use selfplay_records::{Candidates, Prompt, Response};
use selfplay_sampler::{SampleSettings, Sampler, encode};
use selfplay_scorer::ScoreSettings;
use selfplay_testing::Emulator;

fn quickstart(model: &str) -> PathBuf {
    crate::root().join("recipes/quickstart").join(model)
}

const QUESTIONS: [&str; 3] = ["What is 3 + 4?", "Reverse the word stone.", "Sort: 9 2 5"];

fn prompt(i: usize) -> Prompt {
    Prompt { prompt_id: i.to_string(), prompt: Some(QUESTIONS[i].to_owned()), ..Prompt::default() }
}

fn samples(dtype: DType) -> Vec<Response> {
    let folder = quickstart("policy");
    let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), ..LoadOptions::default() };
    let mut decoder = Decoder::load(&folder, &options).unwrap();
    decoder.prepare_inference().unwrap();
    let codec = Codec::load(&folder, None).unwrap();
    let settings = SampleSettings { num_samples: 3, max_new_tokens: 5, ..SampleSettings::default() };
    let mut sampler = Sampler::new(&decoder, &codec, &codec.stop_ids(&folder).unwrap(), &settings).unwrap();
    let prompts: Vec<Prompt> = (0..QUESTIONS.len()).map(prompt).collect();
    let prompts = encode(&codec, &prompts).unwrap();
    let rows = sampler.generate(&prompts, &mut |_| ControlFlow::Continue(())).unwrap();
    rows.into_iter().flat_map(|row| row.responses).collect()
}

#[test]
fn candidates_in_f32_are_those_of_the_cpu() {
    let want = samples(DType::F32);
    let Some(_gpu) = Emulator::start() else { return };
    let got = samples(DType::F32);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(got.ids, want.ids);
        for (got, want) in got.logprobs.iter().flatten().zip(want.logprobs.iter().flatten()) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
    }
    assert_eq!(got.len(), 9);
    assert!(samples(DType::BF16).iter().flat_map(|s| s.logprobs.iter().flatten()).all(|x| x.is_finite()));
}

#[test]
fn preferences_are_those_of_the_cpu() {
    let rows: Vec<Candidates> = (0..QUESTIONS.len())
        .map(|i| Candidates {
            prompt: prompt(i),
            responses: ["7", "enots", "2 5 9"]
                .map(|text| Response { text: text.to_owned(), ..Response::default() })
                .to_vec(),
        })
        .collect();
    let scores = || -> Vec<f64> {
        let settings = ScoreSettings::default();
        let model = selfplay_scorer::load(&quickstart("preference_model"), &settings, &Device::Cpu, None);
        let preferences = model.unwrap().compare_all(&rows).unwrap();
        preferences.iter().flat_map(|row| row.scores.iter().flatten().copied()).collect()
    };
    let want = scores();
    let Some(_gpu) = Emulator::start() else { return };
    let got = scores();
    assert_eq!(got.len(), 27);
    let size = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 1e-4 * size, "{got} {want}");
    }
}
