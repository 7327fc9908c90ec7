//! Training whose state is the host's against training whose state is the device's: the same bits.

use std::path::Path;

use candle_core::{DType, Device};
use selfplay_model::check::{CheckTarget, Deviation, distance};
use selfplay_model::{Architecture, Decoder, LoadOptions};
use selfplay_trainer::collective::Alone;
use selfplay_trainer::{
    LossKind, Offload, OptimizerKind, PairLogProbs, PairObjective, PreferenceTarget, TokenPair, TrainRun,
    TrainSettings, train,
};
use serde_json::json;

use super::super::work::WorkRng;
use crate::bench::fault;
use crate::error::Result;

const VOCAB: usize = 61;

/// Steps with and without clipping: in the latter weights move while the backward goes on. Checkpoints go to `folder`.
pub(super) fn offloaded(
    target: &CheckTarget,
    seed: u64,
    offload: Offload,
    folder: &Path,
) -> Result<Vec<Deviation>> {
    let mut found = Vec::new();
    for max_grad_norm in [0.5, 0.0] {
        let settings = TrainSettings {
            loss: LossKind::Dpo,
            beta: 0.5,
            optimizer: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            warmup_ratio: 0.0,
            max_grad_norm,
            batch_size: 4,
            micro_batch_tokens: 64.into(),
            epochs: 2,
            checkpoint_every: 0,
            offload: Offload::None,
            ..TrainSettings::default()
        };
        let trained = |settings: &TrainSettings, name: &str| {
            let folder = folder.join(format!("{name}-{max_grad_norm}"));
            target.run(|| trained(target, seed, settings, &folder))
        };
        let device = trained(&settings, "device")?;
        let host = trained(&TrainSettings { offload, ..settings.clone() }, "host")?;
        let mut apart = 0f64;
        for ((_, want), (_, got)) in device.parameters().iter().zip(host.parameters().iter()) {
            for (got, want) in [(got.full(), want.full()), (&got.value, &want.value)] {
                let want = want.to_device(&Device::Cpu).map_err(fault)?;
                apart = apart.max(distance(got, &want).map_err(fault)?);
            }
        }
        let name = format!("weights after eight steps, max_grad_norm {max_grad_norm}");
        found.push(Deviation { name, dtype: DType::BF16, distance: apart, bound: 0.0 });
    }
    Ok(found)
}

fn trained(target: &CheckTarget, seed: u64, settings: &TrainSettings, folder: &Path) -> Result<Decoder> {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let shape = Architecture::from_json(&config, "config.json".as_ref())?;
    let options =
        LoadOptions { device: target.device().clone(), dtype: Some(DType::BF16), ..LoadOptions::default() };
    let mut decoder = Decoder::random(shape, seed, &options)?;
    let mut random = WorkRng::new(seed);
    let pairs: Vec<TokenPair> = (0..16)
        .map(|number| TokenPair {
            name: format!("pair {number}"),
            prompt: random.ids(3 + number % 7, VOCAB),
            chosen: random.ids(2 + number % 5, VOCAB),
            rejected: random.ids(1 + number % 4, VOCAB),
            target: PreferenceTarget { probability: Some(0.8), ..PreferenceTarget::default() },
            reference: Some(PairLogProbs { chosen: -20.0, rejected: -20.0 }),
            ..TokenPair::default()
        })
        .collect();
    let mut run = TrainRun {
        folder,
        seed,
        stop: &|| false,
        progress: &mut |_| (),
        keep_checkpoints: 1,
        collective: &Alone::default(),
    };
    train(&mut decoder, PairObjective::new(pairs, settings), &mut run)?;
    Ok(decoder)
}
