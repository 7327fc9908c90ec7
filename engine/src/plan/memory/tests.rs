//! Bytes counted by hand for a model of one layer; and what other tests of the plan work with.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_model::gpu::HopperKernels;
use selfplay_scorer::Footprint;
use selfplay_trainer::{Offload, TrainSettings};

use super::*;
use crate::device::DeviceChoice;
use crate::recipe::{Override, Purpose, Recipe, load};

/// One layer: embedding 32 × 16 (tied), norms 3 × 16, q 16 × 16, k and v 8 × 16, o 16 × 16, three of 16 × 24.
pub(crate) fn tiny() -> Architecture {
    Architecture::from_json(&tiny_config(), std::path::Path::new("config.json")).unwrap()
}

fn tiny_config() -> serde_json::Value {
    serde_json::json!({
        "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "rope_theta": 10000.0, "hidden_act": "silu", "torch_dtype": "bfloat16",
        "architectures": ["LlamaForCausalLM"]
    })
}

/// Of the same model with a value head, as a preference model.
pub(crate) fn footprint() -> Footprint {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::to_vec(&tiny_config()).unwrap();
    selfplay_records::atomic::write_bytes(&folder.path().join("config.json"), &config).unwrap();
    Footprint::of_folder(folder.path(), &selfplay_scorer::KindSettings::default()).unwrap()
}

/// Defaults with some keys set.
pub(crate) fn recipe(set: &[&str]) -> Recipe {
    let set: Vec<Override> = set.iter().map(|one| one.parse().unwrap()).collect();
    load(None, &set, Purpose::Stage).unwrap()
}

fn bytes_of(needs: &[Need], phase: Phase) -> &MemoryBreakdown {
    &needs.iter().find(|need| need.phase == phase).unwrap().bytes
}

#[test]
fn weights_gradients_and_state_are_counted_once() {
    let (policy, preference) = (tiny(), footprint());
    let parameters = 32 * 16 + 3 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24;
    assert_eq!(policy.parameter_count(), parameters);
    let recipe = recipe(&["train.batch_size=1", "train.max_length=2"]);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    assert_eq!((models.policy_dtype, models.preference_dtype), (DType::BF16, DType::BF16));
    let bytes = training(&models, &recipe.train, None);
    // 2 (bf16) + 4 (master) + 4 (gradient) + 4 (square average) bytes a parameter.
    let four: u64 = bytes.items[..4].iter().map(|item| item.bytes).sum();
    assert_eq!(four, 14 * parameters as u64);
    let here = TrainSettings { offload: Offload::None, ..recipe.train.clone() };
    assert_eq!(training_state(&models, &here), four);
    assert_eq!(training_state(&models, &recipe.train), 6 * parameters as u64);
    // One pair of 2 · 2 tokens × (1 × 16 + (2 + 2)·8 + 2·8 + 16 + 2·24 and 2·24 + 3·16) values × 2 bytes; as many rows
    // of 32 logits × (4 + 2) bytes.
    assert_eq!(bytes.items[4].bytes, 4 * (16 + 32 + 16 + 16 + 48 + 48 + 48) * 2);
    assert_eq!(bytes.items[5].bytes, 4 * 32 * 6);
    assert_eq!(checkpoint(&policy, &recipe.train), 8 * parameters as u64);
}

/// What an H200 took for a step of an 8B's shape (benches/runs/2026-11-28-h200/{train,train_no_recompute}.txt).
#[test]
fn the_plan_is_not_below_what_was_measured_on_a_gpu() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    for (set, measured) in [
        (["train.recompute=true", "train.batch_size=32", "train.micro_batch_tokens=16384"], 111.27),
        (["train.recompute=false", "train.batch_size=16", "train.micro_batch_tokens=4096"], 115.72),
    ] {
        let recipe = recipe(&[&set[..], &["policy.dtype=bf16"]].concat());
        let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
        let planned = training(&models, &recipe.train, None).total() as f64 / f64::from(1 << 30);
        assert!((0.0..0.03).contains(&(planned / measured - 1.0)), "{set:?}: {planned} {measured}");
    }
    // By itself: as much as fits into an H200.
    let recipe = recipe(&["policy.dtype=bf16"]);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    let memory = 150_120_000_000;
    let plan = keep_plan(&models, &recipe.train, Some(memory)).counts(32);
    assert!(plan[0] >= 1 && plan[1] + plan[0] == 32, "attention of all blocks at least: {plan:?}");
    assert!(training(&models, &recipe.train, Some(memory)).total() <= memory - memory / 32);
}

/// An 8B's full fine-tuning on a card of 80 GB: masters and squares are the host's.
#[test]
fn what_does_not_fit_is_offloaded() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    let of = |set: &[&str], memory: u64| {
        let recipe = recipe(&[&["policy.dtype=bf16"][..], set].concat());
        let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
        let host = offloaded_bytes(&models, &recipe.train, Some(memory));
        (training(&models, &recipe.train, Some(memory)).total(), host)
    };
    let (h100, h200) = (85_000_000_000, 150_120_000_000);
    let numbers = policy.parameter_count() as u64;
    let (device, host) = of(&[], h100);
    assert!(device <= h100 && device > h100 / 2 && host == 8 * numbers, "{device} {host}");
    assert_eq!(of(&[], h200).1, 0);
    assert_eq!(of(&["train.offload=optimizer"], h200).1, 8 * numbers);
    let (device, host) = of(&["train.offload=none"], h100);
    assert!(device > h100 && host == 0);

    // With the blocks' gradients too: less than 128 GB of the host's memory, and of the device's gradients those of
    // embedding, head and three blocks.
    let blocks = policy.block_numbers();
    let (with_gradients, host) = of(&["train.offload=\"optimizer+gradients\"", "train.recompute=true"], h100);
    assert_eq!(host, 8 * numbers + 4 * blocks);
    assert!(host < 128_000_000_000, "{host}");
    let (without, _) = of(&["train.offload=optimizer", "train.recompute=true"], h100);
    assert_eq!(without - with_gradients, 4 * (blocks - 3 * blocks / 32));
    // By itself where the gradients don't fit either: a card of 48 GB.
    let (device, host) = of(&["train.micro_batch_tokens=2048"], 50_000_000_000);
    assert!(device <= 50_000_000_000 && host == 8 * numbers + 4 * blocks, "{device} {host}");
}

/// Four bytes for each number of an 8B's queries in a micro-batch: 268 MB, of a GPU alone, and less is kept beside them.
#[test]
fn the_sums_of_attention_s_backward_count_where_its_kernel_is_chosen() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    let recipe = recipe(&["policy.dtype=bf16", "train.offload=none"]);
    let total = |device, chosen: HopperKernels| {
        let models = Models::of(&recipe, device, &policy, &preference);
        chosen.run(|| training(&models, &recipe.train, None).total())
    };
    let gpu = DeviceChoice::Cuda(0);
    assert_eq!(total(gpu, HopperKernels::ALL) - total(gpu, HopperKernels::NONE), 268_435_456);
    assert_eq!(total(DeviceChoice::Cpu, HopperKernels::ALL), total(DeviceChoice::Cpu, HopperKernels::NONE));
    let models = Models::of(&recipe, gpu, &policy, &preference);
    let memory = 150_120_000_000;
    let fitted = HopperKernels::ALL.run(|| training(&models, &recipe.train, Some(memory)).total());
    assert!(fitted <= memory - memory / 32, "{fitted}");
}

#[test]
fn what_is_kept_fills_the_memory() {
    let (mut policy, preference) = (tiny(), footprint());
    (policy.num_layers, policy.windows) = (8, vec![None; 8]);
    let recipe = recipe(&["train.batch_size=1", "train.max_length=64", "train.offload=none"]);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    let need = |memory| training(&models, &recipe.train, memory).total();
    let plan = |memory| keep_plan(&models, &recipe.train, memory).counts(8);
    let (least, all) = (need(Some(0)), need(Some(u64::MAX)));
    assert_eq!((plan(Some(0)), plan(None), plan(Some(u64::MAX))), ([1, 0, 7], [1, 0, 7], [8, 0, 0]));
    assert_eq!(need(None), least);
    let mut kept = Vec::new();
    // A thirty-second of the device is left alone.
    for memory in (0..=40).map(|part| (least + (all - least) * part / 38) * 32 / 31 + 1) {
        assert!(need(Some(memory)) <= memory.max(least), "{memory}");
        kept.push(plan(Some(memory)));
    }
    kept.dedup();
    // Block by block: attention of seven, then the rest of them.
    assert_eq!(kept.len(), 15, "{kept:?}");
}

#[test]
fn a_pass_has_a_micro_batch_or_a_pair_and_no_more_than_a_batch() {
    let tokens = |set: &[&str]| pass_tokens(&recipe(set).train);
    assert_eq!(tokens(&[]), 16_384);
    assert_eq!(tokens(&["train.micro_batch_tokens=100"]), 2048);
    assert_eq!(tokens(&["train.batch_size=3", "train.max_length=100"]), 600);
}

#[test]
fn pages_stay_within_their_bound() {
    let (policy, preference) = (tiny(), footprint());
    let recipe = recipe(&["sample.max_batch_rows=2"]);
    let pages = |device, left| {
        let models = Models { policy_dtype: DType::F32, ..Models::of(&recipe, device, &policy, &preference) };
        key_value_pages(&models, &recipe, batch_limits(&models, &recipe.sample, left), left)
    };
    // A row of 64 positions, keys and values of 1 layer × 1 head × 8 values × 4 bytes.
    let one = 64 * 2 * 8 * 4;
    assert_eq!(pages(DeviceChoice::Cpu, Some(0)), 2 * one);
    // On a GPU nine tenths of what is left, and one candidate at least.
    assert_eq!(pages(DeviceChoice::Cuda(0), Some(1_000_000)), 2 * one);
    assert_eq!(pages(DeviceChoice::Cuda(0), Some(6000)), 5400);
    assert_eq!(pages(DeviceChoice::Cuda(0), Some(0)), one);
    assert_eq!(pages(DeviceChoice::Cuda(0), None), one);
    assert_eq!(policy_folder(&policy, &recipe), 2 * policy.parameter_count() as u64);
}

/// A byte a number and a scale for each head: more rows where the memory bounds them, less memory where the rows do.
#[test]
fn keys_and_values_in_fp8_take_fewer_bytes() {
    let (policy, preference) = (tiny(), footprint());
    let of = |set: &[&str], left: u64| {
        let recipe = recipe(set);
        let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
        let limits = batch_limits(&models, &recipe.sample, Some(left));
        let pages = key_value_pages(&models, &recipe, limits, Some(left));
        (pages, candidate_pages(&models, &recipe))
    };
    let (fp8, two) = ("sample.kv_cache_dtype=fp8", "sample.max_batch_rows=2");
    // 64 positions, keys and values of one head of 8 numbers.
    let (bf16, codes) = (64 * 2 * 8 * 2, 64 * 2 * (8 + 4));
    assert_eq!(of(&[two], 1_000_000), (2 * bf16, bf16));
    assert_eq!(of(&["sample.kv_cache_dtype=auto", two], 1_000_000), (2 * bf16, bf16));
    assert_eq!(of(&[two, fp8], 1_000_000), (2 * codes, codes));
    let rows = |set: &[&str]| {
        let (pages, one) = of(set, 20_000);
        pages / one
    };
    // 18,000 bytes, of 2,048 or 1,536 a candidate.
    assert_eq!((rows(&[]), rows(&[fp8])), (8, 11));
}

#[test]
fn on_a_gpu_the_models_take_turns_where_they_do_not_fit_together() {
    let (policy, preference) = (tiny(), footprint());
    let recipe = recipe(&["sample.token_budget=64", "sample.max_batch_rows=4"]);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    let whole = needs(&models, &recipe, None);
    assert_eq!(
        whole.iter().map(|need| need.phase).collect::<Vec<_>>(),
        [Phase::SamplingAndScoring, Phase::Training]
    );
    let both = bytes_of(&whole, Phase::SamplingAndScoring).total();
    let less = needs(&models, &recipe, Some(both - 1));
    let alone = bytes_of(&less, Phase::Sampling).total() + bytes_of(&less, Phase::Scoring).total();
    // The program twice; and what one candidate more or less takes of what is left.
    assert!(alone >= both, "{alone} {both}");
    assert!(bytes_of(&less, Phase::Sampling).total() < both);
    // Memory of a CPU is not divided: there both work at the same time.
    let models = Models::of(&recipe, DeviceChoice::Cpu, &policy, &preference);
    assert_eq!(needs(&models, &recipe, Some(1)).len(), 2);
}

/// The sampler's own choice: 1,024 rows where all their responses fit beside a step of so many, by memory or by what is set.
#[test]
fn a_gpu_with_memory_has_twice_the_rows() {
    let (policy, preference) = (tiny(), footprint());
    let rows = |set: &[&str], free: Option<u64>| {
        let recipe = recipe(set);
        let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
        batch_limits(&models, &recipe.sample, free).rows
    };
    assert_eq!([rows(&[], None), rows(&[], Some(1 << 40)), rows(&[], Some(1 << 20))], [512, 1024, 512]);
    assert_eq!([rows(&["sample.cache_mib=1"], None), rows(&["sample.cache_mib=1000000"], None)], [512, 1024]);
    assert_eq!(rows(&["sample.cache_mib=1"], Some(1 << 40)), 512);
    assert_eq!(rows(&["sample.max_batch_rows=7"], Some(1 << 40)), 7);
    assert_eq!(rows(&["policy.quantize=nf4", "train.lora.rank=16"], Some(1 << 40)), 512);
}

#[test]
fn rows_are_those_whose_pages_there_are() {
    let (policy, preference) = (tiny(), footprint());
    let recipe = recipe(&["sample.max_batch_rows=9"]);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    assert_eq!(rows_at_a_time(&models, &recipe, None), 9);
    assert_eq!(rows_at_a_time(&models, &recipe, Some(1 << 40)), 9);
    assert_eq!(rows_at_a_time(&models, &recipe, Some(0)), 1);
}
