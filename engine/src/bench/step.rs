//! A training step on pairs, stage by stage, and the forward pass that reference log-probs are.

use selfplay_model::gpu::take_peak;
use selfplay_model::profile::OperationCost;
use selfplay_model::{Decoder, LoadOptions, PackedBatch};
use selfplay_trainer::loss::LossSettings;
use selfplay_trainer::optimizer::{Optimizer, grad_clip};
use selfplay_trainer::{
    ActivationMemory, BatchGradients, LossKind, LossTokens, MicroBatches, Offload, OptimizerKind,
    PromptResponse, StatePlace, TokenPair, TrainSettings, log_probs, pair_gradients,
};

use super::beside::BesideSteps;
use super::work::pairs;
use super::{Bench, Measurement, fault, median, timed};
use crate::error::{EngineError, Result};

fn decoder(bench: &Bench) -> Result<Decoder> {
    let options =
        LoadOptions { device: bench.device.clone(), dtype: Some(bench.dtype), ..LoadOptions::default() };
    Ok(Decoder::random(bench.policy.clone(), bench.seed, &options)?)
}

/// Operations of one forward pass over the pairs, each prompt once, and the rows whose log-probs are read.
fn pass_flops(bench: &Bench, pairs: &[TokenPair]) -> (f64, usize) {
    let (mut flops, mut rows) = (0.0, 0);
    for pair in pairs {
        let mut batch = PackedBatch::new();
        let prompt = batch.push(&pair.prompt);
        batch.push_after(prompt, &pair.chosen);
        batch.push_after(prompt, &pair.rejected);
        flops += bench.policy.forward_flops(&batch, None);
        rows += pair.chosen.len() + pair.rejected.len();
    }
    (flops, rows)
}

/// Log-probs of the pairs' responses, as the reference pass makes them.
pub(super) fn reference(bench: &Bench) -> Result<Vec<Measurement>> {
    let decoder = decoder(bench)?;
    let pairs = pairs(bench);
    let rows: Vec<PromptResponse> = pairs
        .iter()
        .flat_map(|pair| {
            [&pair.chosen, &pair.rejected].map(|response| PromptResponse {
                name: pair.name.clone(),
                prompt: pair.prompt.clone(),
                response: response.clone(),
            })
        })
        .collect();
    let seconds = bench.time(|| {
        log_probs(&decoder, &rows, bench.micro_batch_tokens)?;
        Ok(())
    })?;
    let (flops, read) = pass_flops(bench, &pairs);
    let tokens: usize = pairs.iter().map(TokenPair::tokens).sum();
    let line =
        bench.line("reference log-probs", seconds, 0.0, flops + read as f64 * bench.policy.head_flops());
    Ok(vec![line.with("tokens/s", (tokens as f64 / seconds).round()).with("pairs", bench.pairs)])
}

/// Keeps masters where the optimizer's state is to be, and zeros where the gradients are. A bench does not choose by itself.
pub(super) fn keep_masters(bench: &Bench, decoder: &mut Decoder) -> Result<(StatePlace, BatchGradients)> {
    let place = match bench.offload {
        Offload::Auto | Offload::None => StatePlace::Device,
        Offload::Optimizer => StatePlace::Host,
        Offload::OptimizerAndGradients => StatePlace::HostWithGradients,
    };
    let parameters = decoder.parameters_mut();
    let kept = if place.is_host() { parameters.keep_masters_on_host() } else { parameters.keep_masters() };
    kept.map_err(fault)?;
    let gradients = BatchGradients::zeros(decoder, place)?;
    decoder.set_segment_hooks(gradients.hooks());
    Ok((place, gradients))
}

/// One optimizer step: zeroing, gradients, norm, update.
pub(super) fn train(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut decoder = decoder(bench)?;
    let (place, mut gradients) = keep_masters(bench, &mut decoder)?;
    let settings = TrainSettings {
        loss: LossKind::Gpo,
        optimizer: OptimizerKind::RmsProp,
        recompute: bench.recompute,
        ..TrainSettings::default()
    };
    let pairs = pairs(bench);
    let batch: Vec<&TokenPair> = pairs.iter().collect();
    let memory = ActivationMemory::new(bench.recompute);
    let pass = MicroBatches {
        tokens: bench.micro_batch_tokens,
        memory: &memory,
        loss_tokens: LossTokens::Responses,
    };
    let mut optimizer = Optimizer::placed(&settings, decoder.parameters(), place.is_host())?;
    let mut stages: [Vec<f64>; 4] = Default::default();
    take_peak(&bench.device).map_err(fault)?;
    for repeat in 0..=bench.repeats {
        let mut scale = 1.0;
        let zeroing = timed(&bench.device, || Ok(gradients.zero()?))?;
        let passes = timed(&bench.device, || {
            let report =
                pair_gradients(&decoder, &batch, &LossSettings::from(&settings), pass, gradients.added_to())?;
            gradients.settle()?;
            if report.not_finite.is_some() || !report.loss.is_finite() {
                return Err(EngineError::failure("the bench's loss is not finite"));
            }
            Ok(())
        })?;
        let norm = timed(&bench.device, || {
            scale = grad_clip::global_norm(decoder.parameters(), gradients.whole(), 1.0)?.clip_scale;
            Ok(())
        })?;
        let update = timed(&bench.device, || {
            optimizer.step(decoder.parameters(), gradients.whole(), 5e-7, scale).map_err(EngineError::from)
        })?;
        if repeat > 0 {
            for (stage, seconds) in stages.iter_mut().zip([zeroing, passes, norm, update]) {
                stage.push(seconds);
            }
        }
    }
    let peak = take_peak(&bench.device).map_err(fault)?;
    let [zeroing, passes, norm, update] = stages.map(|mut timings| median(&mut timings));

    let parameters = decoder.parameters().element_count() as f64;
    let (forward, read) = pass_flops(bench, &pairs);
    // Forward once and backward twice as much: what is run again, blocks and the head's logits, does not count.
    let flops = 3.0 * (forward + read as f64 * bench.policy.head_flops());
    let tokens: usize = pairs.iter().map(TokenPair::tokens).sum();
    let copy = if bench.dtype == candle_core::DType::BF16 { 2.0 } else { 0.0 };
    let whole = zeroing + passes + norm + update;
    let moved = |bytes: f64| OperationCost { bytes: bytes * parameters, flops: 0.0 };
    let products = OperationCost { bytes: 0.0, flops };
    let parts = [products, moved(4.0), moved(4.0), moved(20.0 + copy)];
    let mut line = bench
        .line_of_parts("training step", whole, &parts)
        .with("tokens", tokens)
        .with("tokens/s", (tokens as f64 / whole).round())
        .with("pairs", bench.pairs);
    if let Some(peak) = peak {
        line = line.with("peak GiB", (peak as f64 / f64::from(1 << 30) * 100.0).round() / 100.0);
    }
    if let Some(plan) = memory.last() {
        // Of the last micro-batch, which may be smaller than the others.
        let [everything, attention, input] = plan.counts(bench.policy.num_layers);
        line = line.with("blocks kept", format!("{everything} whole, {attention} attention, {input} input"));
    }
    let mut lines = vec![
        line,
        bench.line("  forward and backward of all micro-batches", passes, 0.0, flops),
        bench.line("  gradients to zero", zeroing, 4.0 * parameters, 0.0),
        bench.line("  gradient norm", norm, 4.0 * parameters, 0.0),
        // Gradient read; weight and square average read and written; the copy written.
        bench.line("  clip, RMSProp and copy", update, (20.0 + copy) * parameters, 0.0),
    ];
    if place.is_host() {
        for (name, max_norm) in [
            ("training step, updates beside the passes", 1.0),
            ("training step, the same without clipping", 0.0),
        ] {
            let steps = BesideSteps { pairs: &batch, settings: &settings, pass, max_norm };
            let seconds = steps.seconds(bench, &mut decoder, &mut gradients, &mut optimizer)?;
            let line = bench.line_of_parts(name, seconds, &parts);
            lines.push(line.with("tokens/s", (tokens as f64 / seconds).round()));
        }
    }
    Ok(lines)
}
