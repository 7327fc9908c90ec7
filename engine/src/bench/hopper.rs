//! The kernels for compute capability 9.0 beside what they would take the place of, at a step's rows and a micro-batch's.
//!
//! Lines come in threes (products: cuBLAS's free choice, by row as on every GPU, by row on Hopper) or twos (attention), told apart
//! by the end of their names; `benches/gpu_report.py` sets them side by side.

use candle_core::Tensor;
use selfplay_model::gpu::{Gpu, HopperKernels};
use selfplay_model::linear::{Linear, NewModule, SumOrder};
use selfplay_model::ops::attention::{Attention, Places};
use selfplay_model::{PackedBatch, Parameters};

use super::ceilings::random;
use super::{Bench, Measurement, fault};
use crate::error::Result;

/// Rows of the products: one, and full and emptying steps of decoding.
const ROWS: [usize; 4] = [1, 64, 128, 512];

/// Times all of them; nothing where they don't run.
pub(super) fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let gpu = Gpu::at(&bench.device).map_err(fault)?;
    if bench.dtype != candle_core::DType::BF16 || !gpu.is_some_and(|gpu| gpu.has_hopper()) {
        return Ok(Vec::new());
    }
    let mut lines = Vec::new();
    products(bench, &mut lines)?;
    attention(bench, &mut lines)?;
    Ok(lines)
}

fn products(bench: &Bench, lines: &mut Vec<Measurement>) -> Result<()> {
    let a = &bench.policy;
    let (h, heads, kv) = (a.hidden_size, a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim);
    for (name, k, n) in [
        ("q, k, v", h, heads + 2 * kv),
        ("k", h, kv),
        ("attention output", heads, h),
        ("gate, up", h, 2 * a.intermediate_size),
        ("gate", h, a.intermediate_size),
        ("down", a.intermediate_size, h),
    ] {
        let mut parameters = Parameters::default();
        let weight = random(n, k, bench.dtype, &bench.device)?;
        let module = NewModule { name: "weight".to_owned(), weight, bias: None };
        let linear = Linear::insert(&mut parameters, vec![module]).map_err(fault)?;
        for rows in ROWS {
            let x = random(rows, k, bench.dtype, &bench.device)?;
            let bytes = ((n * k + rows * (n + k)) * bench.dtype.size_in_bytes()) as f64;
            let flops = 2.0 * (rows * n * k) as f64;
            let name = format!("{name}, {rows} rows");
            for (way, sums, kernels) in [
                ("free", SumOrder::Fastest, HopperKernels::NONE),
                ("by row", SumOrder::ByRow, HopperKernels::NONE),
                ("by row, Hopper", SumOrder::ByRow, HopperKernels::ALL),
            ] {
                let work = || linear.forward(&parameters, &x, sums).map(drop);
                let line = kernels.run(|| bench.operation(&format!("{name}: {way}"), bytes, flops, work))?;
                lines.push(line);
            }
        }
    }
    Ok(())
}

/// The policy's, in rows of a micro-batch and in one long row; and heads of 64 of as many columns.
fn attention(bench: &Bench, lines: &mut Vec<Measurement>) -> Result<()> {
    let a = &bench.policy;
    for head_dim in [64, 128] {
        let columns = a.num_heads * a.head_dim;
        let repeat = a.num_heads / a.num_kv_heads.max(1);
        let heads = (columns / head_dim / repeat.max(1)).max(1) * repeat.max(1);
        let attention = Attention {
            heads,
            kv_heads: heads / repeat.max(1),
            head_dim,
            scale: a.attention_scale,
            softcap: a.attention_softcap,
            window: None,
        };
        for row in [bench.max_tokens, bench.micro_batch_tokens.max(bench.max_tokens)] {
            let mut batch = PackedBatch::new();
            while batch.tokens() + row <= bench.micro_batch_tokens.max(row) {
                batch.push(&vec![0; row]);
            }
            let places = Places::new(batch.layout());
            let tensor = |columns: usize| -> Result<Tensor> {
                random(batch.tokens(), columns, bench.dtype, &bench.device)
            };
            let (qkv, d_out) = (tensor(attention.width())?, tensor(heads * head_dim)?);
            let width = (heads * head_dim) as f64;
            let flops: f64 = batch.positions().iter().map(|&p| 4.0 * width * (f64::from(p) + 1.0)).sum();
            let name = format!("attention, heads of {head_dim}, rows of {row}");
            for (way, kernels) in [("", HopperKernels::NONE), (", Hopper", HopperKernels::ALL)] {
                let measured = kernels.run(|| -> Result<[Measurement; 2]> {
                    let forward = bench.operation(&format!("{name}: forward{way}"), 0.0, flops, || {
                        attention.forward(&qkv, &places).map(drop)
                    })?;
                    let kept = attention.forward(&qkv, &places).map_err(fault)?;
                    let backward =
                        bench.operation(&format!("{name}: backward{way}"), 0.0, 2.5 * flops, || {
                            attention.backward(&qkv, &kept, &d_out, &places).map(drop)
                        })?;
                    Ok([forward, backward])
                })?;
                lines.extend(measured);
            }
        }
    }
    Ok(())
}
