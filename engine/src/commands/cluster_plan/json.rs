//! The plans as JSON: bytes and seconds.

use serde_json::{Value, json};

use super::asked::Asked;
use super::text::notes;
use crate::plan::cluster::{Cluster, FormOutlook, Outlook, SweepPoint, SweepRow};

pub(super) fn one_json(asked: &Asked<'_>, cluster: &Cluster, found: &Outlook) -> Value {
    let forms: Vec<Value> = found.forms.iter().map(form_json).collect();
    let (within, between) = (&cluster.links.within, &cluster.links.between);
    json!({
        "recipe": asked.shapes.recipe.name,
        "iterations": asked.shapes.recipe.iterations,
        "prompts": asked.work.prompts,
        "prompts_counted": asked.is_counted,
        "gpus": cluster.gpus,
        "nodes": cluster.nodes,
        "gpu": cluster.gpu.name,
        "memory_bytes": cluster.memory,
        "link_within": within.name,
        "link_within_bytes_per_second": within.rate(cluster.per_node()),
        "link_between": between.name,
        "link_between_bytes_per_second": between.rate(cluster.per_node()),
        "disk_bytes_per_second": asked.work.disk,
        "forms": forms,
        "shards": found.shards,
        "even_shards": found.even,
        "scoring_fits": found.scores,
        "choice": found.choice,
        "notes": notes(asked, cluster, found),
    })
}

fn form_json(one: &FormOutlook) -> Value {
    let set: Vec<String> = one.keys().iter().map(|key| format!("{}={}", key.key, key.value)).collect();
    let parts: Vec<Value> =
        one.memory.items.iter().map(|item| json!({"what": item.what, "bytes": item.bytes})).collect();
    json!({
        "form": one.form,
        "set": set,
        "memory": parts,
        "memory_bytes": one.memory.total(),
        "host_bytes": one.on_host,
        "fits": one.fits,
        "sent_bytes_per_step": one.wire_bytes,
        "step_seconds": one.step,
        "waiting_seconds": one.waiting,
        "sampling": one.sampling,
        "iteration_seconds": one.iteration.map(|time| time.total()),
        "iteration": one.iteration,
        "run_seconds": one.run,
    })
}

pub(super) fn sweep_json(row: &SweepRow) -> Value {
    let point = |point: &Option<SweepPoint>| {
        point.as_ref().map(|point| {
            json!({
                "form": point.form,
                "shard_prompts": point.shard_prompts,
                "iteration": point.time,
                "iteration_seconds": point.time.total(),
                "efficiency": point.efficiency,
                "lost_most": point.bends,
            })
        })
    };
    json!({"gpus": row.gpus, "nodes": row.nodes, "strong": point(&row.strong), "weak": point(&row.weak)})
}
