//! The kernels for compute capability 9.0 alone, against the CPU's forms, and against themselves: the same bits in every run, and
//! of a product's row in every batch. All of them together, or one among the others that every GPU has.

use candle_core::{DType, Result, Tensor};

use super::decoders::compare_steps;
use super::operations::{InputSize, OperationChecks, ragged_batch};
use super::{CheckTarget, Deviation, distance, noise};
use crate::gpu::{Gpu, HopperKernel, HopperKernels};
use crate::linear::{Linear, NewModule, SumOrder};
use crate::ops::attention::{Attention, Places};
use crate::parameters::Parameters;

/// Which of attention's results are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttentionPasses {
    Forward,
    Both,
}

/// Whether the target has them.
pub(super) fn has_hopper(target: &CheckTarget) -> Result<bool> {
    Ok(target.run(|| Gpu::at(target.device()))?.is_some_and(|gpu| gpu.has_hopper()))
}

/// Compares one of them, beside the others that every GPU has; nothing where it doesn't run.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_hopper_kernel(
    target: &CheckTarget,
    kernel: HopperKernel,
    size: InputSize,
    seed: u64,
) -> Result<Vec<Deviation>> {
    if !has_hopper(target)? {
        return Ok(Vec::new());
    }
    HopperKernels::only(kernel).run(|| {
        let mut run = OperationChecks::new(target, size, seed);
        let again = match kernel.head_dim() {
            None => {
                products(&mut run, size)?;
                rows_alone(target, size, seed)?
            }
            Some(d) => {
                let passes =
                    if kernel.is_backward() { AttentionPasses::Both } else { AttentionPasses::Forward };
                attention(&mut run, size, seed, d, passes)?;
                runs_alike(target, size, seed, d)?
            }
        };
        Ok([run.found, again].concat())
    })
}

/// Compares all of them; none where they don't run. `seed` draws the inputs.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_hopper(target: &CheckTarget, size: InputSize, seed: u64) -> Result<Vec<Deviation>> {
    if !has_hopper(target)? {
        return Ok(Vec::new());
    }
    let mut found = HopperKernels::ALL.run(|| {
        let mut run = OperationChecks::new(target, size, seed);
        products(&mut run, size)?;
        for d in [64, 128, 256] {
            attention(&mut run, size, seed, d, AttentionPasses::Both)?;
        }
        let mut found = run.found;
        found.extend(rows_alone(target, size, seed)?);
        found.extend(runs_alike(target, size, seed, 128)?);
        if size == InputSize::Large {
            found.extend(compare_steps(target, seed)?);
        }
        Ok::<_, candle_core::Error>(found)
    })?;
    for one in &mut found {
        one.name.insert_str(0, "Hopper: ");
    }
    Ok(found)
}

/// Rows, k and n within one tile, at its ends, and past it; every compiled tile.
fn products(run: &mut OperationChecks, size: InputSize) -> Result<()> {
    let shapes = match size {
        InputSize::Small => &[
            (1, 72, 8),
            (64, 64, 200),
            (300, 520, 392),
            (130, 136, 4104),
            (3, 8, 6000),
            (65, 24, 8200),
            (70, 2056, 72),
        ][..],
        InputSize::Large => &[
            (1, 4096, 6144),
            (64, 4096, 4096),
            (512, 4096, 14_336),
            (513, 14_336, 1024),
            (130, 1032, 28_672),
        ],
    };
    for &(t, k, n) in shapes {
        run.compare_in(&[DType::BF16], &format!("{t} rows by {n} × {k}"), &[&[t, k], &[n, k]], |x| {
            let gpu = Gpu::of(&x[0])?;
            let weight = crate::linear::Matrix::Dense(&x[1]);
            // Beside columns of others, and in the sums' own precision.
            let (out, wide) = (
                Tensor::zeros((t, n + 16), x[0].dtype(), x[0].device())?,
                Tensor::zeros((t, n), DType::F32, x[0].device())?,
            );
            weight.forward(gpu.as_ref(), &x[0], &out, 8, SumOrder::ByRow)?;
            if gpu.is_some() {
                weight.forward(gpu.as_ref(), &x[0], &wide, 0, SumOrder::ByRow)?;
                return Ok(vec![out, wide]);
            }
            let same = out.narrow(1, 8, n)?.contiguous()?;
            Ok(vec![out, same])
        })?;
    }
    Ok(())
}

/// Ragged rows after a prompt, windows and caps, several query heads to a key head and one; heads of `d`.
fn attention(
    run: &mut OperationChecks,
    size: InputSize,
    seed: u64,
    d: usize,
    passes: AttentionPasses,
) -> Result<()> {
    let batch = ragged_batch(if size == InputSize::Small { 290 } else { 1500 }, seed);
    let t = batch.tokens();
    for (heads, kv_heads, window, softcap) in
        [(4, 2, None, None), (2, 2, Some(9), Some(2.0)), (2, 1, Some(150), None), (2, 1, None, Some(5.0))]
    {
        let attention = of(d, heads, kv_heads, window, softcap);
        let name = format!("attention, {heads}/{kv_heads} heads of {d}, window {window:?}, cap {softcap:?}");
        let shapes: [&[usize]; 2] = [&[t, attention.width()], &[t, heads * d]];
        run.compare_in(&[DType::BF16], &name, &shapes, |x| {
            let places = Places::new(batch.layout());
            let forward = attention.forward(&x[0], &places)?;
            let mut found = vec![forward.output.clone(), forward.log_sums.clone()];
            if passes == AttentionPasses::Both {
                found.push(attention.backward(&x[0], &forward, &x[1], &places)?);
            }
            Ok(found)
        })?;
    }
    Ok(())
}

fn of(d: usize, heads: usize, kv_heads: usize, window: Option<usize>, softcap: Option<f64>) -> Attention {
    Attention { heads, kv_heads, head_dim: d, scale: 4.0 / (d as f64).sqrt(), softcap, window }
}

/// A row of a product alone, among a few, and among many.
fn rows_alone(target: &CheckTarget, size: InputSize, seed: u64) -> Result<Vec<Deviation>> {
    const ROWS: usize = 330;
    // Several tiles, and k cut and whole.
    let sizes = match size {
        InputSize::Small => [(72, 2056), (584, 88), (4104, 88)],
        InputSize::Large => [(1024, 4096), (6144, 4096), (28_672, 4096)],
    };
    let mut found = Vec::new();
    for (n, k) in sizes {
        let place = |shape: &[usize]| noise(shape, seed)?.to_dtype(DType::BF16)?.to_device(target.device());
        let (x, weight) = (place(&[ROWS, k])?, place(&[n, k])?);
        let mut parameters = Parameters::default();
        let module = NewModule { name: "rows".to_owned(), weight, bias: None };
        let linear = Linear::insert(&mut parameters, vec![module])?;
        let product = |from: usize, rows: usize| {
            let x = x.narrow(0, from, rows)?.copy()?;
            target.run(|| linear.forward(&parameters, &x, SumOrder::ByRow))
        };
        let parts = [product(0, 1)?, product(1, 70)?, product(71, ROWS - 71)?];
        let distance = distance(&Tensor::cat(&parts, 0)?, &product(0, ROWS)?)?;
        let name = format!("products of {k} by row to {n}, the same bits in any batch");
        found.push(Deviation { name, dtype: DType::BF16, distance, bound: 0.0 });
    }
    Ok(found)
}

/// Attention over heads of `d` twice: the same bits.
fn runs_alike(target: &CheckTarget, size: InputSize, seed: u64, d: usize) -> Result<Vec<Deviation>> {
    let batch = ragged_batch(if size == InputSize::Small { 290 } else { 1500 }, seed);
    let attention = of(d, 2, 1, None, None);
    let place =
        |shape: &[usize], seed: u64| noise(shape, seed)?.to_dtype(DType::BF16)?.to_device(target.device());
    let qkv = place(&[batch.tokens(), attention.width()], seed)?;
    let d_output = place(&[batch.tokens(), 2 * d], seed + 1)?;
    let results = || {
        target.run(|| {
            let places = Places::new(batch.layout());
            let forward = attention.forward(&qkv, &places)?;
            let d_qkv = attention.backward(&qkv, &forward, &d_output, &places)?;
            Ok::<_, candle_core::Error>([forward.output, forward.log_sums, d_qkv])
        })
    };
    let (one, other) = (results()?, results()?);
    let names = ["output", "sums", "gradient"];
    names
        .iter()
        .zip(one.iter().zip(&other))
        .map(|(name, (one, other))| {
            let name = format!("attention's {name}, the same bits in every run");
            Ok(Deviation { name, dtype: DType::BF16, distance: distance(one, other)?, bound: 0.0 })
        })
        .collect()
}
