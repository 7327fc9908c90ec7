//! Small cases counted by hand; what must hold for all; what published systems have shown to fit.

use selfplay_model::Architecture;
use selfplay_scorer::Footprint;

use super::form::TrainingForm;
use super::links::COLLECTIVE;
use super::outlook::OutlookWork;
use super::rank_memory::{RankGpu, rank_memory};
use super::shards::ShardDivision;
use super::topology::Collecting;
use super::traffic::StepTraffic;
use super::*;
use crate::device::DeviceChoice;
use crate::plan::fit::Planned;
use crate::plan::gpu::GpuModel;
use crate::plan::memory::Models;
use crate::plan::memory::tests::{footprint, recipe, tiny};
use crate::plan::rates::Rates;
use crate::plan::time::{self, DISK};
use crate::recipe::Recipe;

fn links(names: &[&str], nodes: usize) -> Links {
    let given: Vec<LinkModel> = names.iter().map(|name| name.parse().unwrap()).collect();
    Links::of(&given, nodes).unwrap()
}

fn cluster(gpu: &str, gpus: usize, nodes: usize) -> Cluster {
    let gpu: GpuModel = gpu.parse().unwrap();
    Cluster { gpu, memory: gpu.memory, gpus, nodes, links: links(&[], nodes) }
}

/// The recipe of the published 8B, in short.
fn published(set: &[&str]) -> Recipe {
    let keys = [
        "policy.dtype=bf16",
        "score.dtype=bf16",
        "sample.max_new_tokens=2048",
        "sample.shard_prompts=2048",
        "train.batch_size=64",
        "train.micro_batch_tokens=16384",
    ];
    recipe(&[&keys[..], set].concat())
}

fn llama_70b() -> Architecture {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/shapes/llama-3-70b");
    Architecture::load(&folder).unwrap()
}

/// A recipe and its shapes on a cluster.
fn found(
    recipe: &Recipe,
    policy: &Architecture,
    preference: &Footprint,
    cluster: &Cluster,
    prompts: usize,
) -> Outlook {
    let planned = Planned { recipe, policy, preference, device: DeviceChoice::Cuda(0) };
    let work = OutlookWork { prompts, shard_prompts: Some(recipe.sample.shard_prompts), disk: DISK };
    outlook(&planned, cluster, &Rates::load(&[]).unwrap(), work)
}

fn of(outlook: &Outlook, form: TrainingForm) -> &FormOutlook {
    outlook.forms.iter().find(|one| one.form == form).unwrap()
}

#[test]
fn a_ring_sends_what_it_must_and_takes_its_hops() {
    let four = cluster("h200", 4, 1);
    assert_eq!(four.wire_bytes(Collecting::AllReduce, 100.0), 150.0);
    assert_eq!(four.wire_bytes(Collecting::AllGather, 100.0), 75.0);
    assert_eq!(four.network_bytes(75.0), 0.0);
    // 0.8 × 450 GB/s and three hops of 3.4 µs; an all-reduce has six.
    let seconds = four.seconds(Collecting::ReduceScatter, 480e9);
    assert!((seconds - (COLLECTIVE + 3.0 * 3.4e-6 + 1.0)).abs() < 1e-9, "{seconds}");
    let seconds = four.seconds(Collecting::AllReduce, 480e9);
    assert!((seconds - (COLLECTIVE + 6.0 * 3.4e-6 + 2.0)).abs() < 1e-9, "{seconds}");
    // Two nodes of four: six hops within and one between; the network has a quarter of the bytes at 0.8 × 12.5 GB/s a node.
    let eight = Cluster { links: links(&["100gbe"], 2), ..cluster("h200", 8, 2) };
    assert_eq!(eight.network_bytes(70.0), 17.5);
    let seconds = eight.seconds(Collecting::AllGather, 80e9);
    let wire = 70e9 / 4.0 / (10e9 / 4.0);
    assert!((seconds - (COLLECTIVE + 6.0 * 3.4e-6 + 9.6e-6 + wire)).abs() < 1e-9, "{seconds}");
    assert_eq!(cluster("h200", 1, 1).seconds(Collecting::AllReduce, 1e12), 0.0);
}

#[test]
fn a_step_exchanges_what_its_form_says() {
    let four = cluster("h200", 4, 1);
    let traffic =
        StepTraffic { gradients: 400.0, weights: 200.0, head: 50.0, micro_batches: 2.0, gathers: 2.0 };
    let wire = |form| traffic.wire_bytes(form, &four);
    assert_eq!(wire(TrainingForm::DataParallel), 2.0 * 0.75 * 400.0);
    assert_eq!(wire(TrainingForm::Zero1), 0.75 * (400.0 + 200.0));
    assert_eq!(wire(TrainingForm::Zero2), 0.75 * (400.0 + 200.0));
    assert_eq!(wire(TrainingForm::Zero3), 0.75 * (400.0 + 2.0 * (2.0 * 200.0 + 50.0)));
    let first = StepTraffic { gathers: 3.0, ..traffic };
    assert_eq!(first.wire_bytes(TrainingForm::Zero3, &four), 0.75 * (400.0 + 2.0 * (3.0 * 200.0 + 50.0)));
}

#[test]
fn ranks_divide_what_their_form_divides() {
    let (policy, preference) = (tiny(), footprint());
    let recipe = recipe(&["train.batch_size=4", "train.max_length=2", "train.offload=none"]);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    let numbers = policy.parameter_count() as u64;
    let state = |form: TrainingForm, ranks: usize| -> u64 {
        let bytes =
            rank_memory(&models, &recipe, &recipe.train, form, RankGpu { ranks, memory: 1 << 40 }).bytes;
        let passes = ["kept for the backward pass", "the head's chunk and the program"];
        bytes.items.iter().filter(|item| !passes.contains(&item.what)).map(|item| item.bytes).sum()
    };
    // bf16 weights; masters, gradients and squares in f32.
    assert_eq!(state(TrainingForm::DataParallel, 4), 14 * numbers);
    assert_eq!(state(TrainingForm::Zero1, 4), 6 * numbers + 2 * numbers);
    // One pair to a rank: the gradients of two blocks beside the share, and the tied table's of 32 × 16.
    let (table, block) = (32 * 16, numbers - 32 * 16);
    assert_eq!(state(TrainingForm::Zero2, 4), 2 * numbers + 3 * numbers + 4 * (2 * block + table));
    assert_eq!(
        state(TrainingForm::Zero3, 4),
        (2 * numbers).div_ceil(4) + 3 * numbers + 2 * 2 * block + 4 * (2 * block + table)
    );
    // Two pairs to a rank, a micro-batch each: all gradients are there until the last one.
    let recipe = crate::plan::memory::tests::recipe(&[
        "train.batch_size=8",
        "train.max_length=2",
        "train.micro_batch_tokens=1",
        "train.offload=none",
    ]);
    let on = RankGpu { ranks: 4, memory: 1 << 40 };
    let bytes = rank_memory(&models, &recipe, &recipe.train, TrainingForm::Zero2, on).bytes;
    assert!(
        bytes.items.iter().any(|item| item.bytes == 4 * numbers && item.what.contains("undivided")),
        "{bytes:?}"
    );
    for form in [TrainingForm::Zero1, TrainingForm::Zero2, TrainingForm::Zero3] {
        assert_eq!(state(form, 1), 14 * numbers, "{form:?}");
    }
    // What the host has of a rank: masters and squares of its share.
    let recipe = TrainingForm::Zero3Offload.apply(&recipe);
    let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
    let on = RankGpu { ranks: 4, memory: 1 << 40 };
    let rank = rank_memory(&models, &recipe, &recipe.train, TrainingForm::Zero3Offload, on);
    assert_eq!(rank.on_host, 2 * numbers);
    assert!(
        rank.bytes.items.iter().all(|item| !item.what.contains("master") && !item.what.contains("optimizer"))
    );
}

#[test]
fn one_gpu_takes_what_the_plan_of_one_says() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    for set in [&[][..], &["train.loss=kto-pair", "train.max_steps=100"], &["sample.shard_prompts=16"]] {
        let recipe = published(set);
        let one = cluster("h200", 1, 1);
        let (prompts, iterations) = (2500, recipe.iterations as u64);
        let outlook = found(&recipe, &policy, &preference, &one, prompts);
        let data_parallel = of(&outlook, TrainingForm::DataParallel);
        let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
        let rates = Rates::load(&[]).unwrap();
        let all = time::times(&recipe, &models, &rates, Some(prompts as u64 * iterations), Some(one.memory));
        let time = data_parallel.iteration.unwrap();
        for ((name, seconds), wanted) in time.stages().into_iter().zip(&all.stages) {
            let wanted = wanted.seconds.unwrap();
            assert!((seconds / wanted - 1.0).abs() < 1e-9, "{name}: {seconds} {wanted}");
        }
        let together = all.together.unwrap();
        assert!((time.total() / together.seconds.unwrap() - 1.0).abs() < 1e-9);
        assert!((data_parallel.run.unwrap() / together.whole.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!((data_parallel.wire_bytes, time.waiting), (0.0, 0.0));
    }
}

#[test]
fn held_out_prompts_are_divided_among_ranks() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    let recipe = published(&["eval.max_prompts=1600"]);
    let held_out = |gpus: usize| {
        let outlook = found(&recipe, &policy, &preference, &cluster("h200", gpus, 1), 20_000);
        of(&outlook, TrainingForm::DataParallel).iteration.unwrap().held_out
    };
    let (one, eight) = (held_out(1), held_out(8));
    // Two hundred answers take as long as a full step of sampling does.
    assert!(eight > one / 8.0 && eight < one / 2.0, "{one} {eight}");
}

#[test]
fn what_published_systems_trained_fits_where_they_did() {
    let preference = footprint();
    let of_8b = |gpu: &str, gpus: usize, nodes: usize| {
        let policy = Architecture::named("llama-3-8b").unwrap();
        found(&published(&[]), &policy, &preference, &cluster(gpu, gpus, nodes), 20_000)
    };
    let fits = |outlook: &Outlook| -> Vec<TrainingForm> {
        outlook.forms.iter().filter(|one| one.fits && one.set.is_empty()).map(|one| one.form).collect()
    };
    // The card of GPO-Llama-3-8B-Instruct-GPM-2B: deepspeed_zero3 on eight of 80 GB.
    let eight = of_8b("h100-80gb", 8, 1);
    let fitting = fits(&eight);
    assert!(
        fitting.contains(&TrainingForm::Zero3) && !fitting.contains(&TrainingForm::DataParallel),
        "{fitting:?}"
    );
    let zero = of(&eight, TrainingForm::Zero3).memory.total();
    assert!(zero <= 80_000_000_000, "{zero}");
    // Fourteen bytes a number, divided by eight; by itself a training keeps as much for its backward as there is room for.
    let policy = Architecture::named("llama-3-8b").unwrap();
    let divided: u64 = of(&eight, TrainingForm::Zero3).memory.items[..4].iter().map(|item| item.bytes).sum();
    assert!(divided.abs_diff(14 * policy.parameter_count() as u64 / 8) <= 4, "{divided}");
    let least = found(
        &published(&["train.recompute=true"]),
        &policy,
        &preference,
        &cluster("h100-80gb", 8, 1),
        20_000,
    );
    let least = of(&least, TrainingForm::Zero3).memory.total();
    assert!((20_000_000_000..40_000_000_000).contains(&least), "{least}");
    // What the recipe does as it is.
    assert_eq!(eight.choice.form, Some(TrainingForm::Zero1), "{:?}", eight.choice);
    assert!(
        of(&eight, TrainingForm::Zero1).fits && !eight.choice.reason.contains("--set"),
        "{:?}",
        eight.choice
    );

    // One card of 80 GB: all numbers with the host's help, or an adapter.
    let one = of_8b("h100-80gb", 1, 1);
    let fitting = fits(&one);
    let hosts = [TrainingForm::Offload, TrainingForm::OffloadGradients];
    assert_eq!(fitting, [&hosts[..], &[TrainingForm::Lora, TrainingForm::Qlora]].concat());
    assert_eq!(one.choice.form, Some(TrainingForm::Offload));
    assert!(of(&one, TrainingForm::Offload).on_host > 60_000_000_000);

    // A 70B: sixteen of 141 GB in two nodes, by ZeRO-3 alone; its weights alone are more than one has for sampling.
    let large = llama_70b();
    assert_eq!(large.parameter_count(), 70_553_706_496);
    let of_70b = |gpu: &str, gpus: usize, nodes: usize| {
        found(&published(&[]), &large, &preference, &cluster(gpu, gpus, nodes), 20_000)
    };
    let sixteen = of_70b("h200", 16, 2);
    assert_eq!(sixteen.choice.form, Some(TrainingForm::Zero3), "{}", sixteen.choice.reason);
    assert!(of(&sixteen, TrainingForm::Zero3).memory.total() < 141_000_000_000);
    assert!(!fits(&sixteen).contains(&TrainingForm::Zero2));
    let zero = of(&sixteen, TrainingForm::Zero3);
    assert_eq!(zero.sampling, Some(SamplingPlace::Servers { gpus: 2 }));
    // Nine times the weights of the 8B on twice as many GPUs; a candidate at a time would take weeks.
    let small = of(&eight, TrainingForm::Zero3).iteration.unwrap().sampling;
    let large = zero.iteration.unwrap().sampling;
    assert!((1.0..12.0).contains(&(large / small)), "{large} {small}");
    // One of 80 GB: four bits and an adapter, which the sentence says is another training.
    let one = of_70b("h100-80gb", 1, 1);
    assert_eq!(one.choice.form, Some(TrainingForm::Qlora), "{}", one.choice.reason);
    assert!(one.choice.reason.contains("another training"), "{}", one.choice.reason);
    // And one of 24 GB nothing.
    let small = of_70b("rtx-4090", 1, 1);
    assert!(
        small.choice.form.is_none() && small.choice.reason.contains("nothing fits"),
        "{:?}",
        small.choice
    );
}

#[test]
fn more_gpus_never_take_a_rank_more_memory_nor_a_step_more_computing() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    // By itself a training keeps as much as there is room for.
    let recipe = published(&["train.recompute=true"]);
    let mut before: Option<(u64, f64, f64)> = None;
    // Of one GPU nothing is divided.
    for gpus in [2, 4, 8, 16, 32, 64, 128] {
        let outlook = found(&recipe, &policy, &preference, &cluster("h200", gpus, gpus.div_ceil(8)), 20_000);
        let zero = of(&outlook, TrainingForm::Zero3);
        let plain = of(&outlook, TrainingForm::DataParallel);
        let computing = plain.step.unwrap() - plain.waiting.unwrap();
        let time = plain.iteration.unwrap();
        let now = (zero.memory.total(), computing, time.sampling + time.scoring + time.reference);
        if let Some(before) = before {
            assert!(now.0 <= before.0, "{gpus}: {now:?} {before:?}");
            assert!(
                now.1 <= before.1 * (1.0 + 1e-9) && now.2 <= before.2 * (1.0 + 1e-9),
                "{gpus}: {now:?} {before:?}"
            );
        }
        before = Some(now);
    }
}

#[test]
fn slower_links_and_smaller_blocks_of_work_wait_longer() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    let recipe = published(&[]);
    let waiting = |link: &str, gpus: usize, form: TrainingForm| {
        let cluster = Cluster { links: links(&[link], 1), ..cluster("h200", gpus, 1) };
        of(&found(&recipe, &policy, &preference, &cluster, 20_000), form).waiting.unwrap()
    };
    for form in [TrainingForm::DataParallel, TrainingForm::Zero1, TrainingForm::Zero3] {
        assert!(waiting("pcie4", 8, form) > waiting("pcie5", 8, form), "{form:?}");
        assert!(waiting("pcie5", 8, form) > waiting("nvlink4", 8, form), "{form:?}");
    }
    // Eight pairs hide the gathers of all blocks but the first over NVLink: what is waited for is little more than the gradients.
    let zero = waiting("nvlink4", 8, TrainingForm::Zero3);
    let gradients = 0.875 * 4.0 * policy.parameter_count() as f64 / 360e9;
    assert!((gradients..1.2 * gradients).contains(&zero), "{zero} {gradients}");
    // An adapter's gradients are few.
    assert!(
        waiting("nvlink4", 8, TrainingForm::Lora) < 0.01 * waiting("nvlink4", 8, TrainingForm::DataParallel)
    );
}

#[test]
fn shards_are_divided_and_the_last_one_is_waited_for() {
    let shards = ShardDivision { prompts: 20_000, shard_prompts: 2048, ranks: 8 };
    assert_eq!((shards.shards(), shards.rounds(), shards.busiest(), shards.waiting()), (10, 2, 4096, 6));
    let more = ShardDivision { ranks: 16, ..shards };
    assert_eq!((more.rounds(), more.busiest(), more.waiting()), (1, 2048, 6));
    let alone = ShardDivision { ranks: 1, ..shards };
    assert_eq!((alone.busiest(), alone.waiting()), (20_000, 0));
    assert_eq!(ShardDivision::even(20_000, 8, 103).shard_prompts, 625);
    assert_eq!(ShardDivision::even(20_000, 64, 103).shard_prompts, 105);
    assert_eq!(ShardDivision::even(20_000, 1024, 103).shard_prompts, 20);
    assert_eq!(ShardDivision::even(3, 8, 103).shard_prompts, 1);
}

#[test]
fn words_are_read_or_told_what_would_be_right() {
    assert_eq!("H100-80GB".parse::<GpuModel>().unwrap().memory, 80_000_000_000);
    assert!("h800".parse::<GpuModel>().unwrap_err().contains("h100-80gb"));
    let own: LinkModel = "40GB/s".parse().unwrap();
    assert_eq!(own.rate(8), REACHED * 40e9);
    assert_eq!("100gbe".parse::<LinkModel>().unwrap().rate(8), REACHED * 12.5e9 / 8.0);
    for wrong in ["", "nvlink", "-4", "0", "1e9", "4TB/s"] {
        assert!(wrong.parse::<LinkModel>().unwrap_err().contains("nvlink4"), "{wrong}");
    }
    assert_eq!(links(&["40"], 1).within.rate(8), REACHED * 40e9);
    assert_eq!(links(&["40", "pcie5"], 2).between.rate(8), REACHED * 40e9);
    assert_eq!(links(&["pcie5"], 2).between, LinkModel::between());
    let twice: Vec<LinkModel> = ["pcie5", "nvlink4"].map(|name| name.parse().unwrap()).to_vec();
    assert!(Links::of(&twice, 2).unwrap_err().to_string().contains("--link pcie5 and --link nvlink4"));
    assert_eq!("8..64".parse::<SweepRange>().unwrap().gpus(), [8, 16, 32, 64]);
    assert_eq!("8..40".parse::<SweepRange>().unwrap().gpus(), [8, 16, 32, 40]);
    assert_eq!("3..3".parse::<SweepRange>().unwrap().gpus(), [3]);
    for wrong in ["8", "8..4", "0..8", "a..b", "1..9999999"] {
        assert!(wrong.parse::<SweepRange>().unwrap_err().contains("as in 8..1024"), "{wrong}");
    }
}

#[test]
fn a_sweep_begins_at_one_and_loses_where_a_step_cannot_be_divided_further() {
    let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
    let recipe = published(&[]);
    let rates = Rates::load(&[]).unwrap();
    let plan = SweepPlan {
        planned: Planned {
            recipe: &recipe,
            policy: &policy,
            preference: &preference,
            device: DeviceChoice::Cuda(0),
        },
        gpu: GpuModel::MEASURED,
        memory: GpuModel::MEASURED.memory,
        links: links(&[], 2),
        rates: &rates,
        work: OutlookWork { prompts: 20_000, shard_prompts: None, disk: 5e9 },
    };
    let rows = sweep(&plan, "8..1024".parse().unwrap());
    assert_eq!(rows.iter().map(|row| (row.gpus, row.nodes)).next_back(), Some((1024, 128)));
    let strong: Vec<&SweepPoint> = rows.iter().map(|row| row.strong.as_ref().unwrap()).collect();
    assert_eq!((strong[0].efficiency, strong[0].bends), (1.0, None));
    for pair in strong.windows(2) {
        assert!(pair[1].efficiency < pair[0].efficiency && pair[1].time.sampling < pair[0].time.sampling);
    }
    // 64 pairs feed 64 ranks: from there on training gets no shorter.
    let training: Vec<f64> = strong.iter().map(|point| point.time.training).collect();
    assert!(training[3] < 0.4 * training[0] && training[7] > 0.9 * training[3], "{training:?}");
    // With as many more pairs a step it does not get longer either, but for the wire.
    let weak: Vec<&SweepPoint> = rows.iter().map(|row| row.weak.as_ref().unwrap()).collect();
    assert!(weak.iter().all(|point| point.efficiency > 0.5 && point.efficiency < 1.02), "{weak:?}");
}
