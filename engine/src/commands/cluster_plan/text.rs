//! The plan for one cluster as text of 80 columns.

use std::fmt::Write;

use super::asked::Asked;
use crate::console::units::{count, duration, size};
use crate::console::wrap::wrapped;
use crate::plan::cluster::{Cluster, FormOutlook, Outlook, REACHED, SamplingPlace};
use crate::plan::gpu::GpuModel;
use crate::report::columns;

pub(super) fn one_text(asked: &Asked<'_>, cluster: &Cluster, found: &Outlook) -> String {
    let mut text = head(asked, cluster);
    let memory = size(cluster.memory);
    let _ =
        writeln!(text, "\nways to train, of {memory} a GPU; bytes and times of an optimizer step, at most\n");
    text.push_str(&columns(&forms_table(found)));
    let host: Vec<String> = found
        .forms
        .iter()
        .filter(|one| one.on_host > 0)
        .map(|one| {
            format!("{} takes {} of the host's memory for each GPU", one.form.title(), size(one.on_host))
        })
        .collect();
    host.iter().for_each(|line| text.push_str(&wrapped(line, 0)));
    let _ = writeln!(text, "\ntake\n{}", wrapped(&found.choice.reason, 2).trim_end());
    if let Some(one) = found.chosen().filter(|_| found.choice.form.is_some()) {
        let _ = writeln!(text, "\na GPU while training with {}\n", one.form.title());
        let mut rows: Vec<Vec<String>> =
            one.memory.items.iter().map(|item| vec![format!("  {}", item.what), size(item.bytes)]).collect();
        rows.push(vec!["  together".to_owned(), size(one.memory.total())]);
        text.push_str(&columns(&rows));
        stages_text(&mut text, asked, cluster, found, one);
    }
    text.push('\n');
    for note in notes(asked, cluster, found) {
        text.push_str(&wrapped(&note, 0));
    }
    text
}

fn head(asked: &Asked<'_>, cluster: &Cluster) -> String {
    let recipe = &asked.shapes.recipe;
    let (gpus, nodes) = (cluster.gpus, cluster.nodes);
    let place = if nodes > 1 { format!("{nodes} nodes") } else { "one node".to_owned() };
    let mut text = wrapped(
        &format!(
            "{}: {} iterations of {} prompts on {gpus} × {} in {place}",
            recipe.name, recipe.iterations, asked.work.prompts, cluster.gpu.title
        ),
        0,
    );
    let policy = count(asked.shapes.policy.parameter_count() as u64);
    let _ = writeln!(text, "  policy            {policy} parameters");
    let preference = match asked.shapes.preference.is_elsewhere() {
        true => "another program".to_owned(),
        false => format!("{} parameters", count(asked.shapes.preference.parameters)),
    };
    let _ = writeln!(text, "  preference model  {preference}");
    if cluster.per_node() > 1 {
        let _ = writeln!(text, "  within a node     {}", cluster.links.within.title());
    }
    if nodes > 1 {
        let _ = writeln!(text, "  between nodes     {}", cluster.links.between.title());
    }
    text
}

fn forms_table(found: &Outlook) -> Vec<Vec<String>> {
    let titles = ["", "memory", "fits", "sent", "step", "waiting", "iteration", "run"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for one in &found.forms {
        let time = |seconds: Option<f64>| seconds.map_or("?".to_owned(), duration);
        let fits = match (one.fits, one.set.is_empty()) {
            (false, _) => "no",
            (true, true) => "yes",
            (true, false) => "*",
        };
        rows.push(vec![
            one.form.title().to_owned(),
            size(one.memory.total()),
            fits.to_owned(),
            size(one.wire_bytes as u64),
            time(one.step),
            time(one.waiting),
            time(one.iteration.map(|time| time.total())),
            time(one.run),
        ]);
    }
    rows
}

fn stages_text(text: &mut String, asked: &Asked<'_>, cluster: &Cluster, found: &Outlook, one: &FormOutlook) {
    let Some(time) = one.iteration else {
        text.push_str(&wrapped(
            "no times: a stage has no rate in this width of numbers; benches/gpu.sh measures them, --rates takes them",
            0,
        ));
        return;
    };
    let _ = writeln!(text, "\nan iteration with {}\n", one.form.title());
    let mut rows: Vec<Vec<String>> =
        time.stages().iter().map(|(name, seconds)| vec![format!("  {name}"), duration(*seconds)]).collect();
    rows.push(vec!["  together".to_owned(), duration(time.total())]);
    text.push_str(&columns(&rows));
    let shards = found.shards;
    let mut line = format!(
        "{} shards of {} prompts: the busiest rank answers {} of them",
        shards.shards(),
        shards.shard_prompts,
        shards.rounds()
    );
    if shards.waiting() > 0 {
        let _ = write!(line, ", {} of {} ranks wait for the last", shards.waiting(), cluster.gpus);
    }
    if found.even.busiest() < shards.busiest() {
        let _ = write!(line, "; --set sample.shard_prompts={} leaves none waiting", found.even.shard_prompts);
    }
    text.push_str(&wrapped(&line, 2));
    let pairs = asked.shapes.recipe.train.batch_size;
    if pairs < cluster.gpus {
        text.push_str(&wrapped(
            &format!(
                "a step's {pairs} pairs feed {pairs} of {} ranks: train.batch_size is too small for this many",
                cluster.gpus
            ),
            2,
        ));
    }
    if cluster.nodes > 1 {
        let network = size(cluster.network_bytes(one.wire_bytes) as u64);
        text.push_str(&wrapped(
            &format!("of what a GPU sends in a step, {network} go through its share of the node's way out"),
            2,
        ));
    }
}

/// What the figures rest on, and what they leave out.
pub(super) fn notes(asked: &Asked<'_>, cluster: &Cluster, found: &Outlook) -> Vec<String> {
    let mut notes = Vec::new();
    let marked: Vec<&FormOutlook> =
        found.forms.iter().filter(|one| one.fits && !one.set.is_empty()).collect();
    if found.forms.iter().any(|one| one.on_host > 0) {
        notes.push("host: masters and the optimizer's state are in the host's memory (train.offload); more: the blocks' gradients too.".to_owned());
    }
    for one in marked {
        notes.push(format!("* {} fits with {}", one.form.title(), one.set_text()));
    }
    match found.chosen().and_then(|one| one.sampling) {
        Some(SamplingPlace::Ranks) => {}
        Some(SamplingPlace::Servers { gpus }) => notes.push(format!(
            "A GPU does not hold the policy beside a candidate: sampling and the held-out prompts are reckoned by \
             servers over {gpus} GPUs each, without loss (sample.backend = \"vllm\" or \"sglang\"); evaluation, which is native, \
             needs a GPU that holds it."
        )),
        None => notes.push("Not even all GPUs together hold the policy for sampling.".to_owned()),
    }
    if !found.scores {
        notes.push(
            "A GPU does not hold the preference model with a pass of scoring: score.endpoint asks a server."
                .to_owned(),
        );
    }
    if !asked.is_counted {
        notes.push(format!(
            "The prompts of a hub's split are not counted; --set prompts.max_prompts=N says how many an iteration has, \
             {} are taken here.",
            asked.work.prompts
        ));
    }
    let other = !asked.rates.are_given() && cluster.gpu != GpuModel::MEASURED;
    let scaled = match other {
        true => format!(
            "times of the {} are those of the {}, scaled by published rates",
            cluster.gpu.title,
            GpuModel::MEASURED.title
        ),
        false => "times rest on measured rates of one GPU".to_owned(),
    };
    notes.push(format!(
        "Assumed and not measured: links reach {:.0} % of their speed; {scaled}; nodes read and write {}/s each. \
         Prompts and responses are as long as the recipe allows.",
        100.0 * REACHED,
        size(asked.work.disk as u64)
    ));
    notes
}
