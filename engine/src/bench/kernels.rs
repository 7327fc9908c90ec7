//! The operations of a training step, one by one, at the policy's widths and a micro-batch's rows.

use candle_core::{DType, Tensor};
use selfplay_model::gpu::Gpu;
use selfplay_model::linear::{NewModule, SumOrder};
use selfplay_model::ops::attention::{Attention, Places};
use selfplay_model::ops::elementwise::sum;
use selfplay_model::ops::embedding::{embedding, embedding_backward};
use selfplay_model::ops::gated_unit::{gated_unit, gated_unit_backward};
use selfplay_model::ops::log_prob::{ChunkLogits, log_probs, log_probs_backward};
use selfplay_model::ops::rms_norm::RmsNorm;
use selfplay_model::ops::rope::{Direction, Positions, RopeTable};
use selfplay_model::{Gradients, Linear, PackedBatch, Parameters};

use super::ceilings::random;
use super::work::WorkRng;
use super::{Bench, Measurement, fault};
use crate::error::Result;

/// Launches between two looks at the clock.
const LAUNCHES: usize = 5;

impl Bench {
    pub(super) fn operation(
        &self,
        name: &str,
        bytes: f64,
        flops: f64,
        mut work: impl FnMut() -> candle_core::Result<()>,
    ) -> Result<Measurement> {
        let seconds = self.time(|| (0..LAUNCHES).try_for_each(|_| work()).map_err(fault))?;
        Ok(self.line(name, seconds / LAUNCHES as f64, bytes, flops))
    }
}

/// Times all of them.
pub(super) fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut lines = Vec::new();
    memory_bound(bench, &mut lines)?;
    products(bench, &mut lines)?;
    attention(bench, &mut lines)?;
    head(bench, &mut lines)?;
    Ok(lines)
}

fn memory_bound(bench: &Bench, lines: &mut Vec<Measurement>) -> Result<()> {
    let (a, t) = (&bench.policy, bench.micro_batch_tokens);
    let tensor = |rows: usize, columns: usize| random(rows, columns, bench.dtype, &bench.device);
    let size = bench.dtype.size_in_bytes() as f64;
    let rows_of = |columns: usize| t as f64 * columns as f64 * size;
    let h = a.hidden_size;
    let norm = RmsNorm { epsilon: a.rms_norm_eps, offset: a.norm_offset };
    let (x, y, dx) = (tensor(t, h)?, tensor(t, h)?, tensor(t, h)?);
    let weight = tensor(1, h)?.reshape(h).map_err(fault)?;
    let sums = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &bench.device).map_err(fault);
    let d_weight = sums(&[h])?;
    lines.push(bench.operation("rms_norm", 2.0 * rows_of(h), 0.0, || norm.forward(&x, &weight).map(drop))?);
    lines.push(bench.operation("rms_norm with residual add", 4.0 * rows_of(h), 0.0, || {
        norm.add_forward(&x, &y, &weight).map(drop)
    })?);
    lines.push(bench.operation("rms_norm backward", 4.0 * rows_of(h), 0.0, || {
        norm.backward(&x, &weight, &y, Some(&d_weight), &dx)
    })?);
    lines.push(bench.operation("residual add", 3.0 * rows_of(h), 0.0, || sum(&x, &y).map(drop))?);

    let width = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim;
    let turned = a.num_heads + a.num_kv_heads;
    let qkv = tensor(t, width)?;
    if let Some(rope) = a.rope() {
        let table = RopeTable::new(rope, a.head_dim, bench.max_tokens);
        let positions = Positions::new((0..t).map(|i| (i % bench.max_tokens) as u32).collect());
        lines.push(bench.operation("rope", 2.0 * rows_of(turned * rope.width), 0.0, || {
            table.rotate(&qkv, turned, &positions, Direction::Forward)
        })?);
    }
    drop(qkv);

    let i = a.intermediate_size;
    let (gate_up, d) = (tensor(t, 2 * i)?, tensor(t, i)?);
    lines.push(
        bench.operation("gated unit", 3.0 * rows_of(i), 0.0, || {
            gated_unit(&gate_up, a.activation).map(drop)
        })?,
    );
    lines.push(bench.operation("gated unit backward", 5.0 * rows_of(i), 0.0, || {
        gated_unit_backward(&gate_up, &d, a.activation)
    })?);
    drop((gate_up, d));

    let ids = WorkRng::new(bench.seed).ids(t, a.vocab_size);
    let vocabulary = tensor(a.vocab_size, h)?;
    lines
        .push(bench.operation("embedding", 2.0 * rows_of(h), 0.0, || {
            embedding(&vocabulary, &ids, None).map(drop)
        })?);
    drop(vocabulary);
    let d_table = sums(&[a.vocab_size, h])?;
    let distinct = ids.iter().collect::<std::collections::HashSet<_>>().len() as f64;
    let bytes = rows_of(h) + 8.0 * distinct * h as f64;
    lines.push(
        bench.operation("embedding backward", bytes, 0.0, || embedding_backward(&x, &ids, None, &d_table))?,
    );
    Ok(())
}

fn products(bench: &Bench, lines: &mut Vec<Measurement>) -> Result<()> {
    let (a, t) = (&bench.policy, bench.micro_batch_tokens);
    let (h, heads, kv) = (a.hidden_size, a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim);
    let i = a.intermediate_size;
    for (name, inputs, outputs) in [
        ("qkv", h, vec![heads, kv, kv]),
        ("attention output", heads, vec![h]),
        ("gate and up", h, vec![i, i]),
        ("down", i, vec![h]),
    ] {
        let tensor = |rows: usize, columns: usize| random(rows, columns, bench.dtype, &bench.device);
        let modules = || -> Result<Vec<NewModule>> {
            let module = |(i, &n): (usize, &usize)| {
                Ok(NewModule { name: i.to_string(), weight: tensor(n, inputs)?, bias: None })
            };
            outputs.iter().enumerate().map(module).collect()
        };
        let mut parameters = Parameters::default();
        let linear = Linear::insert(&mut parameters, modules()?).map_err(fault)?;
        let gradients = Gradients::zeros(&parameters).map_err(fault)?;
        let width: usize = outputs.iter().sum();
        let (x, dy) = (tensor(t, inputs)?, tensor(t, width)?);
        let flops = 2.0 * t as f64 * inputs as f64 * width as f64;
        lines.push(bench.operation(&format!("product: {name}"), 0.0, flops, || {
            linear.forward(&parameters, &x, SumOrder::Fastest).map(drop)
        })?);
        lines.push(bench.operation(&format!("product: {name}, backward"), 0.0, 2.0 * flops, || {
            linear.backward(&parameters, &x, &dy, &gradients).map(drop)
        })?);
        drop((parameters, gradients, dy, x));

        // A step of decoding reads every weight once.
        let mut parameters = Parameters::default();
        let linear = Linear::insert_quantized(&mut parameters, modules()?).map_err(fault)?;
        let rows = bench.rows;
        let x = tensor(rows, inputs)?;
        let flops = 2.0 * rows as f64 * inputs as f64 * width as f64;
        let moved = (rows * (inputs + width) * bench.dtype.size_in_bytes()) as f64;
        let bytes = linear.footprint(&parameters) as f64 + moved;
        lines.push(bench.operation(
            &format!("product: {name}, four bits, {rows} rows"),
            bytes,
            flops,
            || linear.forward(&parameters, &x, SumOrder::ByRow).map(drop),
        )?);
    }
    Ok(())
}

fn attention(bench: &Bench, lines: &mut Vec<Measurement>) -> Result<()> {
    for (whose, a) in [("policy", &bench.policy), ("preference model", &bench.preference)] {
        let attention = Attention {
            heads: a.num_heads,
            kv_heads: a.num_kv_heads,
            head_dim: a.head_dim,
            scale: a.attention_scale,
            softcap: a.attention_softcap,
            window: None,
        };
        let mut batch = PackedBatch::new();
        while batch.tokens() + bench.max_tokens <= bench.micro_batch_tokens.max(bench.max_tokens) {
            batch.push(&vec![0; bench.max_tokens]);
        }
        let t = batch.tokens();
        let places = Places::new(batch.layout());
        let qkv = random(t, attention.width(), bench.dtype, &bench.device)?;
        let d_out = random(t, a.num_heads * a.head_dim, bench.dtype, &bench.device)?;
        let width = (a.num_heads * a.head_dim) as f64;
        let flops: f64 = batch.positions().iter().map(|&p| 4.0 * width * (f64::from(p) + 1.0)).sum();
        let name = format!("attention, {whose}, heads of {}", a.head_dim);
        lines.push(bench.operation(&name, 0.0, flops, || attention.forward(&qkv, &places).map(drop))?);
        let forward = attention.forward(&qkv, &places).map_err(fault)?;
        lines.push(bench.operation(&format!("{name}, backward"), 0.0, 2.5 * flops, || {
            attention.backward(&qkv, &forward, &d_out, &places).map(drop)
        })?);
    }
    Ok(())
}

/// Log-probs of a chunk of rows of the vocabulary; on a CPU they are part of the head's own loop.
fn head(bench: &Bench, lines: &mut Vec<Measurement>) -> Result<()> {
    if Gpu::at(&bench.device).map_err(fault)?.is_none() {
        return Ok(());
    }
    let vocab = bench.policy.vocab_size;
    let rows = 2048.min(bench.micro_batch_tokens);
    let logits = random(rows, vocab, DType::F32, &bench.device)?;
    let targets = WorkRng::new(bench.seed).ids(rows, vocab);
    let count = rows as f64 * vocab as f64;
    lines.push(bench.operation("log-probs of a chunk", 4.0 * count, 0.0, || {
        log_probs(&mut ChunkLogits::new(logits.clone(), None), &targets).map(drop)
    })?);
    let size = bench.dtype.size_in_bytes() as f64;
    let d = vec![0.5f32; rows];
    // The logits are read for their sum, and again for the gradient: a chunk is larger than any cache.
    lines.push(bench.operation("log-probs of a chunk, backward", (4.0 + 4.0 + size) * count, 0.0, || {
        log_probs_backward(ChunkLogits::new(logits.clone(), None), &targets, &d, bench.dtype).map(drop)
    })?);
    Ok(())
}
