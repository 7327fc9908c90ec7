//! The machine's f32 matrix-product rate through our own kernel: what the stages' shares are measured against.
//!
//! cargo bench -p selfplay-model --bench gemm_rate
//!
//! With `-- --cpu-time` the clock is the main thread's CPU time (give RAYON_NUM_THREADS=1): what one idle core would do, for
//! comparing two versions on a machine that others use. Prints GFLOP/s for
//! products of decoding (32 rows, weights packed once) and of training (2,048 rows), then what a whole decoding step reaches.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use selfplay_model::cpu::gemm::{MatrixRef, PackedMatrix, Store, gemm};
use selfplay_model::ops::attention::Attention;
use selfplay_model::ops::paged_attention::{PagedStep, attend_pages};
use selfplay_model::{Architecture, KvCache, KvFormat, PAGE_TOKENS, PageCopy, PagedRow};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    println!(
        "{:>6} {:>6} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "m", "k", "n", "x.W^T", "packed", "dy.W", "dy^T.x"
    );
    for (m, k, n) in [
        (32, 288, 768),
        (32, 288, 32000),
        (32, 768, 2048),
        (32, 768, 32000),
        (1536, 288, 768),
        (2048, 768, 2048),
        (512, 768, 32000),
    ] {
        let (x, w, dy) = (vec![0.5f32; m * k], vec![0.25f32; n * k], vec![0.5f32; m * n]);
        let packed = PackedMatrix::of_weights(&[&w], k);
        let (mut y, mut z, mut dx, mut dw) =
            (vec![0f32; m * n], vec![0f32; m * n], vec![0f32; m * k], vec![0f32; n * k]);
        let rows = MatrixRef::row_major(&x, m, k, k);
        let weights = MatrixRef::row_major(&w, n, k, k);
        let d = MatrixRef::row_major(&dy, m, n, n);
        let rates = [
            rate(m * k * n, || gemm(rows, weights.transposed(), &mut y, n, Store::Overwrite)),
            rate(m * k * n, || packed.product(rows, &mut z, n, Store::Overwrite)),
            rate(m * k * n, || gemm(d, weights, &mut dx, k, Store::Overwrite)),
            rate(m * k * n, || gemm(d.transposed(), rows, &mut dw, k, Store::Accumulate)),
        ];
        println!(
            "{m:>6} {k:>6} {n:>6} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
            rates[0], rates[1], rates[2], rates[3]
        );
    }
    println!("decoding step, products: {:.1} GFLOP/s", decoding_products());
    for (name, format) in [("f32", DType::F32.into()), ("FP8", KvFormat::Fp8)] {
        let (seconds, rate) = decoding_attention(format)?;
        println!(
            "decoding step, attention over keys and values in {name}: {:.2} ms, {rate:.1} GB/s",
            seconds * 1e3
        );
    }
    Ok(())
}

/// GFLOP/s of one decoding step's products at 110 M parameters: twelve layers and the head, 32 rows, every weight read from
/// memory.
fn decoding_products() -> f64 {
    let shapes = [(768, 2304), (768, 768), (768, 4096), (2048, 768)];
    let weights: Vec<(usize, usize, PackedMatrix<f32>)> = (0..12)
        .flat_map(|_| shapes)
        .chain([(768, 32000)])
        .map(|(k, n)| (k, n, PackedMatrix::of_weights(&[&vec![0.25f32; n * k]], k)))
        .collect();
    let (x, mut y) = (vec![0.5f32; 32 * 2048], vec![0f32; 32 * 32000]);
    let work: usize = weights.iter().map(|(k, n, _)| 32 * k * n).sum();
    rate(work, || {
        for (k, n, weights) in &weights {
            weights.product(MatrixRef::row_major(&x, 32, *k, *k), &mut y, *n, Store::Overwrite);
        }
    })
}

/// Seconds of the same step's attention at 128 cached tokens a row, and the GB/s at which keys and values are read from memory.
fn decoding_attention(format: KvFormat) -> Result<(f64, f64)> {
    const ROWS: usize = 32;
    const CONTEXT: usize = 128;
    let attention =
        Attention { heads: 12, kv_heads: 12, head_dim: 64, scale: 0.125, softcap: None, window: None };
    // Pages are handed out in turn, as rows grow.
    let row_pages = CONTEXT / PAGE_TOKENS;
    let pages: Vec<Vec<u32>> =
        (0..ROWS).map(|row| (0..row_pages).map(|page| (page * ROWS + row) as u32).collect()).collect();
    let rows: Vec<PagedRow> = pages
        .iter()
        .map(|pages| PagedRow { new_tokens: 1, context: CONTEXT - 1, pages, shared: 0 })
        .collect();
    let (heads, d) = (attention.kv_heads, attention.head_dim);
    let shape =
        Architecture::named("llama-110m").map_err(|error| candle_core::Error::Msg(error.to_string()))?;
    let mut cache = KvCache::new(&shape, ROWS * row_pages, format, &Device::Cpu)?;
    // Memory that nobody has written is not there.
    let copies: Vec<PageCopy> = (1..cache.pages() as u32).map(|to| PageCopy { from: 0, to }).collect();
    cache.copy_pages(&copies)?;
    let layers: Vec<_> = (0..shape.num_layers).filter_map(|layer| cache.layer(layer)).collect();
    let qkv = Tensor::ones((ROWS, 3 * heads * d), DType::F32, &Device::Cpu)?;
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = now();
        for layer in &layers {
            attend_pages(&attention, &qkv, &PagedStep::new(&rows), layer)?;
        }
        best = best.min(now() - start);
    }
    Ok((best, (ROWS * CONTEXT * shape.key_value_bytes(format)) as f64 / best / 1e9))
}

/// The best of several timings, in GFLOP/s.
fn rate(multiply_adds: usize, mut run: impl FnMut()) -> f64 {
    let flops = 2.0 * multiply_adds as f64;
    let repeats = (1e10 / flops).ceil() as usize;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = now();
        for _ in 0..repeats {
            run();
        }
        best = best.min((now() - start) / repeats as f64);
    }
    flops / best / 1e9
}

/// Seconds, by the clock that was asked for.
fn now() -> f64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    if std::env::args().any(|a| a == "--cpu-time") {
        let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        let whole: f64 = stat.split(' ').next().and_then(|x| x.parse().ok()).unwrap_or(0.0);
        return whole / 1e9;
    }
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}
