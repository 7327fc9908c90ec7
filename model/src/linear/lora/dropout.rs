//! Which inputs the adapters leave out in a training step.
//!
//! A mask is a function of the step's key, of the adapter, of the tokens up to a row's own, and of the column: it is computed
//! wherever it is needed, in the forward, in the backward, and in a forward that a backward runs again, and depends neither
//! on how a batch was cut into passes and parts nor on the number of threads or ranks. A prompt that two responses share has
//! one mask. On a GPU the processor draws it.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use selfplay_records::counter::{mix, number};

use crate::batch::PackedBatch;

/// The masks of one step for one packed batch.
#[derive(Clone, Debug)]
pub(crate) struct StepDropout {
    step: u64,
    /// Of each row: a hash of the tokens up to its own.
    rows: Vec<u64>,
}

impl StepDropout {
    /// `step` is the step's key.
    pub(crate) fn new(step: u64, batch: &PackedBatch) -> Self {
        let mut rows = vec![0; batch.tokens()];
        for segment in batch.layout().segments() {
            let before = segment.prefix.as_ref().and_then(|prefix| prefix.rows.clone().next_back());
            let mut hash = before.map_or(0, |row| rows[row]);
            for row in segment.rows.clone() {
                hash = mix(hash ^ mix(u64::from(batch.ids()[row]) + 1));
                rows[row] = hash;
            }
        }
        Self { step, rows }
    }

    /// 0 with probability `share`, else 1 / (1 − `share`), in the shape of x \[t, inputs].
    ///
    /// # Errors
    /// x has other rows than the batch.
    pub(super) fn mask(&self, adapter: u64, share: f64, x: &Tensor) -> Result<Tensor> {
        let (t, width) = x.dims2()?;
        if t != self.rows.len() {
            bail!("dropout of {} rows for an input of {t}", self.rows.len())
        }
        let kept = (1.0 / (1.0 - share)) as f32;
        // Four numbers of sixteen bits from each of the counter's.
        let least = (share * 65536.0).round() as u64;
        let mut mask = vec![0f32; t * width];
        mask.par_chunks_mut(width.max(1)).zip(&self.rows).for_each(|(mask, &row)| {
            let key = mix(mix(self.step ^ adapter) ^ row);
            for (place, four) in mask.chunks_mut(4).enumerate() {
                let bits = number(key, place as u64);
                for (lane, value) in four.iter_mut().enumerate() {
                    if (bits >> (16 * lane)) & 0xffff >= least {
                        *value = kept;
                    }
                }
            }
        });
        Tensor::from_vec(mask, (t, width), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn rows(step: &StepDropout, adapter: u64, width: usize) -> Vec<Vec<f32>> {
        let x = Tensor::zeros((step.rows.len(), width), DType::F32, &Device::Cpu).unwrap();
        step.mask(adapter, 0.25, &x).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn a_row_s_mask_is_its_tokens_wherever_they_are_packed() {
        let mut together = PackedBatch::new();
        let prompt = together.push(&[1, 2, 3]);
        together.push_after(prompt, &[4, 5]);
        together.push_after(prompt, &[4, 6]);
        let mut alone = PackedBatch::new();
        alone.push(&[9]);
        alone.push(&[1, 2, 3, 4, 6]);
        let (together, alone) = (StepDropout::new(7, &together), StepDropout::new(7, &alone));
        let (first, second) = (rows(&together, 1, 64), rows(&alone, 1, 64));
        assert_eq!(first[..3], second[1..4]);
        assert_eq!(first[5..7], second[4..6]);
        assert_eq!(first[3], first[5], "the same tokens so far");
        assert_ne!(first[4], first[6]);
        assert_ne!(first, rows(&together, 2, 64), "another adapter");
        let other = StepDropout { step: 8, ..together.clone() };
        assert_ne!(first, rows(&other, 1, 64), "another step");
    }

    #[test]
    fn a_quarter_is_left_out_and_the_rest_makes_up_for_it() {
        let mut batch = PackedBatch::new();
        batch.push(&(0..100).collect::<Vec<u32>>());
        let mask = rows(&StepDropout::new(3, &batch), 5, 1002).concat();
        let zeros = mask.iter().filter(|&&x| x == 0.0).count() as f64 / mask.len() as f64;
        assert!((zeros - 0.25).abs() < 0.005, "{zeros}");
        assert!(mask.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
    }
}
