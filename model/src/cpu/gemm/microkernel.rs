//! The innermost tile of a product, per instruction set.
//!
//! C's tile is loaded (or zeroed), then gains a_p·b_p for p in order: the chain of roundings of one element is the
//! same in full tiles, at edges, and for any number of rows.

use crate::cpu::Real;
use crate::cpu::simd::{Level, level};

/// The operands of one tile: C's tile ← (C's tile +) MR rows of A · packed B.
#[derive(Clone, Copy)]
pub(super) struct TileProduct<T> {
    /// Steps of k.
    pub(super) depth: usize,
    /// The first row of A at the first step; MR rows can be read.
    pub(super) a: *const T,
    /// Distance of A's rows.
    pub(super) a_row: usize,
    /// Distance of the steps of k within a row of A.
    pub(super) a_step: usize,
    /// Packed B, \[depth]\[NR].
    pub(super) b: *const T,
    /// The tile's first element in C.
    pub(super) c: *mut T,
    /// Distance of C's rows.
    pub(super) c_stride: usize,
    /// Rows of the tile that are inside C, at most MR.
    pub(super) rows: usize,
    /// Columns of the tile that are inside C, at most NR.
    pub(super) columns: usize,
    /// Whether the product is added to C's old content.
    pub(super) accumulate: bool,
    /// What to prefetch, one cache line of 64 bytes a step; an address past the end of a buffer does nothing.
    pub(super) ahead: *const T,
}

/// Computes a tile.
///
/// # Safety
/// The pointers cover what the fields of [`TileProduct`] say.
pub(super) type Microkernel<T> = unsafe fn(&TileProduct<T>);

/// A microkernel with the shape of its tile.
pub struct Kernel<T> {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) run: Microkernel<T>,
}

/// An element type that products have kernels for.
pub trait Element: Real {
    /// The best kernel of this machine.
    fn kernel() -> Kernel<Self>;
}

impl Element for f32 {
    fn kernel() -> Kernel<f32> {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Kernel { mr: 8, nr: 48, run: x86::f32_avx512 },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Kernel { mr: 4, nr: 24, run: x86::f32_avx2 },
            _ => Kernel { mr: 4, nr: 8, run: tile::<f32, 4, 8> },
        }
    }
}

impl Element for f64 {
    fn kernel() -> Kernel<f64> {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Kernel { mr: 4, nr: 16, run: x86::f64_avx512 },
            _ => Kernel { mr: 4, nr: 8, run: tile::<f64, 4, 8> },
        }
    }
}

/// The tile product in plain Rust.
///
/// # Safety
/// As of [`Microkernel`].
#[inline(always)]
unsafe fn tile<T: Real, const MR: usize, const NR: usize>(product: &TileProduct<T>) {
    let TileProduct { depth, a, a_row, a_step, b, c, c_stride, rows, columns, accumulate, ahead: _ } =
        *product;
    let mut acc = [[T::ZERO; NR]; MR];
    // SAFETY: the caller's promise covers MR rows of A, b[depth * NR] and the live part of C.
    unsafe {
        if accumulate {
            for (i, row) in acc.iter_mut().enumerate().take(rows) {
                for (j, x) in row.iter_mut().enumerate().take(columns) {
                    *x = *c.add(i * c_stride + j);
                }
            }
        }
        for p in 0..depth {
            let b = &*b.add(p * NR).cast::<[T; NR]>();
            for (i, row) in acc.iter_mut().enumerate() {
                let x = *a.add(i * a_row + p * a_step);
                for (sum, &y) in row.iter_mut().zip(b) {
                    *sum = x.fma(y, *sum);
                }
            }
        }
        for (i, row) in acc.iter().enumerate().take(rows) {
            for (j, x) in row.iter().enumerate().take(columns) {
                *c.add(i * c_stride + j) = *x;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{TileProduct, tile};

    /// 8 × 48: 24 accumulators, 3 registers of B, 1 of A.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) unsafe fn f32_avx512(product: &TileProduct<f32>) {
        let TileProduct { depth, a, a_row, a_step, b, c, c_stride, rows, columns, accumulate, ahead } =
            *product;
        let masks: [__mmask16; 3] = std::array::from_fn(|v| {
            let live = columns.saturating_sub(16 * v).min(16);
            ((1u32 << live) - 1) as __mmask16
        });
        let mut acc = [[_mm512_setzero_ps(); 3]; 8];
        // SAFETY: the caller covers eight rows of A, b[48·depth] and the live part of C; masks keep to live columns.
        unsafe {
            if accumulate {
                for (i, row) in acc.iter_mut().enumerate() {
                    if i < rows {
                        for (v, x) in row.iter_mut().enumerate() {
                            *x = _mm512_maskz_loadu_ps(masks[v], c.wrapping_add(i * c_stride + 16 * v));
                        }
                    }
                }
            }
            for p in 0..depth {
                let b = b.add(p * 48);
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(p * 16).cast::<i8>());
                let (b0, b1, b2) =
                    (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)), _mm512_loadu_ps(b.add(32)));
                let a = a.add(p * a_step);
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(i * a_row));
                    row[0] = _mm512_fmadd_ps(x, b0, row[0]);
                    row[1] = _mm512_fmadd_ps(x, b1, row[1]);
                    row[2] = _mm512_fmadd_ps(x, b2, row[2]);
                }
            }
            for (i, row) in acc.iter().enumerate() {
                if i < rows {
                    for (v, x) in row.iter().enumerate() {
                        _mm512_mask_storeu_ps(c.wrapping_add(i * c_stride + 16 * v), masks[v], *x);
                    }
                }
            }
        }
    }

    /// 4 × 24: 12 accumulators, 3 registers of B, 1 of A.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_avx2(product: &TileProduct<f32>) {
        let TileProduct { depth, a, a_row, a_step, b, c, c_stride, rows, columns, accumulate, ahead: _ } =
            *product;
        if rows < 4 || columns < 24 {
            // SAFETY: the caller's promise; the edge goes through memory.
            return unsafe { tile::<f32, 4, 24>(product) };
        }
        let mut acc = [[_mm256_setzero_ps(); 3]; 4];
        // SAFETY: the caller covers four rows of A, b[24·depth] and the whole tile of C.
        unsafe {
            if accumulate {
                for (i, row) in acc.iter_mut().enumerate() {
                    for (v, x) in row.iter_mut().enumerate() {
                        *x = _mm256_loadu_ps(c.add(i * c_stride + 8 * v));
                    }
                }
            }
            for p in 0..depth {
                let b = b.add(p * 24);
                let (b0, b1, b2) =
                    (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)), _mm256_loadu_ps(b.add(16)));
                let a = a.add(p * a_step);
                for (i, row) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(i * a_row));
                    row[0] = _mm256_fmadd_ps(x, b0, row[0]);
                    row[1] = _mm256_fmadd_ps(x, b1, row[1]);
                    row[2] = _mm256_fmadd_ps(x, b2, row[2]);
                }
            }
            for (i, row) in acc.iter().enumerate() {
                for (v, x) in row.iter().enumerate() {
                    _mm256_storeu_ps(c.add(i * c_stride + 8 * v), *x);
                }
            }
        }
    }

    /// 4 × 16 in f64: used by the derivative tests only, so the compiler's vectors will do.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) unsafe fn f64_avx512(product: &TileProduct<f64>) {
        // SAFETY: the caller's promise.
        unsafe { tile::<f64, 4, 16>(product) }
    }
}
