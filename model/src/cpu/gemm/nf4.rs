//! B in four bits, packed in the microkernel's panels: decoded a panel at a time into a core's cache, and multiplied there.
//!
//! A panel of NR columns holds the codes of two steps of k in a byte for each column, the earlier one in the low half, and a
//! scale for each column and block of steps. What is decoded is level · scale, as in `linear/nf4.rs`, and goes through the same
//! tiles as any packed B: sums have the same bits as with the dense matrix.

use std::ops::Range;

use super::{
    Element, L2_ELEMENTS, MC, MatrixRef, OutputMatrix, PACK_B, PARALLEL_WORK, PackedPanels, Store, multiply,
    packed_matrix::shares, with_buffer, with_rows,
};
use crate::cpu::parallel::{SharedMut, for_each};
use crate::cpu::simd::{Level, level};

/// What a matrix W \[n, k] in four bits consists of; B is its transpose.
pub struct CodedMatrix<'a> {
    /// n.
    pub rows: usize,
    /// k, a multiple of `block`.
    pub inputs: usize,
    /// Neighbouring numbers of a row that share a scale; even.
    pub block: usize,
    /// What the codes mean.
    pub levels: [f32; 16],
    /// The code of a number, by its place row after row.
    pub code: &'a (dyn Fn(usize) -> u8 + Sync),
    /// The scale of a block, by its place.
    pub scale: &'a (dyn Fn(usize) -> f32 + Sync),
}

/// Wᵀ packed for products with f32.
pub struct PackedNf4 {
    levels: [f32; 16],
    block: usize,
    k: usize,
    n: usize,
    /// \[panels]\[k / 2]\[NR].
    codes: Vec<u8>,
    /// \[panels]\[k / block]\[NR].
    scales: Vec<f32>,
}

impl PackedNf4 {
    /// Packs a matrix; `None` where a block would go on from one row to the next.
    pub fn of(matrix: &CodedMatrix<'_>) -> Option<Self> {
        let CodedMatrix { rows: n, inputs: k, block, levels, code, scale } = *matrix;
        if block == 0 || !block.is_multiple_of(2) || !k.is_multiple_of(block) || k == 0 {
            return None;
        }
        let nr = f32::kernel().nr;
        let (panels, blocks) = (n.div_ceil(nr), k / block);
        let mut codes = vec![0u8; panels * k / 2 * nr];
        let mut scales = vec![0f32; panels * blocks * nr];
        let (shared_codes, shared_scales) = (SharedMut::new(&mut codes), SharedMut::new(&mut scales));
        for_each(panels, |panel| {
            // SAFETY: each panel belongs to one task.
            let codes = unsafe { shared_codes.range(panel * k / 2 * nr, k / 2 * nr) };
            // SAFETY: as above.
            let scales = unsafe { shared_scales.range(panel * blocks * nr, blocks * nr) };
            for column in 0..nr.min(n - panel * nr) {
                let row = panel * nr + column;
                for pair in 0..k / 2 {
                    let at = row * k + 2 * pair;
                    codes[pair * nr + column] = code(at) & 15 | code(at + 1) << 4;
                }
                for number in 0..blocks {
                    scales[number * nr + column] = scale(row * blocks + number);
                }
            }
        });
        Some(Self { levels, block, k, n, codes, scales })
    }

    /// Bytes of codes and scales.
    pub fn footprint(&self) -> usize {
        self.codes.len() + size_of_val(self.scales.as_slice())
    }

    /// C \[m, n] ← A·Wᵀ for a row-major A \[m, k].
    ///
    /// # Panics
    /// The shapes do not fit: a fault of the caller's arithmetic.
    pub fn product(&self, a: MatrixRef<f32>, c: &mut [f32], c_stride: usize) {
        let (m, k) = (a.rows, self.k);
        assert_eq!(a.columns, k, "inner dimensions differ");
        let c = OutputMatrix::of(c, (m, self.n), c_stride, Store::Overwrite);
        if m == 0 || self.n == 0 {
            return;
        }
        let kernel = f32::kernel();
        let panels = self.n.div_ceil(kernel.nr);
        let threads = if m * k * self.n < PARALLEL_WORK { 1 } else { rayon::current_num_threads() };
        // Few rows are done with a panel before the next is decoded; many read several from the second cache.
        let at_once = if m <= MC { 1 } else { (L2_ELEMENTS / (kernel.nr * k)).max(1) };
        let shares = shares(panels, threads, panels);
        for_each(shares.len(), |task| {
            let share = shares[task].clone();
            for first in share.clone().step_by(at_once) {
                let part = first..(first + at_once).min(share.end);
                with_buffer::<f32, _>(&PACK_B, part.len() * kernel.nr * k, |decoded| {
                    self.decode(part.clone(), kernel.nr, decoded);
                    let b = PackedPanels { data: decoded, k, first_column: part.start * kernel.nr };
                    for rows in (0..m).step_by(MC).map(|first| first..(first + MC).min(m)) {
                        with_rows(&kernel, a, rows.clone(), |a| {
                            multiply(&kernel, a, rows.clone(), b, 0..part.len(), c);
                        });
                    }
                });
            }
        });
    }

    fn decode(&self, panels: Range<usize>, nr: usize, out: &mut [f32]) {
        let (codes, scales) = (self.k / 2 * nr, self.k / self.block * nr);
        for (panel, out) in panels.zip(out.chunks_exact_mut(self.k * nr)) {
            let panel = CodedPanel {
                codes: &self.codes[panel * codes..(panel + 1) * codes],
                scales: &self.scales[panel * scales..(panel + 1) * scales],
                levels: &self.levels,
                pairs: self.block / 2,
            };
            panel.decode(nr, out);
        }
    }
}

/// A panel of NR columns in four bits.
struct CodedPanel<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    levels: &'a [f32; 16],
    /// Pairs of steps that share a scale.
    pairs: usize,
}

impl CodedPanel<'_> {
    fn decode(&self, nr: usize, out: &mut [f32]) {
        match (level(), nr) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `level` found these instruction sets on this machine.
            (Level::Avx512, 48) => unsafe { self.decode_avx512(out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Level::Avx2, 24) => unsafe { self.decode_avx2(out) },
            _ => self.decode_plain(nr, out),
        }
    }

    fn decode_plain(&self, nr: usize, out: &mut [f32]) {
        let blocks = self.codes.chunks_exact(self.pairs * nr).zip(self.scales.chunks_exact(nr));
        for ((codes, scales), out) in blocks.zip(out.chunks_exact_mut(2 * self.pairs * nr)) {
            for (codes, out) in codes.chunks_exact(nr).zip(out.chunks_exact_mut(2 * nr)) {
                let (earlier, later) = out.split_at_mut(nr);
                for (((code, scale), earlier), later) in codes.iter().zip(scales).zip(earlier).zip(later) {
                    *earlier = self.levels[usize::from(code & 15)] * scale;
                    *later = self.levels[usize::from(code >> 4)] * scale;
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn decode_avx512(&self, out: &mut [f32]) {
        use std::arch::x86_64::*;
        const NR: usize = 48;
        let blocks = self.codes.chunks_exact(self.pairs * NR).zip(self.scales.chunks_exact(NR));
        // SAFETY: every load and store is within the chunk of 16 that it is given, and the table has 16 levels.
        unsafe {
            let levels = _mm512_loadu_ps(self.levels.as_ptr());
            for ((codes, scales), out) in blocks.zip(out.chunks_exact_mut(2 * self.pairs * NR)) {
                let scales: [__m512; 3] = std::array::from_fn(|v| _mm512_loadu_ps(scales[16 * v..].as_ptr()));
                for (codes, out) in codes.chunks_exact(NR).zip(out.chunks_exact_mut(2 * NR)) {
                    let (codes, out) = (codes.as_ptr(), out.as_mut_ptr());
                    for (v, scale) in scales.iter().enumerate() {
                        let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(16 * v).cast()));
                        // A table of 16 is indexed by the low four bits.
                        let earlier = _mm512_permutexvar_ps(codes, levels);
                        let later = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), levels);
                        _mm512_storeu_ps(out.add(16 * v), _mm512_mul_ps(earlier, *scale));
                        _mm512_storeu_ps(out.add(NR + 16 * v), _mm512_mul_ps(later, *scale));
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn decode_avx2(&self, out: &mut [f32]) {
        use std::arch::x86_64::*;
        const NR: usize = 24;
        let blocks = self.codes.chunks_exact(self.pairs * NR).zip(self.scales.chunks_exact(NR));
        // SAFETY: every load and store is within the chunk of 8 that it is given, and the table has 16 levels.
        unsafe {
            let low = _mm256_loadu_ps(self.levels.as_ptr());
            let high = _mm256_loadu_ps(self.levels[8..].as_ptr());
            // The low three bits choose within eight levels, the fourth which eight.
            let level = |code: __m256i| {
                let (a, b) = (_mm256_permutevar8x32_ps(low, code), _mm256_permutevar8x32_ps(high, code));
                _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code)))
            };
            for ((codes, scales), out) in blocks.zip(out.chunks_exact_mut(2 * self.pairs * NR)) {
                let scales: [__m256; 3] = std::array::from_fn(|v| _mm256_loadu_ps(scales[8 * v..].as_ptr()));
                for (codes, out) in codes.chunks_exact(NR).zip(out.chunks_exact_mut(2 * NR)) {
                    let (codes, out) = (codes.as_ptr(), out.as_mut_ptr());
                    for (v, scale) in scales.iter().enumerate() {
                        let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.add(8 * v).cast()));
                        let later = level(_mm256_srli_epi32::<4>(codes));
                        _mm256_storeu_ps(out.add(8 * v), _mm256_mul_ps(level(codes), *scale));
                        _mm256_storeu_ps(out.add(NR + 8 * v), _mm256_mul_ps(later, *scale));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::gemm::PackedMatrix;

    const LEVELS: [f32; 16] =
        [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0];

    fn code(at: usize) -> u8 {
        (at.wrapping_mul(2_654_435_761) >> 11) as u8 & 15
    }

    fn scale(block: usize) -> f32 {
        0.25 + (block * 37 % 101) as f32 / 64.0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_product_has_the_bits_of_the_dense_matrix_s(m in 1usize..210, n in 1usize..150, blocks in 1usize..5, block in 1usize..40) {
            let (block, k) = (2 * block, 2 * block * blocks);
            let dense: Vec<f32> =
                (0..n * k).map(|at| LEVELS[usize::from(code(at))] * scale(at / block)).collect();
            let coded = CodedMatrix { rows: n, inputs: k, block, levels: LEVELS, code: &code, scale: &scale };
            let packed = PackedNf4::of(&coded).unwrap();
            let a: Vec<f32> = (0..m * k).map(|at| (at * 7 % 23) as f32 / 11.0 - 1.0).collect();
            let a = MatrixRef::row_major(&a, m, k, k);
            let stride = n + 3;
            let (mut got, mut want) = (vec![7f32; m * stride], vec![7f32; m * stride]);
            packed.product(a, &mut got, stride);
            PackedMatrix::of_weights(&[&dense], k).product(a, &mut want, stride, Store::Overwrite);
            prop_assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn every_level_decodes_alike_with_every_instruction_set() {
        let nr = f32::kernel().nr;
        let codes: Vec<u8> = (0..4 * nr).map(|at| (at * 29 % 256) as u8).collect();
        let scales: Vec<f32> = (0..2 * nr).map(scale).collect();
        let panel = CodedPanel { codes: &codes, scales: &scales, levels: &LEVELS, pairs: 2 };
        let (mut best, mut plain) = (vec![0f32; 8 * nr], vec![1f32; 8 * nr]);
        panel.decode(nr, &mut best);
        panel.decode_plain(nr, &mut plain);
        assert_eq!(best, plain);
    }

    #[test]
    fn blocks_that_cross_rows_are_not_packed() {
        let coded = |inputs, block| CodedMatrix {
            rows: 3,
            inputs,
            block,
            levels: LEVELS,
            code: &code,
            scale: &scale,
        };
        assert!(PackedNf4::of(&coded(48, 64)).is_none() && PackedNf4::of(&coded(9, 3)).is_none());
        assert!(PackedNf4::of(&coded(64, 64)).is_some());
    }
}
