//! `selfplay bench --profile`: where the time of a decode step, a prefill step and a training step goes, operation by operation
//! and kernel by kernel, by the device's own clock.

use std::fmt::Write;

use selfplay_model::decoder::DecodeGraphs;
use selfplay_model::gpu::Gpu;
use selfplay_model::gpu::start_profile;
use selfplay_model::ops::draw::draw;
use selfplay_model::profile::Profile;
use selfplay_model::{Decoder, LoadOptions};
use selfplay_trainer::loss::LossSettings;
use selfplay_trainer::optimizer::{Optimizer, grad_clip};
use selfplay_trainer::{
    ActivationMemory, LossTokens, MicroBatches, TokenPair, TrainSettings, pair_gradients,
};
use serde::Serialize;

use super::floor::floor_seconds;
use super::mixed::{AheadTiming, begun_ahead};
use super::shared_rows::{SharedRows, StepKind, draws, last_tokens};
use super::step::keep_masters;
use super::work::{WorkRng, pairs};
use super::{Bench, BenchPart, fault};
use crate::error::Result;

/// One operation, or one kernel of it.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileLine {
    /// The stage within the work, with its operation; or a kernel's name.
    pub name: String,
    /// Whether it is a kernel of the operation above.
    pub is_kernel: bool,
    /// Calls of an operation, launches of a kernel.
    pub count: usize,
    /// Seconds of all of them.
    pub seconds: f64,
    /// Their share of the time of the whole.
    pub share: f64,
    /// Least bytes of all calls.
    pub bytes: f64,
    /// Operations of all calls.
    pub flops: f64,
    /// The longer of the two over their ceilings.
    pub floor_seconds: f64,
}

/// The breakdown of one piece of work.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileTable {
    /// What was run.
    pub name: String,
    /// From its beginning to its end.
    pub seconds: f64,
    /// Of it, between operations: the host was late, or memory was set and copied.
    pub gap_seconds: f64,
    /// Launches of kernels and products.
    pub launches: usize,
    /// Operations, the longest first, each with its kernels where it has several.
    pub lines: Vec<ProfileLine>,
}

/// Profiles what these parts are about, each once after a run that is not counted: sampling a decode, a mixed and a prefill step,
/// training a step; `on_table` is given each table when it is done.
///
/// # Errors
/// An error of the device, or of `on_table`.
pub fn profile(
    bench: &Bench,
    parts: &[BenchPart],
    on_table: &mut dyn FnMut(ProfileTable) -> Result<()>,
) -> Result<()> {
    if parts.contains(&BenchPart::Sample) {
        let options =
            LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), ..LoadOptions::default() };
        let mut decoder = Decoder::random(bench.policy.clone(), bench.seed, &options)?;
        bench.prepare(&mut decoder)?;
        let rows = SharedRows::of(bench);
        let decode = step_of(bench, &decoder, &rows, StepKind::Decode)?;
        let busy = decode.seconds - decode.gap_seconds;
        on_table(decode)?;
        let is_gpu = Gpu::at(&bench.device).map_err(fault)?.is_some();
        if is_gpu {
            on_table(captured(bench, &decoder, &rows, busy)?)?;
        }
        let mixed = step_of(bench, &decoder, &rows, StepKind::Mixed)?;
        let launches = mixed.launches;
        on_table(mixed)?;
        if is_gpu {
            on_table(ahead(bench, &decoder, &rows, launches)?)?;
        }
        on_table(step_of(bench, &decoder, &rows, StepKind::Prefill)?)?;
    }
    if parts.contains(&BenchPart::Train) {
        on_table(training_step(bench)?)?;
    }
    Ok(())
}

/// Runs `work` twice; what the second run took.
fn twice(bench: &Bench, name: String, mut work: impl FnMut() -> Result<()>) -> Result<ProfileTable> {
    work()?;
    let recording = start_profile(&bench.device).map_err(fault)?;
    work()?;
    let profile = recording.finish().map_err(fault)?;
    Ok(table_of(bench, name, &profile))
}

fn table_of(bench: &Bench, name: String, profile: &Profile) -> ProfileTable {
    let mut rows: Vec<_> = profile.rows.iter().collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let mut lines = Vec::new();
    for row in rows {
        let separator = if row.stage.is_empty() { "" } else { ": " };
        lines.push(ProfileLine {
            name: format!("{}{separator}{}", row.stage, row.operation),
            is_kernel: false,
            count: row.calls,
            seconds: row.seconds,
            share: row.seconds / profile.seconds,
            bytes: row.cost.bytes,
            flops: row.cost.flops,
            floor_seconds: floor_seconds(&[row.cost], &bench.ceilings),
        });
        lines.extend(row.kernels.iter().map(|(kernel, time)| ProfileLine {
            name: kernel.clone(),
            is_kernel: true,
            count: time.launches,
            seconds: time.seconds,
            share: time.seconds / profile.seconds,
            bytes: 0.0,
            flops: 0.0,
            floor_seconds: 0.0,
        }));
    }
    let kernels = profile.rows.iter().flat_map(|row| row.kernels.values());
    ProfileTable {
        name,
        seconds: profile.seconds,
        gap_seconds: (profile.seconds - profile.busy()).max(0.0),
        launches: kernels.map(|time| time.launches).sum(),
        lines,
    }
}

/// Profiles a step of these rows, kernel by kernel.
fn step_of(bench: &Bench, decoder: &Decoder, shared: &SharedRows, step: StepKind) -> Result<ProfileTable> {
    let mut cache = shared.cache(bench)?;
    let rows = shared.step(step, bench.micro_batch_tokens.min(8192));
    let wanted = last_tokens(&rows);
    let tokens = wanted.last().map_or(0, |last| last + 1);
    let name = match step {
        StepKind::Decode => format!("decode step, {} rows at {} tokens", rows.len(), rows[0].context),
        StepKind::Mixed => {
            format!("mixed step, {} rows and {} tokens of a prompt", rows.len() - 1, shared.prompt)
        }
        StepKind::Prefill => format!("prefill step, {} prompts of {} tokens", rows.len(), shared.prompt),
    };
    let ids = WorkRng::new(bench.seed).ids(tokens, bench.policy.vocab_size);
    twice(bench, name, || {
        let hidden = decoder.forward_paged(&ids, &rows, &wanted, &mut cache).map_err(fault)?;
        let logits = decoder.logits(&hidden).map_err(fault)?;
        // A CPU's draw is the sampler's own.
        if Gpu::at(&bench.device).map_err(fault)?.is_some() {
            draw(&logits, &draws(wanted.len())).map_err(fault)?;
        }
        Ok(())
    })
}

/// The decode step as it is replayed, with nothing between two of its events; `busy` seconds of it are the kernels', by the
/// profile of the same step.
fn captured(bench: &Bench, decoder: &Decoder, shared: &SharedRows, busy: f64) -> Result<ProfileTable> {
    let (mut cache, mut graphs) = (shared.cache(bench)?, DecodeGraphs::default());
    let rows = shared.step(StepKind::Decode, 0);
    let ids = WorkRng::new(bench.seed).ids(rows.len(), bench.policy.vocab_size);
    let draws = draws(rows.len());
    let mut run = || {
        decoder.decode_and_draw(&ids, &rows, &draws, &mut cache, &mut graphs).map_err(fault)?;
        Ok(())
    };
    // Kernel by kernel, then captured.
    run()?;
    run()?;
    let seconds = bench.time(run)?;
    let (name, gap_seconds) = ("decode step, captured".to_owned(), (seconds - busy).max(0.0));
    Ok(ProfileTable { name, seconds, gap_seconds, launches: 1, lines: Vec::new() })
}

/// The mixed step as the engine begins it; `launches` are those of the same step kernel by kernel.
fn ahead(bench: &Bench, decoder: &Decoder, rows: &SharedRows, launches: usize) -> Result<ProfileTable> {
    let AheadTiming { seconds, idle_seconds, host_seconds, steps, counts } =
        begun_ahead(bench, decoder, rows)?;
    let name = format!(
        "mixed step, begun ahead: {:.2} ms of the host, {:.2} waits a step, {} of {steps} replayed, {} started before the device came to them",
        host_seconds * 1e3,
        counts.waits as f64 / steps as f64,
        counts.replayed,
        counts.ahead,
    );
    let launches = if counts.replayed == steps { 1 } else { launches };
    Ok(ProfileTable { name, seconds, gap_seconds: idle_seconds, launches, lines: Vec::new() })
}

/// One optimizer step, as `bench train` has it.
fn training_step(bench: &Bench) -> Result<ProfileTable> {
    let options =
        LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), ..LoadOptions::default() };
    let mut decoder = Decoder::random(bench.policy.clone(), bench.seed, &options)?;
    let (place, mut gradients) = keep_masters(bench, &mut decoder)?;
    let settings = TrainSettings { recompute: bench.recompute, ..TrainSettings::default() };
    let pairs = pairs(bench);
    let batch: Vec<&TokenPair> = pairs.iter().collect();
    let mut optimizer = Optimizer::placed(&settings, decoder.parameters(), place.is_host())?;
    let memory = ActivationMemory::new(bench.recompute);
    let loss = LossSettings::from(&settings);
    let tokens: usize = pairs.iter().map(TokenPair::tokens).sum();
    twice(bench, format!("training step, {} pairs, {tokens} tokens", bench.pairs), || {
        gradients.zero()?;
        let (tokens, loss_tokens) = (bench.micro_batch_tokens, LossTokens::Responses);
        let pass = MicroBatches { tokens, memory: &memory, loss_tokens };
        pair_gradients(&decoder, &batch, &loss, pass, gradients.added_to())?;
        gradients.settle()?;
        let scale = grad_clip::global_norm(decoder.parameters(), gradients.whole(), 1.0)?.clip_scale;
        Ok(optimizer.step(decoder.parameters(), gradients.whole(), 5e-7, scale)?)
    })
}

/// The table for people: operations that take a thousandth of the time and more, and the kernels of those that have several.
pub fn profile_text(table: &ProfileTable) -> String {
    let mut text = String::new();
    let percent = |part: f64| 100.0 * part / table.seconds;
    let _ = writeln!(
        text,
        "{}: {:.3} ms, gaps {:.3} ms ({:.1} %), {} launches",
        table.name,
        table.seconds * 1e3,
        table.gap_seconds * 1e3,
        percent(table.gap_seconds),
        table.launches
    );
    let _ = writeln!(
        text,
        "  {:<46}{:>7}{:>12}{:>8}{:>10}{:>12}{:>12}{:>9}",
        "", "calls", "ms", "share", "GB", "GFLOP", "floor ms", "of it"
    );
    let mut kernels = 0;
    for (place, line) in table.lines.iter().enumerate() {
        if !line.is_kernel {
            kernels = table.lines[place + 1..].iter().take_while(|line| line.is_kernel).count();
        }
        if line.share < 1e-3 || (line.is_kernel && kernels < 2) {
            continue;
        }
        let indent = if line.is_kernel { "    " } else { "" };
        let _ = write!(
            text,
            "  {:<46}{:>7}{:>12.3}{:>6.1} %",
            format!("{indent}{}", line.name),
            line.count,
            line.seconds * 1e3,
            100.0 * line.share
        );
        if !line.is_kernel {
            let _ = write!(
                text,
                "{:>10.3}{:>12.1}{:>12.3}{:>7.1} %",
                line.bytes / 1e9,
                line.flops / 1e9,
                line.floor_seconds * 1e3,
                100.0 * line.floor_seconds / line.seconds
            );
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use selfplay_model::Architecture;
    use selfplay_trainer::{Offload, Recompute};

    use super::*;
    use crate::bench::{Ceilings, SampledMaps};

    fn bench() -> Bench {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
        });
        let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        Bench {
            device: Device::Cpu,
            dtype: DType::F32,
            policy: shape.clone(),
            preference: shape,
            pairs: 3,
            max_tokens: 80,
            rows: 10,
            micro_batch_tokens: 160,
            recompute: Recompute::Always,
            offload: Offload::Auto,
            maps: SampledMaps::Own,
            kv_format: DType::F32.into(),
            repeats: 1,
            seed: 1,
            ceilings: Ceilings { bytes_per_second: 1e10, flops_per_second: 1e11 },
        }
    }

    fn tables() -> Vec<ProfileTable> {
        let mut tables = Vec::new();
        profile(&bench(), &[BenchPart::Sample, BenchPart::Train], &mut |table| {
            tables.push(table);
            Ok(())
        })
        .unwrap();
        tables
    }

    /// The operations of a table with their calls.
    fn calls(table: &ProfileTable, name: &str) -> usize {
        table.lines.iter().filter(|line| !line.is_kernel && line.name == name).map(|line| line.count).sum()
    }

    #[test]
    fn every_operation_of_a_step_is_there() {
        let [decode, mixed, prefill, train] = &tables()[..] else { panic!("four tables") };
        assert_eq!(mixed.name, "mixed step, 5 rows and 16 tokens of a prompt");
        for step in [decode, mixed, prefill] {
            for name in ["q_proj+k_proj+v_proj", "o_proj", "gate_proj+up_proj", "down_proj"] {
                assert_eq!(calls(step, name), 3, "{name}: {step:?}");
            }
            assert_eq!((calls(step, "attention over pages"), calls(step, "lm_head")), (3, 1));
        }
        // Micro-batches, each of them three blocks; two of these are computed again, without their last product.
        let micro = calls(train, "forward: embedding");
        assert!(micro > 1);
        assert_eq!(calls(train, "forward: down_proj"), 3 * micro);
        assert_eq!(calls(train, "recomputation: gate_proj+up_proj"), 2 * micro);
        assert_eq!(calls(train, "recomputation: down_proj"), 0);
        assert_eq!(calls(train, "recomputation: gated unit"), 0);
        assert_eq!(calls(train, "backward: down_proj, backward"), 3 * micro);
        assert!(calls(train, "optimizer") > 20 && calls(train, "gradient norm") == 1);
        for table in [decode, mixed, prefill, train] {
            let busy: f64 = table.lines.iter().filter(|line| !line.is_kernel).map(|line| line.seconds).sum();
            assert!(busy <= table.seconds && table.gap_seconds <= table.seconds);
            let text = profile_text(table);
            assert!(text.contains("launches") && text.contains(&table.lines[0].name), "{text}");
        }
    }
}
