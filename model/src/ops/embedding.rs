//! Token embedding: rows of a table, and the scatter-add that is its backward (accumulated in the gradient's own
//! type: f32, also where the table is bf16).

use candle_core::{Result, Tensor, bail};

use super::rows::{add_rows, gather_rows, gather_rows_at, row_cost};
use crate::cpu::parallel::for_rows;
use crate::cpu::storage::{tensor_of, unwritten, with_slice};
use crate::cpu::{Real, by_dtype};
use crate::gpu::Gpu;
use crate::profile;

/// Looks `ids` up in `table` \[vocab, h], times `scale` (Gemma's √h): \[t, h].
///
/// # Errors
/// An id outside the table.
pub fn embedding(table: &Tensor, ids: &[u32], scale: Option<f64>) -> Result<Tensor> {
    let (vocab, h) = table.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        bail!("token id {id} is outside the vocabulary of {vocab}")
    }
    let _operation = profile::operation("embedding", || row_cost(2 * ids.len() * h, table));
    if let Some(gpu) = Gpu::of(table)? {
        return gather_rows(&gpu, table, ids, scale);
    }
    by_dtype!(table.dtype(), T => embedding_cpu::<T>(table, ids, scale))
}

fn embedding_cpu<T: Real>(table: &Tensor, ids: &[u32], scale: Option<f64>) -> Result<Tensor> {
    let h = table.dims2()?.1;
    let scale = scale.map(T::of);
    let mut out = unwritten::<T>(ids.len() * h);
    with_slice::<T, _>(table, |table| {
        for_rows(&mut out, h, 1 << 14, |first, rows| {
            for (row, &id) in rows.chunks_exact_mut(h).zip(&ids[first..]) {
                row.copy_from_slice(&table[id as usize * h..][..h]);
                if let Some(scale) = scale {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
            }
        });
    })?;
    tensor_of(out, (ids.len(), h))
}

/// As [`embedding`] on a GPU, of `count` ids that are there already and within the table.
pub(crate) fn embedding_at(
    gpu: &Gpu,
    table: &Tensor,
    ids: &Tensor,
    count: usize,
    scale: Option<f64>,
) -> Result<Tensor> {
    gather_rows_at(gpu, table, ids, count, scale)
}

/// d_table\[ids\[i]] += scale · dy\[i], in the order of i.
///
/// # Errors
/// An id outside the table; a tensor that is not contiguous.
pub fn embedding_backward(dy: &Tensor, ids: &[u32], scale: Option<f64>, d_table: &Tensor) -> Result<()> {
    add_rows(d_table, dy, ids, scale)
}
