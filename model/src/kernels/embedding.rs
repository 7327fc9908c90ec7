//! Token embedding: rows of a table, and the scatter-add that is its backward (accumulated in the gradient's own
//! type: f32, also where the table is bf16).

use candle_core::{Result, Tensor, bail};

use super::Real;
use super::gpu::Gpu;
use super::parallel::for_rows;
use super::storage::{
    add_rows, gather_rows, gather_rows_at, tensor_of, unwritten, with_slice, with_slice_mut,
};

/// Looks `ids` up in `table` \[vocab, h], times `scale` (Gemma's √h): \[t, h].
///
/// # Errors
/// An id outside the table.
pub fn embedding<T: Real>(table: &Tensor, ids: &[u32], scale: Option<f64>) -> Result<Tensor> {
    let (vocab, h) = table.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        bail!("token id {id} is outside the vocabulary of {vocab}")
    }
    if let Some(gpu) = Gpu::of(table)? {
        return gather_rows(&gpu, table, ids, scale);
    }
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
/// A tensor that is not a contiguous CPU one.
pub fn embedding_backward<T: Real>(
    dy: &Tensor,
    ids: &[u32],
    scale: Option<f64>,
    d_table: &Tensor,
) -> Result<()> {
    if let Some(gpu) = Gpu::of(dy)? {
        return add_rows(&gpu, d_table, dy, ids, scale);
    }
    let h = dy.dims2()?.1;
    let scale = scale.map_or(T::ONE, T::of);
    with_slice::<T, _>(dy, |dy| {
        with_slice_mut::<T, _>(d_table, |d_table| {
            for (row, &id) in dy.chunks_exact(h).zip(ids) {
                for (d, &x) in d_table[id as usize * h..][..h].iter_mut().zip(row) {
                    *d = x.fma(scale, *d);
                }
            }
        })
    })?
}
