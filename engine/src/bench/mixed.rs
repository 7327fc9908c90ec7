//! Steps of prompts and rows together as the sampler's engine begins them on a GPU: each while the one before runs.

use std::time::Instant;

use selfplay_model::Decoder;
use selfplay_model::decoder::{DecodeGraphs, DeviceStep, StepCounts};

use super::shared_rows::{SharedRows, StepKind, draws, last_tokens};
use super::work::WorkRng;
use super::{Bench, fault};
use crate::error::Result;

/// What a step took; `counts` are those of all `steps`.
pub(super) struct AheadTiming {
    pub(super) seconds: f64,
    /// Of it, between one step's end and the next one's begin on the device.
    pub(super) idle_seconds: f64,
    /// The host's, to begin a step.
    pub(super) host_seconds: f64,
    pub(super) steps: usize,
    pub(super) counts: StepCounts,
}

/// Steps that are timed.
const STEPS: usize = 12;

/// The same mixed step again and again, one step ahead of its tokens.
pub(super) fn begun_ahead(bench: &Bench, decoder: &Decoder, shared: &SharedRows) -> Result<AheadTiming> {
    let (mut cache, mut graphs) = (shared.cache(bench)?, DecodeGraphs::default());
    let rows = shared.step(StepKind::Mixed, 0);
    let logit_rows = last_tokens(&rows);
    let tokens = logit_rows.last().map_or(0, |last| last + 1);
    let (ids, draws) = (WorkRng::new(bench.seed).ids(tokens, bench.policy.vocab_size), draws(rows.len()));
    let step = DeviceStep { ids: &ids, fed: &[], rows: &rows, logit_rows: &logit_rows, draws: &draws };
    // What is captured is captured by the third.
    for _ in 0..3 {
        decoder.begin_step(&step, &mut cache, &mut graphs).map_err(fault)?;
        graphs.finish().map_err(fault)?;
    }
    let (before, idle_before) = (graphs.counts(), graphs.device_idle());
    let (start, mut host_seconds) = (Instant::now(), 0.0);
    for number in 0..STEPS {
        let begun = Instant::now();
        decoder.begin_step(&step, &mut cache, &mut graphs).map_err(fault)?;
        host_seconds += begun.elapsed().as_secs_f64();
        if number > 0 {
            graphs.finish().map_err(fault)?;
        }
    }
    graphs.finish().map_err(fault)?;
    let (each, counts) = (1.0 / STEPS as f64, graphs.counts());
    Ok(AheadTiming {
        seconds: start.elapsed().as_secs_f64() * each,
        idle_seconds: (graphs.device_idle() - idle_before).as_secs_f64() * each,
        host_seconds: host_seconds * each,
        steps: STEPS,
        counts: StepCounts {
            begun: counts.begun - before.begun,
            replayed: counts.replayed - before.replayed,
            ahead: counts.ahead - before.ahead,
            waits: counts.waits - before.waits,
        },
    })
}
