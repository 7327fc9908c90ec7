//! The same recipe on more and more GPUs: how its iteration shrinks, and what keeps it from shrinking further.

use std::str::FromStr;

use super::form::TrainingForm;
use super::iteration::IterationTime;
use super::outlook::{OutlookWork, outlook};
use super::topology::{Cluster, Links};
use crate::plan::fit::Planned;
use crate::plan::gpu::GpuModel;
use crate::plan::rates::Rates;
use crate::recipe::Recipe;

/// GPUs of a node, as they are sold.
const NODE: usize = 8;

/// GPUs at most: more would be no plan.
const MOST: usize = 1 << 20;

/// From so many GPUs to so many, each twice as many as the one before: `8..1024`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepRange {
    from: usize,
    to: usize,
}

impl SweepRange {
    /// The numbers.
    pub(crate) fn gpus(self) -> Vec<usize> {
        let mut all: Vec<usize> = std::iter::successors(Some(self.from), |gpus| gpus.checked_mul(2))
            .take_while(|&gpus| gpus < self.to)
            .collect();
        all.push(self.to);
        all
    }
}

impl FromStr for SweepRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("expected two numbers of GPUs from 1 to {MOST}, as in 8..1024");
        let (from, to) = text.split_once("..").ok_or_else(wanted)?;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wanted());
        let (from, to) = (number(from)?, number(to)?);
        if (1..=to).contains(&from) && to <= MOST { Ok(Self { from, to }) } else { Err(wanted()) }
    }
}

/// One number of GPUs.
#[derive(Clone, Debug)]
pub(crate) struct SweepRow {
    pub(crate) gpus: usize,
    pub(crate) nodes: usize,
    /// `None` where nothing fits, or a stage has no rate.
    pub(crate) strong: Option<SweepPoint>,
    /// With as many times more prompts and pairs of a step as there are more GPUs.
    pub(crate) weak: Option<SweepPoint>,
}

/// An iteration on that many.
#[derive(Clone, Debug)]
pub(crate) struct SweepPoint {
    pub(crate) form: TrainingForm,
    pub(crate) shard_prompts: usize,
    pub(crate) time: IterationTime,
    /// Against the first row.
    pub(crate) efficiency: f64,
    /// The stage that loses the most against the first row's divided by as many more GPUs; `None` in the first row.
    pub(crate) bends: Option<&'static str>,
}

/// What a sweep is over.
pub(crate) struct SweepPlan<'a> {
    pub(crate) planned: Planned<'a>,
    pub(crate) gpu: GpuModel,
    pub(crate) memory: u64,
    pub(crate) links: Links,
    pub(crate) rates: &'a Rates,
    pub(crate) work: OutlookWork,
}

/// All rows.
pub(crate) fn sweep(plan: &SweepPlan<'_>, range: SweepRange) -> Vec<SweepRow> {
    let mut rows: Vec<SweepRow> = Vec::new();
    let first = range.from;
    let mut begun: [Option<IterationTime>; 2] = [None, None];
    for gpus in range.gpus() {
        let nodes = gpus.div_ceil(NODE);
        let cluster = Cluster { gpu: plan.gpu, memory: plan.memory, gpus, nodes, links: plan.links.clone() };
        let more = gpus as f64 / first as f64;
        let strong = point(plan, &cluster, plan.planned.recipe, plan.work);
        let larger = enlarged(plan.planned.recipe, more);
        let prompts = (plan.work.prompts as f64 * more).round() as usize;
        let weak = point(plan, &cluster, &larger, OutlookWork { prompts, ..plan.work });
        let mut against = |place: usize, point: Option<SweepPoint>, ideal: f64| {
            let mut point = point?;
            let begun = *begun[place].get_or_insert(point.time);
            point.efficiency = begun.total() / ideal / point.time.total();
            point.bends = (gpus > first).then(|| bends(&begun, &point.time, ideal));
            Some(point)
        };
        let strong = against(0, strong, more);
        let weak = against(1, weak, 1.0);
        rows.push(SweepRow { gpus, nodes, strong, weak });
    }
    rows
}

/// The recipe with so many times more pairs of a step.
fn enlarged(recipe: &Recipe, more: f64) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.train.batch_size = (recipe.train.batch_size as f64 * more).round() as usize;
    recipe
}

fn point(plan: &SweepPlan<'_>, cluster: &Cluster, recipe: &Recipe, work: OutlookWork) -> Option<SweepPoint> {
    let planned = Planned { recipe, ..plan.planned };
    let found = outlook(&planned, cluster, plan.rates, work);
    let form = found.choice.form?;
    let chosen = found.chosen()?;
    chosen.sampling?;
    Some(SweepPoint {
        form,
        shard_prompts: found.shards.shard_prompts,
        time: chosen.iteration?,
        efficiency: 1.0,
        bends: None,
    })
}

/// The stage that is furthest above what it began with, divided by `ideal`.
fn bends(begun: &IterationTime, time: &IterationTime, ideal: f64) -> &'static str {
    let stages = begun.stages().into_iter().zip(time.stages());
    let lost = stages.map(|((name, begun), (_, seconds))| (name, seconds - begun / ideal));
    lost.max_by(|a, b| a.1.total_cmp(&b.1)).map_or("", |(name, _)| name)
}
