//! Dense matrix products on the CPU: C ← A·B or C ← C + A·B.
//!
//! Ours rather than the `gemm` crate's, for three reasons that were measured (docs/log.md): weights can be packed
//! once for a whole sampling stage, where `gemm` packs them again for every 32-row product; C accumulates in
//! place, which is how gradients are summed; and each element of C is one chain of fused multiply-adds over k in
//! order, whatever the number of rows, so that a row's bits do not depend on its batch.
//!
//! Blocking: B is packed in panels of NR columns, A in panels of MR rows; a microkernel keeps an MR×NR tile of C in
//! registers over KC steps of k. Tasks split rows and columns, never k.
//! What depends on the instruction set is in `microkernel.rs`.

mod microkernel;
mod nf4;
mod packed_matrix;

use std::cell::RefCell;

pub use microkernel::Element;
use microkernel::{Kernel, TileProduct};
pub use nf4::{CodedMatrix, PackedNf4};
pub use packed_matrix::PackedMatrix;

use super::parallel::{SharedMut, for_each};

/// Steps of k for which a tile of C stays in registers.
const KC: usize = 128;
/// Rows of A that one task packs and multiplies.
const MC: usize = 96;
/// Elements of a packed block of B (4 MB in f32: it is shared by all tasks and read once per block of rows).
const B_BLOCK: usize = 1 << 20;
/// Elements of a packed B that one task multiplies many rows with (1 MB in f32: they stay in a core's second cache).
const L2_ELEMENTS: usize = 1 << 18;
/// Steps of k that are packed at once: a longer k (the head's backward: the vocabulary) is taken in pieces, in order,
/// so that packed rows stay in cache and are packed once per piece.
const K_BLOCK: usize = 2048;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Below this many multiply-adds a product runs in its caller's thread.
const PARALLEL_WORK: usize = 1 << 18;

/// A read-only matrix: element (i, j) at `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub struct MatrixRef<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> MatrixRef<'a, T> {
    /// A row-major matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// `data` is too short: a fault of the caller's arithmetic.
    pub fn row_major(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            columns == 0 || extent(rows, columns, row_stride).is_some_and(|end| data.len() >= end),
            "matrix out of bounds"
        );
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// `count` columns from `first` on.
    fn columns_from(self, first: usize, count: usize) -> Self {
        Self { data: &self.data[(first * self.column_stride).min(self.data.len())..], columns: count, ..self }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// What becomes of C's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// C ← A·B
    Overwrite,
    /// C ← C + A·B
    Accumulate,
}

thread_local! {
    static PACK_A: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static PACK_B: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Lends a thread's packing buffer as elements of T. Taken out while in use: a task of the same thread that runs
/// inside (work stealing) gets a fresh one.
fn with_buffer<T: Element, R>(
    cell: &'static std::thread::LocalKey<RefCell<Vec<u64>>>,
    len: usize,
    f: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut buffer = cell.with(|c| std::mem::take(&mut *c.borrow_mut()));
    let words = (len * size_of::<T>()).div_ceil(8);
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    // SAFETY: f32 and f64 have no invalid bit patterns, and u64's alignment covers both.
    let elements = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<T>(), len) };
    let result = f(elements);
    cell.with(|c| {
        let mut kept = c.borrow_mut();
        if kept.len() < buffer.len() {
            *kept = buffer;
        }
    });
    result
}

/// C (row-major, rows `c_stride` apart) ← A·B, shared among the pool's threads when it is worth it.
///
/// # Panics
/// The shapes do not fit, or C is too short: a fault of the caller's arithmetic.
pub fn gemm<T: Element>(a: MatrixRef<T>, b: MatrixRef<T>, c: &mut [T], c_stride: usize, store: Store) {
    let is_small = a.rows * a.columns * b.columns < PARALLEL_WORK;
    let parallel = !is_small && rayon::current_num_threads() > 1;
    product(a, b, OutputMatrix::of(c, (a.rows, b.columns), c_stride, store), parallel);
}

/// As [`gemm`], in the caller's thread.
pub(crate) fn gemm_serial<T: Element>(
    a: MatrixRef<T>,
    b: MatrixRef<T>,
    c: &mut [T],
    c_stride: usize,
    store: Store,
) {
    product(a, b, OutputMatrix::of(c, (a.rows, b.columns), c_stride, store), false);
}

/// Elements from the first to the last of `rows` rows that start `stride` apart; `None` where no memory is that large.
fn extent(rows: usize, columns: usize, stride: usize) -> Option<usize> {
    match rows.checked_sub(1) {
        None => Some(0),
        Some(before) => before.checked_mul(stride)?.checked_add(columns),
    }
}

/// C, row-major, whose disjoint tiles the tasks of a product write; and what becomes of its old content.
#[derive(Clone, Copy)]
struct OutputMatrix<T> {
    elements: SharedMut<T>,
    columns: usize,
    row_stride: usize,
    store: Store,
}

impl<T: Element> OutputMatrix<T> {
    /// C \[rows, columns] in `c`, rows `row_stride` elements apart. It must not be used after `c`'s borrow ends.
    ///
    /// # Panics
    /// `c` is too short, or its rows overlap: a fault of the caller's arithmetic.
    fn of(c: &mut [T], (rows, columns): (usize, usize), row_stride: usize, store: Store) -> Self {
        assert!(
            row_stride >= columns && extent(rows, columns, row_stride).is_some_and(|end| c.len() >= end),
            "C out of bounds"
        );
        Self { elements: SharedMut::new(c), columns, row_stride, store }
    }
}

fn product<T: Element>(a: MatrixRef<T>, b: MatrixRef<T>, c: OutputMatrix<T>, parallel: bool) {
    assert_eq!(a.columns, b.rows, "inner dimensions differ");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    let mut start = 0;
    loop {
        let depth = K_BLOCK.min(a.columns - start);
        let store = if start == 0 { c.store } else { Store::Accumulate };
        product_block(
            a.columns_from(start, depth),
            b.transposed().columns_from(start, depth).transposed(),
            OutputMatrix { store, ..c },
            parallel,
        );
        start += depth;
        if start >= a.columns {
            break;
        }
    }
}

/// As [`product`], for a depth that is packed at once.
fn product_block<T: Element>(a: MatrixRef<T>, b: MatrixRef<T>, c: OutputMatrix<T>, parallel: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let kernel = T::kernel();
    let block_columns = (B_BLOCK / k.max(1) / kernel.nr).max(1) * kernel.nr;
    let run = |tasks: usize, f: &(dyn Fn(usize) + Send + Sync)| {
        if parallel { for_each(tasks, f) } else { (0..tasks).for_each(f) }
    };
    for first in (0..n).step_by(block_columns) {
        let columns = block_columns.min(n - first);
        let panels = columns.div_ceil(kernel.nr);
        with_buffer::<T, _>(&PACK_B, panels * kernel.nr * k, |packed_b| {
            let panel_len = kernel.nr * k;
            let shared_b = SharedMut::new(packed_b);
            // Eight panels to a task: packing one is too little work to hand over.
            run(panels.div_ceil(8), &|task| {
                for panel in task * 8..((task + 1) * 8).min(panels) {
                    // SAFETY: each panel belongs to one task.
                    let out = unsafe { shared_b.range(panel * panel_len, panel_len) };
                    pack_panel(b.transposed(), first + panel * kernel.nr, kernel.nr, out);
                }
            });
            let packed_b = PackedPanels { data: packed_b, k, first_column: first };
            let row_blocks = m.div_ceil(MC);
            // With few row blocks the columns are split as well, so that every thread has work.
            let splits = if row_blocks >= 4 { 1 } else { 4usize.min(panels) };
            run(row_blocks * splits, &|task| {
                let (block, split) = (task / splits, task % splits);
                let rows = block * MC..((block + 1) * MC).min(m);
                let panel_range = split * panels / splits..(split + 1) * panels / splits;
                with_rows(&kernel, a, rows.clone(), |a| {
                    multiply(&kernel, a, rows.clone(), packed_b, panel_range, c);
                });
            });
        });
    }
}

/// A block of rows as the microkernel reads it: panel i starts at `i * panel_len`; within it, row r of step p lies at
/// `r * row_stride + p * step_stride`.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    data: &'a [T],
    panel_len: usize,
    row_stride: usize,
    step_stride: usize,
}

/// Lends `f` the rows `rows` of `a`. Where a row's elements lie side by side they are read in place (each is loaded
/// once and spread over a register, so that nothing is gained by moving it); else, and for a last panel that is not
/// full, they are packed.
fn with_rows<T: Element, R>(
    kernel: &Kernel<T>,
    a: MatrixRef<T>,
    rows: std::ops::Range<usize>,
    f: impl FnOnce(Rows<T>) -> R,
) -> R {
    let k = a.columns;
    if a.column_stride == 1 && rows.len().is_multiple_of(kernel.mr) && k > 0 {
        let data = &a.data[rows.start * a.row_stride..];
        return f(Rows {
            data,
            panel_len: kernel.mr * a.row_stride,
            row_stride: a.row_stride,
            step_stride: 1,
        });
    }
    let panels = rows.len().div_ceil(kernel.mr);
    with_buffer::<T, _>(&PACK_A, panels * kernel.mr * k, |packed| {
        for (i, out) in packed.chunks_exact_mut((kernel.mr * k).max(1)).enumerate() {
            pack_panel(a, rows.start + i * kernel.mr, kernel.mr, out);
        }
        f(Rows { data: packed, panel_len: kernel.mr * k, row_stride: 1, step_stride: kernel.mr })
    })
}

/// B packed in panels of NR columns, \[panels]\[k]\[NR].
#[derive(Clone, Copy)]
struct PackedPanels<'a, T> {
    data: &'a [T],
    k: usize,
    /// The first panel's first column in C.
    first_column: usize,
}

/// Multiplies rows `rows` of A with the panels `panels` of B into C.
fn multiply<T: Element>(
    kernel: &Kernel<T>,
    a: Rows<T>,
    rows: std::ops::Range<usize>,
    b: PackedPanels<T>,
    panels: std::ops::Range<usize>,
    c: OutputMatrix<T>,
) {
    let PackedPanels { data: packed_b, k, first_column: first } = b;
    let OutputMatrix { elements, columns: n, row_stride, store } = c;
    let row_panels = rows.len().div_ceil(kernel.mr);
    if k == 0 && store == Store::Overwrite {
        for row in rows {
            // SAFETY: products without a sum (k = 0) are never split: all rows and columns are this task's.
            unsafe { elements.range(row * row_stride + first, n - first) }.fill(T::ZERO);
        }
        return;
    }
    // Panel by panel, so that each one and its tiles of C stay in the nearest caches for all rows of the block.
    for panel in panels {
        let column = first + panel * kernel.nr;
        let columns = kernel.nr.min(n - column);
        for step in (0..k).step_by(KC) {
            let depth = KC.min(k - step);
            let accumulate = step > 0 || store == Store::Accumulate;
            let b = &packed_b[panel * kernel.nr * k + step * kernel.nr..][..depth * kernel.nr];
            for i in 0..row_panels {
                let row = rows.start + i * kernel.mr;
                let panel_a = &a.data[i * a.panel_len + step * a.step_stride..];
                debug_assert!(panel_a.len() > (kernel.mr - 1) * a.row_stride + (depth - 1) * a.step_stride);
                let live = kernel.mr.min(rows.end - row);
                // SAFETY: the tile lies inside C (checked by `OutputMatrix::of`), and no other task writes it; A and B
                // cover `depth` steps from here on.
                unsafe {
                    (kernel.run)(&TileProduct {
                        depth,
                        a: panel_a.as_ptr(),
                        a_row: a.row_stride,
                        a_step: a.step_stride,
                        b: b.as_ptr(),
                        c: elements.pointer().add(row * row_stride + column),
                        c_stride: row_stride,
                        rows: live,
                        columns,
                        accumulate,
                        // The block of B after this one (the panel's next steps, or the next panel) is prefetched while
                        // this one is multiplied, a share with each panel of rows: all at once would delay the loads
                        // that are needed now.
                        ahead: b.as_ptr().wrapping_add(depth * kernel.nr + i * depth * LINE / size_of::<T>()),
                    });
                }
            }
        }
    }
}

/// Packs rows `first..first + height` of `a` as \[k]\[height], rows past the end as zeros.
fn pack_panel<T: Element>(a: MatrixRef<T>, first: usize, height: usize, out: &mut [T]) {
    let k = a.columns;
    let live = height.min(a.rows.saturating_sub(first));
    if live < height {
        out.fill(T::ZERO);
    }
    if a.row_stride == 1 {
        // A copy of a constant length is a few vector moves; of a variable one, a call.
        match (live, height) {
            (8, 8) => copy_groups::<T, 8>(&a, first, out),
            (48, 48) => copy_groups::<T, 48>(&a, first, out),
            _ => {
                for (p, group) in out.chunks_exact_mut(height).enumerate().take(k) {
                    let at = first + p * a.column_stride;
                    group[..live].copy_from_slice(&a.data[at..at + live]);
                }
            }
        }
        return;
    }
    // A transposing copy: 16 steps of k at a time keep the lines of `out` in cache while the rows are read.
    for start in (0..k).step_by(16) {
        let steps = 16.min(k - start);
        for r in 0..live {
            let at = (first + r) * a.row_stride + start * a.column_stride;
            if a.column_stride == 1 {
                let source = &a.data[at..at + steps];
                for (p, &x) in source.iter().enumerate() {
                    out[(start + p) * height + r] = x;
                }
            } else {
                for p in 0..steps {
                    out[(start + p) * height + r] = a.data[at + p * a.column_stride];
                }
            }
        }
    }
}

fn copy_groups<T: Element, const N: usize>(a: &MatrixRef<T>, first: usize, out: &mut [T]) {
    for (p, group) in out.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let at = first + p * a.column_stride;
        if let Some(source) = a.data[at..].first_chunk::<N>() {
            *group = *source;
        }
    }
}

#[cfg(test)]
mod tests;
