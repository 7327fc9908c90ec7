use selfplay_model::Architecture;
use selfplay_model::decoder::KeepPlan;
use selfplay_scorer::Footprint;

use super::files::overhead;
use super::job::prompt_and_responses;
use super::*;
use crate::device::DeviceChoice;
use crate::plan::lengths::Lengths;
use crate::plan::memory::Models;
use crate::plan::memory::tests::{footprint, recipe, tiny};
use crate::plan::rates::{RatedStage, Rates, Work};
use crate::recipe::Recipe;

fn models<'a>(recipe: &Recipe, model: &'a Architecture, preference: &'a Footprint) -> Models<'a> {
    Models::of(recipe, DeviceChoice::Cpu, model, preference)
}

#[test]
fn a_token_is_two_operations_a_weight_and_the_attention() {
    let model = tiny();
    // Weights of the block's products: q and o 16 × 16, k and v 8 × 16, three of 16 × 24.
    let products = 2.0 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24) as f64;
    // Tokens 4, 5 and 6 attend to as many; two heads of 8, scores and sums: 4 · 16 operations for each.
    assert_eq!(model.continuation_flops(3, 3), 3.0 * products + 4.0 * 16.0 * (4 + 5 + 6) as f64);
    // A prompt of 3, two responses of 3 with 32 logits of 16 products each.
    let prompt = 3.0 * products + 4.0 * 16.0 * (1 + 2 + 3) as f64;
    let response = model.continuation_flops(3, 3) + 3.0 * 2.0 * 16.0 * 32.0;
    assert_eq!(prompt_and_responses(&model, (3, 3), 2.0), prompt + 2.0 * response);
}

#[test]
fn lengths_are_what_the_recipe_lets_them_be() {
    let model = tiny();
    let of = |set: &[&str]| Lengths::of(&recipe(set), &model);
    // A context of 64 bounds a response to 63 and leaves the prompt one token.
    assert_eq!((of(&[]).prompt, of(&[]).response), (1, 63));
    let short = ["train.max_prompt_length=20", "sample.max_new_tokens=30", "score.max_length=40"];
    let lengths = of(&[&short[..], &["train.max_length=35"]].concat());
    assert_eq!((lengths.prompt, lengths.response, lengths.scored), (20, 30, (10, 30)));
    // 5 + 30 + 30 are more than 20 + 15 + 15.
    assert_eq!((lengths.trained, lengths.pair()), ((5, 30), 65));
    // Never more than two responses of max_length.
    let set = ["train.max_prompt_length=5", "sample.max_new_tokens=30", "train.max_length=10"];
    let lengths = of(&set);
    assert_eq!((lengths.trained, lengths.pair()), ((0, 10), 20));
}

#[test]
fn stages_do_what_they_do() {
    let (model, preference) = (tiny(), footprint());
    let set =
        ["train.max_prompt_length=20", "sample.max_new_tokens=30", "sample.num_samples=4", "train.loss=dpo"];
    let job = |recipe: &Recipe, check: &dyn Fn(&Job<'_>)| {
        let models = models(recipe, &model, &preference);
        check(&Job {
            models: &models,
            recipe,
            lengths: Lengths::of(recipe, &model),
            rows: 8,
            keep: KeepPlan::LEAST,
            gpu: None,
        });
    };
    let pair = prompt_and_responses(&model, (20, 30), 2.0);
    job(&recipe(&set), &|job| {
        assert_eq!(job.work(RatedStage::Reference, 10.0).flops, 10.0 * pair);
        // Forward and backward; the only block is the last one, which is not computed again. 60 pairs of 80 tokens are one step.
        assert_eq!(job.work(RatedStage::Train, 60.0).flops, 60.0 * 3.0 * pair);
        // 32 responses of 30 tokens in 8 rows: 120 steps that read all weights; 35 tokens before each on average.
        let bytes = 120.0 * 4.0 * model.parameter_count() as f64 + 960.0 * 35.0 * 64.0;
        assert_eq!(job.work(RatedStage::Sample, 8.0).bytes, bytes);
    });
    // A CPU has f32's numbers to compute of codes; a GPU reads 8 codes and a scale of each head, of keys and of values.
    let fp8 = recipe(&[&set[..], &["sample.kv_cache_dtype=fp8", "policy.dtype=bf16"]].concat());
    job(&fp8, &|job| {
        let bytes = 120.0 * 4.0 * model.parameter_count() as f64 + 960.0 * 35.0 * 64.0;
        assert_eq!(job.work(RatedStage::Sample, 8.0).bytes, bytes);
        let on_gpu = Models::of(&fp8, DeviceChoice::Cuda(0), &model, &preference);
        let bytes = 120.0 * 2.0 * model.parameter_count() as f64 + 960.0 * 35.0 * 24.0;
        assert_eq!(Job { models: &on_gpu, ..*job }.work(RatedStage::Sample, 8.0).bytes, bytes);
    });
    // Three iterations of INPO: the starting policy, then it and the iteration's own.
    job(&recipe(&[&set[..3], &["train.loss=inpo"]].concat()), &|job| {
        assert_eq!(job.work(RatedStage::Reference, 3.0).flops, 3.0 * (5.0 / 3.0) * pair);
    });
    let more = ["pair.rule=all-above-margin", "train.epochs=2", "train.recompute=false"];
    job(&recipe(&[&set[..], &more[..]].concat()), &|job| {
        // Six pairs of four responses.
        assert_eq!(job.work(RatedStage::Train, 10.0).flops, 120.0 * (pair * 3.0));
    });
    let most =
        ["train.max_steps=1", "train.batch_size=3", "train.loss=kto-pair", "train.micro_batch_tokens=100"];
    job(&recipe(&[&set[..], &most[..]].concat()), &|job| {
        // One step, whose log-probs are wanted first; its three pairs take the time of 1,536 tokens.
        assert_eq!(job.work(RatedStage::Train, 10.0).flops, 1536.0 / 80.0 * (pair * 4.0));
    });
    job(&recipe(&["sample.num_samples=1"]), &|job| {
        assert_eq!(job.work(RatedStage::Train, 10.0), Work::default());
    });
}

#[test]
fn little_work_takes_the_time_of_a_full_batch() {
    let (model, preference) = (tiny(), footprint());
    let set = ["train.max_prompt_length=20", "sample.max_new_tokens=30", "sample.num_samples=4"];
    let recipe = recipe(&[&set[..], &["train.batch_size=64", "train.checkpoint_every=2"]].concat());
    let models = models(&recipe, &model, &preference);
    let job = Job {
        models: &models,
        recipe: &recipe,
        lengths: Lengths::of(&recipe, &model),
        rows: 64,
        keep: KeepPlan::LEAST,
        gpu: None,
    };
    // 4 and 20 responses take as long as 32, which are 8 prompts'; 36 take longer.
    let full = job.work(RatedStage::Sample, 8.0);
    for prompts in [1.0, 5.0] {
        let few = job.work(RatedStage::Sample, prompts);
        assert!((few.flops / full.flops - 1.0).abs() < 1e-12 && (few.bytes / full.bytes - 1.0).abs() < 1e-12);
    }
    assert!(job.work(RatedStage::Sample, 9.0).flops > full.flops);
    assert_eq!(job.work(RatedStage::Sample, 0.0), Work::default());
    // A step of fewer than 1,536 tokens, or 19.2 pairs of 80, takes as long as one of so many; a last step too.
    let pair = job.work(RatedStage::Train, 64.0).flops / 64.0;
    let pairs = |prompts: f64| job.work(RatedStage::Train, prompts).flops / pair;
    for (prompts, want) in [(1.0, 19.2), (19.0, 19.2), (20.0, 20.0), (65.0, 64.0 + 19.2), (0.0, 0.0)] {
        assert!((pairs(prompts) - want).abs() < 1e-9, "{prompts}: {}", pairs(prompts));
    }
    // 200 pairs are 4 steps: checkpoints after two of them and at the end, one more for a border case.
    let parameters = model.parameter_count() as f64;
    let (folder, checkpoint) = (2.0 * parameters, (4.0 + 4.0) * parameters); // bf16; f32 with one state tensor
    let candidates = 200.0 * 4.0 * 30.0 * 12.0;
    let scorer = 4.0 * preference.parameters as f64;
    let want = 4.0 * folder + 2.0 * scorer + 2.0 * candidates + 3.0 * checkpoint;
    assert_eq!(job.file_bytes(200.0), want);
    let overhead = overhead(&job, 200.0);
    assert_eq!(overhead.seconds, Some(0.5 + want / 2e8));
    assert_eq!(overhead.whole, Some(1.0 + 3.0 * (0.5 + want / 2e8)));
}

#[test]
fn times_add_up() {
    let (model, preference) = (tiny(), footprint());
    let recipe = recipe(&["train.max_prompt_length=20", "sample.max_new_tokens=30", "iterations=2"]);
    let (models, rates) = (models(&recipe, &model, &preference), Rates::load(&[]).unwrap());
    let all = times(&recipe, &models, &rates, Some(3000), None);
    assert_eq!(all.stages.len(), 6);
    let seconds: f64 = all.stages.iter().map(|time| time.seconds.unwrap()).sum();
    let together = all.together.unwrap();
    assert!((together.seconds.unwrap() / seconds - 1.0).abs() < 1e-12);
    // Twice an iteration, the start of the process, and the starting policy's answers.
    let rest = together.whole.unwrap() - 2.0 * seconds - START;
    assert!(rest > 0.0 && rest < seconds, "{rest} {seconds}");
    // A thousand prompts take two thirds of fifteen hundred.
    let thousand = times(&recipe, &models, &rates, None, None);
    for (one, other) in thousand.stages.iter().zip(&all.stages) {
        assert!((one.seconds.unwrap() / other.seconds.unwrap() - 2.0 / 3.0).abs() < 1e-12, "{one:?}");
    }
    assert!(thousand.together.is_some() && thousand.unmeasured.is_empty());
    assert_eq!(thousand.each_iteration.len(), 2);
    // Without a rate there is no time, and no sum.
    let gpu = Models { device: DeviceChoice::Cuda(0), ..models };
    let none = times(&recipe, &gpu, &rates, Some(3000), None);
    assert_eq!((none.unmeasured.len(), none.together.is_some(), none.stages.len()), (4, false, 5));
}
