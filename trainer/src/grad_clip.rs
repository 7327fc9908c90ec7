//! Global gradient norm and torch's clip coefficient.
//!
//! torch.nn.utils.clip_grad_norm_: every gradient is multiplied by min(1, max_norm / (norm + 1e-6)), norm the L2 norm over
//! all gradients together. The multiplication itself happens inside the optimizer's pass.
//! Departure: the norm is summed in f64, in a fixed order that depends on the tensors' sizes only, so that it has the same
//! bits for any number of threads.

use rayon::prelude::*;
use selfplay_model::kernels::storage::with_slice;
use selfplay_model::{Gradients, Parameters};

/// Elements summed by one task.
const CHUNK: usize = 64 * 1024;

/// Partial sums per chunk, for the compiler to keep in vector registers.
const LANES: usize = 8;

/// The gradients' norm and what they are to be multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientNorm {
    /// L2 norm over all gradients, before clipping.
    pub norm: f64,
    /// torch's clip coefficient, at most 1.
    pub clip_scale: f64,
}

/// Why there is no norm.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum GradientNormError {
    #[error(
        "the gradient of parameter {parameter} is not finite (its norm is {norm}); a lower learning_rate or a smaller 1/beta helps"
    )]
    NotFinite { parameter: String, norm: f64 },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl GradientNormError {
    /// Never the user's input: exit status 1.
    pub fn is_input(&self) -> bool {
        false
    }
}

/// Measures all gradients. `max_norm` 0 means no clipping.
///
/// # Errors
/// A gradient that is not finite, by its parameter's name; a gradient that is not contiguous f32 on the CPU.
pub fn global_norm(
    parameters: &Parameters,
    gradients: &Gradients,
    max_norm: f64,
) -> Result<GradientNorm, GradientNormError> {
    let mut total = 0.0;
    for (id, parameter) in parameters.iter() {
        let Some(gradient) = gradients.get(id) else { continue };
        let squares = with_slice(gradient, sum_of_squares)?;
        if !squares.is_finite() {
            return Err(GradientNormError::NotFinite {
                parameter: parameter.name.clone(),
                norm: squares.sqrt(),
            });
        }
        total += squares;
    }
    let norm = total.sqrt();
    Ok(GradientNorm { norm, clip_scale: clip_scale(norm, max_norm) })
}

/// torch's coefficient: min(1, max_norm / (norm + 1e-6)); 1 where `max_norm` is 0.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let partial: Vec<f64> = values.par_chunks(CHUNK).map(chunk_squares).collect();
    partial.iter().sum()
}

fn chunk_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let whole = values.chunks_exact(LANES);
    let rest: f64 = whole.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for group in whole {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn coefficient_by_hand() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(4.0, 1.0), 1.0 / 4.000001);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
        // At the bound itself torch's 1e-6 already bites.
        assert_eq!(clip_scale(1.0, 1.0), 1.0 / 1.000001);
        assert_eq!(clip_scale(1e9, 0.0), 1.0);
    }

    #[test]
    fn norms_by_hand() {
        assert_eq!(sum_of_squares(&[3.0, -4.0]), 25.0);
        assert_eq!(sum_of_squares(&[]), 0.0);
        assert_eq!(sum_of_squares(&[1.0; 100_003]), 100_003.0);
        // Past f32's own range of squares.
        assert_eq!(sum_of_squares(&[2.0f32.powi(100)]), 2.0f64.powi(200));
        assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan());
        assert!(sum_of_squares(&[f32::INFINITY]).is_infinite());
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_threads(length in 0usize..300_000, seed in 0u32..1000) {
            let values: Vec<f32> = (0..length as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 1e6 - 8.0)
                .collect();
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| sum_of_squares(&values)).to_bits()
            };
            prop_assert_eq!(with(1), with(3));
        }
    }
}
