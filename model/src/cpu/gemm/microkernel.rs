//! The innermost tile of a product, per instruction set.
//!
//! C's tile is loaded (or zeroed), then gains a_p·b_p for p in order: the chain of roundings of one element is the
//! same in full tiles, at edges, and for any number of rows.

use crate::cpu::Real;
use crate::cpu::simd::{Level, level};

/// A tile product: depth; A, with the strides of its rows and of the steps of k; packed B \[depth]\[NR]; C, its row
/// stride, live rows and columns of the tile, and whether C's old content is kept; last, what of B to fetch into cache on
/// the way, one line of 64 bytes a step (past the end does nothing).
pub(super) type Run<T> =
    unsafe fn(usize, *const T, usize, usize, *const T, *mut T, usize, usize, usize, bool, *const T);

/// A tile product with its shape.
pub struct Kernel<T> {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) run: Run<T>,
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
            _ => Kernel { mr: 4, nr: 8, run: portable::<f32, 4, 8> },
        }
    }
}

impl Element for f64 {
    fn kernel() -> Kernel<f64> {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Kernel { mr: 4, nr: 16, run: x86::f64_avx512 },
            _ => Kernel { mr: 4, nr: 8, run: portable::<f64, 4, 8> },
        }
    }
}

/// The tile product in plain Rust.
///
/// # Safety
/// The pointers must cover what [`Run`] says.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<T: Real, const MR: usize, const NR: usize>(
    depth: usize,
    a: *const T,
    a_row: usize,
    a_step: usize,
    b: *const T,
    c: *mut T,
    c_stride: usize,
    rows: usize,
    columns: usize,
    accumulate: bool,
    _ahead: *const T,
) {
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

/// As [`tile`], for the baseline target.
#[allow(clippy::too_many_arguments)]
unsafe fn portable<T: Real, const MR: usize, const NR: usize>(
    depth: usize,
    a: *const T,
    a_row: usize,
    a_step: usize,
    b: *const T,
    c: *mut T,
    c_stride: usize,
    rows: usize,
    columns: usize,
    accumulate: bool,
    _ahead: *const T,
) {
    // SAFETY: the caller's promise.
    unsafe { tile::<T, MR, NR>(depth, a, a_row, a_step, b, c, c_stride, rows, columns, accumulate, _ahead) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// 8 × 48: 24 accumulators, 3 registers of B, 1 of A.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn f32_avx512(
        depth: usize,
        a: *const f32,
        a_row: usize,
        a_step: usize,
        b: *const f32,
        c: *mut f32,
        c_stride: usize,
        rows: usize,
        columns: usize,
        accumulate: bool,
        ahead: *const f32,
    ) {
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
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn f32_avx2(
        depth: usize,
        a: *const f32,
        a_row: usize,
        a_step: usize,
        b: *const f32,
        c: *mut f32,
        c_stride: usize,
        rows: usize,
        columns: usize,
        accumulate: bool,
        _ahead: *const f32,
    ) {
        if rows < 4 || columns < 24 {
            // SAFETY: the caller's promise; the edge goes through memory.
            return unsafe {
                super::tile::<f32, 4, 24>(
                    depth, a, a_row, a_step, b, c, c_stride, rows, columns, accumulate, _ahead,
                )
            };
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
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn f64_avx512(
        depth: usize,
        a: *const f64,
        a_row: usize,
        a_step: usize,
        b: *const f64,
        c: *mut f64,
        c_stride: usize,
        rows: usize,
        columns: usize,
        accumulate: bool,
        _ahead: *const f64,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            super::tile::<f64, 4, 16>(
                depth, a, a_row, a_step, b, c, c_stride, rows, columns, accumulate, _ahead,
            )
        }
    }
}
