//! The machine's f32 matrix-product rate through our own kernel: what the stages' shares are measured against.
//!
//! cargo bench -p selfplay-model --bench gemm_rate
//!
//! With `-- --cpu-time` the clock is the main thread's CPU time (give RAYON_NUM_THREADS=1): what one idle core would do, for
//! comparing two versions on a machine that others use. Prints GFLOP/s for products of decoding (32 rows, weights packed once) and of training (2,048 rows).

use std::time::Instant;

use selfplay_model::kernels::gemm::{MatrixRef, PackedMatrix, Store, gemm};

fn main() {
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
