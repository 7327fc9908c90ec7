//! `selfplay plan RECIPE --gpus N` and `--sweep A..B`: the plan for several GPUs, as tables or JSON.

mod args;
mod asked;
mod json;
mod sweep;
mod text;

use selfplay_records::atomic;
use serde_json::{Value, json};

use self::asked::Asked;
use self::json::{one_json, sweep_json};
use self::sweep::{efficiencies, sweep_text};
use self::text::one_text;
use super::replaced::check_replaced;
use super::run_plan::{RunShapes, prompts};
use crate::commands::print;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::plan::cluster::{Cluster, Links, OutlookWork, SweepPlan, SweepRange, outlook, sweep};
use crate::plan::device::ByteSize;
use crate::plan::fit::Planned;
use crate::plan::gpu::GpuModel;
use crate::plan::rates::Rates;
use crate::plan::time::{DISK, UNIT};
use crate::recipe::Recipe;
use crate::report::page::{EFFICIENCY_TITLE, efficiency_svg};

pub use self::args::ClusterArgs;

/// What `plan` was asked for beside its cluster.
pub(super) struct ClusterTarget {
    pub(super) device: DeviceChoice,
    pub(super) memory: Option<ByteSize>,
    pub(super) rates: Rates,
}

/// Prints the plan of a run's recipe.
///
/// # Errors
/// A model's configuration or a file of prompts that is wrong; GPUs that no nodes can have; a number of GPUs that nothing fits.
pub(super) fn plan(recipe: &Recipe, args: &ClusterArgs, target: &ClusterTarget) -> Result<()> {
    let mut shapes = RunShapes::load(recipe)?;
    let counted = prompts(recipe)?;
    let each = counted.map_or(UNIT, |all| all.div_ceil(recipe.iterations.max(1) as u64));
    let gpu = args.gpu.unwrap_or(GpuModel::MEASURED);
    let device = if target.device == DeviceChoice::Cpu { DeviceChoice::Cuda(0) } else { target.device };
    let memory = target.memory.map_or(gpu.memory, ByteSize::bytes);
    shapes.settle_passes(device, Some(memory));
    let asked = Asked {
        planned: Planned {
            recipe: &shapes.recipe,
            policy: &shapes.policy,
            preference: &shapes.preference,
            device,
        },
        shapes: &shapes,
        gpu,
        memory,
        rates: &target.rates,
        work: OutlookWork {
            prompts: usize::try_from(each).unwrap_or(usize::MAX),
            shard_prompts: Some(shapes.recipe.sample.shard_prompts),
            disk: args.disk.map_or(DISK, |size| size.bytes() as f64),
        },
        is_counted: counted.is_some(),
    };
    match (args.sweep, args.gpus) {
        (Some(range), _) => sweep_report(&asked, args, range),
        (None, Some(gpus)) => one_report(&asked, args, gpus as usize),
        (None, None) => Ok(()),
    }
}

fn one_report(asked: &Asked<'_>, args: &ClusterArgs, gpus: usize) -> Result<()> {
    let nodes = args.nodes.unwrap_or(1) as usize;
    if !gpus.is_multiple_of(nodes) {
        return Err(EngineError::input(format!(
            "--gpus {gpus} --nodes {nodes}: expected as many GPUs in each node"
        )));
    }
    let links = Links::of(&args.link, nodes)?;
    let cluster = Cluster { gpu: asked.gpu, memory: asked.memory, gpus, nodes, links };
    let found = outlook(&asked.planned, &cluster, asked.rates, asked.work);
    if args.json {
        print(&pretty(&one_json(asked, &cluster, &found)))?;
    } else {
        print(&one_text(asked, &cluster, &found))?;
    }
    if found.choice.form.is_none() {
        return Err(EngineError::input(format!("{}: {}", asked.shapes.recipe.name, found.choice.reason)));
    }
    Ok(())
}

fn sweep_report(asked: &Asked<'_>, args: &ClusterArgs, range: SweepRange) -> Result<()> {
    if let Some(path) = &args.svg {
        check_replaced(path, EFFICIENCY_TITLE, "no drawing of a sweep; name another file")?;
    }
    let plan = SweepPlan {
        planned: asked.planned,
        gpu: asked.gpu,
        memory: asked.memory,
        links: Links::of(&args.link, 2)?,
        rates: asked.rates,
        // Shards that fit the number of GPUs: their size changes no candidate.
        work: OutlookWork { shard_prompts: None, ..asked.work },
    };
    let rows = sweep(&plan, range);
    if let Some(path) = &args.svg {
        atomic::write_bytes(path, efficiency_svg(&efficiencies(&rows)).as_bytes())
            .map_err(|error| EngineError::named(path, error.source))?;
    }
    if args.json {
        let rows: Vec<Value> = rows.iter().map(sweep_json).collect();
        return print(&pretty(&json!({
            "recipe": asked.shapes.recipe.name,
            "prompts": asked.work.prompts,
            "gpu": asked.gpu.name,
            "link_within": plan.links.within.name,
            "link_between": plan.links.between.name,
            "rows": rows,
        })));
    }
    print(&sweep_text(asked, &plan, &rows))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
