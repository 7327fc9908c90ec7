//! B packed in the microkernel's panels, once for many products.

use super::{
    Element, L2_ELEMENTS, MC, MatrixRef, OutputMatrix, PARALLEL_WORK, PackedPanels, Rows, Store, multiply,
    with_rows,
};
use crate::cpu::parallel::{SharedMut, for_each};

/// B packed once for many products: the weights of a sampling stage.
pub struct PackedMatrix<T> {
    data: Vec<T>,
    k: usize,
    n: usize,
}

impl<T: Element> PackedMatrix<T> {
    /// Packs Wᵀ for weights given as row-major \[n_i, k] matrices, one after the other: x·Wᵀ then has Σ n_i columns.
    pub fn of_weights(weights: &[&[T]], k: usize) -> Self {
        let kernel = T::kernel();
        let n: usize = weights.iter().map(|w| w.len() / k.max(1)).sum();
        let panels = n.div_ceil(kernel.nr);
        let mut data = vec![T::ZERO; panels * kernel.nr * k];
        let shared = SharedMut::new(&mut data);
        for_each(panels, |panel| {
            // SAFETY: each panel belongs to one task.
            let out = unsafe { shared.range(panel * kernel.nr * k, kernel.nr * k) };
            for column in 0..kernel.nr.min(n - panel * kernel.nr) {
                let mut row = panel * kernel.nr + column;
                for w in weights {
                    let rows = w.len() / k;
                    if row < rows {
                        for (p, &x) in w[row * k..(row + 1) * k].iter().enumerate() {
                            out[p * kernel.nr + column] = x;
                        }
                        break;
                    }
                    row -= rows;
                }
            }
        });
        Self { data, k, n }
    }

    /// Columns of the product.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// C ← A·B for a row-major A \[m, k]; each task streams its panels of B from memory once.
    ///
    /// # Panics
    /// The shapes do not fit: a fault of the caller's arithmetic.
    pub fn product(&self, a: MatrixRef<T>, c: &mut [T], c_stride: usize, store: Store) {
        let (m, k) = (a.rows, self.k);
        assert_eq!(a.columns, k, "inner dimensions differ");
        let c = OutputMatrix::of(c, (m, self.n), c_stride, store);
        if m == 0 || self.n == 0 {
            return;
        }
        let kernel = T::kernel();
        let panels = self.n.div_ceil(kernel.nr);
        let b = PackedPanels { data: &self.data, k, first_column: 0 };
        let run = |a: Rows<T>, rows: std::ops::Range<usize>, panels: std::ops::Range<usize>| {
            multiply(&kernel, a, rows, b, panels, c);
        };
        let threads = if m * k * self.n < PARALLEL_WORK { 1 } else { rayon::current_num_threads() };
        if m <= MC {
            let shares = shares(panels, threads, panels);
            with_rows(&kernel, a, 0..m, |a| {
                for_each(shares.len(), |task| run(a, 0..m, shares[task].clone()));
            });
        } else {
            // A task's panels stay in a core's second cache from one block of rows to the next.
            let shares = shares(panels, threads, (L2_ELEMENTS / (kernel.nr * k).max(1)).max(1));
            for_each(shares.len(), |task| {
                for rows in (0..m).step_by(MC).map(|first| first..(first + MC).min(m)) {
                    with_rows(&kernel, a, rows.clone(), |a| run(a, rows.clone(), shares[task].clone()));
                }
            });
        }
    }
}

/// Splits `panels` into neighbouring shares for `threads` threads, the first ones large (each reads on where it ended, and
/// fetches ahead), the last ones small, so that threads that the system stops for a while leave little to wait for.
pub(super) fn shares(panels: usize, threads: usize, largest: usize) -> Vec<std::ops::Range<usize>> {
    let mut shares = Vec::new();
    let mut start = 0;
    while start < panels {
        let share = if threads == 1 { panels } else { (panels - start).div_ceil(2 * threads) };
        let end = (start + share.min(largest)).min(panels);
        shares.push(start..end);
        start = end;
    }
    shares
}
