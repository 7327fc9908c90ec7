//! What a recipe needs of a cluster and how long it takes there, for every way to train.

use selfplay_model::decoder::KeepPlan;
use selfplay_trainer::TrainSettings;

use super::choice::{Choice, choose};
use super::form::TrainingForm;
use super::form_outlook::FormOutlook;
use super::iteration::{IterationWork, SamplingPlace, iteration};
use super::rank_memory::{RankGpu, RankMemory, rank_memory};
use super::shards::ShardDivision;
use super::step::StepPlan;
use super::topology::Cluster;
use crate::plan::clock::{ClockGpu, StageClock};
use crate::plan::fit::Planned;
use crate::plan::gpu::GpuModel;
use crate::plan::memory::{self, Models, Phase};
use crate::plan::rates::Rates;
use crate::plan::smaller::smaller;
use crate::recipe::{Override, Recipe};

/// The prompts of an iteration, and how fast files are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutlookWork {
    pub(crate) prompts: usize,
    /// Prompts of a shard; `None`: so many that all ranks have as many shards.
    pub(crate) shard_prompts: Option<usize>,
    /// Bytes a second.
    pub(crate) disk: f64,
}

/// A recipe on a cluster.
pub(crate) struct Outlook {
    pub(crate) forms: Vec<FormOutlook>,
    pub(crate) choice: Choice,
    /// Prompts divided as the work says.
    pub(crate) shards: ShardDivision,
    /// And so that all ranks have as many shards.
    pub(crate) even: ShardDivision,
    /// Whether a GPU holds the preference model with a pass of scoring.
    pub(crate) scores: bool,
}

impl Outlook {
    /// The way that is proposed; the first where none fits.
    pub(crate) fn chosen(&self) -> Option<&FormOutlook> {
        let chosen = self.forms.iter().find(|one| Some(one.form) == self.choice.form);
        chosen.or(self.forms.first())
    }
}

/// Plans a recipe on a cluster.
pub(crate) fn outlook(planned: &Planned<'_>, cluster: &Cluster, rates: &Rates, work: OutlookWork) -> Outlook {
    let models = Models::of(planned.recipe, planned.device, planned.policy, planned.preference);
    let place = sampling_place(planned.recipe, &models, cluster);
    let together = place.unwrap_or(SamplingPlace::Ranks);
    let gpu = clock_gpu(cluster, rates, together, KeepPlan::LEAST);
    let clock = StageClock::new(planned.recipe, &models, rates, gpu);
    let full = (clock.rows() as usize).div_ceil(planned.recipe.sample.num_samples.max(1));
    let groups = cluster.gpus / together.group();
    let even =
        ShardDivision { ranks: cluster.gpus, ..ShardDivision::even(work.prompts, groups.max(1), full) };
    let shard_prompts = work.shard_prompts.unwrap_or(even.shard_prompts);
    let shards = ShardDivision { prompts: work.prompts, shard_prompts, ranks: cluster.gpus };
    let forms: Vec<FormOutlook> = TrainingForm::of(planned.recipe, cluster.gpus)
        .into_iter()
        .map(|form| form_outlook(planned, cluster, rates, form, (shards, work.disk)))
        .collect();
    let choice = choose(&forms, cluster);
    Outlook { choice, forms, shards, even, scores: scores(planned, &models, cluster) }
}

/// Another GPU than the measured one, where its rates are not given.
fn other(cluster: &Cluster, rates: &Rates) -> Option<GpuModel> {
    (!rates.are_given() && cluster.gpu != GpuModel::MEASURED).then_some(cluster.gpu)
}

/// Those that sample together have the memory of all of them for keys and values.
fn clock_gpu(cluster: &Cluster, rates: &Rates, place: SamplingPlace, keep: KeepPlan) -> ClockGpu {
    ClockGpu { memory: cluster.memory * place.group() as u64, other: other(cluster, rates), keep }
}

fn form_outlook(
    planned: &Planned<'_>,
    cluster: &Cluster,
    rates: &Rates,
    form: TrainingForm,
    (shards, disk): (ShardDivision, f64),
) -> FormOutlook {
    let recipe = form.apply(planned.recipe);
    let models = Models::of(&recipe, planned.device, planned.policy, planned.preference);
    let on = RankGpu { ranks: cluster.gpus, memory: cluster.memory };
    let need = |settings: &TrainSettings| rank_memory(&models, &recipe, settings, form, on);
    let mut rank: RankMemory = need(&recipe.train);
    let (mut set, mut train) = (Vec::new(), recipe.train.clone());
    if rank.bytes.total() > cluster.memory {
        for (keys, settings) in smaller(&recipe.train) {
            let less = need(&settings);
            if less.bytes.total() <= cluster.memory {
                let of_train = keys.iter().filter_map(|key| key.split_once('='));
                set = of_train.map(|(key, value)| Override::new(format!("train.{key}"), value)).collect();
                (rank, train) = (less, settings);
                break;
            }
        }
    }
    let recipe = Recipe { train, ..recipe.clone() };
    let sampling = sampling_place(&recipe, &models, cluster);
    let place = sampling.unwrap_or(SamplingPlace::Ranks);
    let gpu = clock_gpu(cluster, rates, place, rank.keep);
    let clock = StageClock::new(&recipe, &models, rates, gpu);
    let plan = StepPlan { clock: &clock, cluster, form, models: &models, recipe: &recipe };
    let batch = recipe.train.batch_size as f64;
    let step = plan.time(batch);
    let iteration = iteration(&plan, &IterationWork { shards, place, disk });
    let runs = planned.recipe.iterations as f64;
    // The starting policy answers the held-out prompts too.
    let evaluating = place.evaluating(cluster.gpus);
    let held_out = clock.held_out_of_run(evaluating).zip(clock.held_out(evaluating));
    let start = held_out.map(|(whole, each)| whole - each * runs);
    let group = place.group() as f64;
    let run = iteration.zip(start).map(|(time, start)| clock.start() + start / group + time.total() * runs);
    FormOutlook {
        form,
        own_keys: form.keys(planned.recipe, cluster.gpus),
        fits: rank.bytes.total() <= cluster.memory,
        memory: rank.bytes,
        on_host: rank.on_host,
        set,
        wire_bytes: plan.traffic(batch).wire_bytes(form, cluster),
        step: step.map(|step| step.seconds),
        waiting: step.map(|step| step.waiting),
        sampling,
        iteration,
        run,
    }
}

/// Who can hold the policy with one candidate at least: a rank, or the least power of two of GPUs.
fn sampling_place(recipe: &Recipe, models: &Models<'_>, cluster: &Cluster) -> Option<SamplingPlace> {
    // Where sampling and scoring take turns, each has the device for itself.
    let needs = memory::needs(models, recipe, Some(cluster.memory));
    let need = needs.iter().find(|need| need.phase != Phase::Training && need.phase != Phase::Scoring)?;
    if need.bytes.total() <= cluster.memory {
        return Some(SamplingPlace::Ranks);
    }
    let room = cluster.memory - cluster.memory / 4;
    let groups = (1..=cluster.gpus.ilog2()).map(|power| 1usize << power);
    let gpus = groups.into_iter().find(|&gpus| models.policy_weights() / gpus as u64 <= room)?;
    Some(SamplingPlace::Servers { gpus })
}

/// Whether a GPU holds the preference model and a pass of it.
fn scores(planned: &Planned<'_>, models: &Models<'_>, cluster: &Cluster) -> bool {
    if models.preference.is_elsewhere() {
        return true;
    }
    let needs = memory::needs(models, planned.recipe, Some(cluster.memory));
    let of_scoring = needs.iter().filter(|need| need.phase == Phase::Scoring);
    of_scoring.map(|need| need.bytes.total()).all(|bytes| bytes <= cluster.memory)
}
