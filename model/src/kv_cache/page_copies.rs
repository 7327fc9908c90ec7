//! Copies of whole pages: on a GPU all layers and many pages by one launch (`gpu/cuda/page_copies.cu`).

use std::collections::HashSet;

use candle_core::{DType, Result, Tensor};

use crate::cpu::by_dtype;
use crate::cpu::storage::{with_bytes_mut, with_slice_mut};
use crate::gpu::{Gpu, address, pointer};

/// A page's content that goes to another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The page that is read.
    pub from: u32,
    /// The page that is written.
    pub to: u32,
}

/// The copies in runs, each of which may be made in any order: no page is both read and written, and none written twice.
pub(super) fn independent_runs(copies: &[PageCopy]) -> Vec<&[PageCopy]> {
    let (mut runs, mut begin) = (Vec::new(), 0);
    let (mut read, mut written) = (HashSet::new(), HashSet::new());
    for (place, copy) in copies.iter().enumerate() {
        if written.contains(&copy.from) || written.contains(&copy.to) || read.contains(&copy.to) {
            runs.push(&copies[begin..place]);
            begin = place;
            read.clear();
            written.clear();
        }
        read.insert(copy.from);
        written.insert(copy.to);
    }
    runs.push(&copies[begin..]);
    runs
}

/// Copies pages of a tensor \[pages, …] in a CPU's memory, one after the other.
pub(super) fn copy_on_cpu(tensor: &Tensor, copies: &[PageCopy]) -> Result<()> {
    let numbers = page_numbers(tensor)?;
    let places = copies.iter().map(|copy| {
        let from = copy.from as usize * numbers;
        (from..from + numbers, copy.to as usize * numbers)
    });
    if tensor.dtype() == DType::U8 {
        return with_bytes_mut(tensor, |x| places.for_each(|(from, to)| x.copy_within(from, to)));
    }
    by_dtype!(tensor.dtype(), T => {
        with_slice_mut::<T, _>(tensor, |x| places.for_each(|(from, to)| x.copy_within(from, to)))
    })
}

/// Where on a GPU the tensors of a cache are, and how many bytes of each a page has.
pub(super) struct TensorTable {
    /// `PagedTensor`s of page_copies.cu.
    words: Tensor,
    tensors: usize,
}

impl TensorTable {
    /// Of tensors \[pages, …], which stay where they are.
    pub(super) fn new<'a>(gpu: &Gpu, tensors: impl Iterator<Item = &'a Tensor>) -> Result<Self> {
        let (mut words, mut count) = (Vec::new(), 0);
        for tensor in tensors {
            // Sixteen slots to a page: a multiple of sixteen bytes.
            let bytes = page_numbers(tensor)? * tensor.dtype().size_in_bytes();
            for number in [address(tensor)?, bytes as u64] {
                words.extend([number as u32, (number >> 32) as u32]);
            }
            count += 1;
        }
        Ok(Self { words: gpu.upload(&words)?, tensors: count })
    }

    /// Makes copies of which none reads or writes what another one writes.
    pub(super) fn copy(&self, gpu: &Gpu, copies: &[PageCopy]) -> Result<()> {
        let words: Vec<u32> = copies.iter().flat_map(|copy| [copy.from, copy.to]).collect();
        let words = gpu.upload(&words)?;
        let arguments = [pointer(&self.words)?, pointer(&words)?];
        gpu.launch_single("copy_pages", [copies.len(), self.tensors, 1], 256, 0, &arguments)
    }
}

/// Numbers of a page of a tensor \[pages, …].
fn page_numbers(tensor: &Tensor) -> Result<usize> {
    Ok(tensor.elem_count() / tensor.dim(0)?.max(1))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn copies(pairs: &[(u32, u32)]) -> Vec<PageCopy> {
        pairs.iter().map(|&(from, to)| PageCopy { from, to }).collect()
    }

    #[test]
    fn what_depends_on_a_copy_comes_after_it() {
        let lengths =
            |pairs: &[(u32, u32)]| independent_runs(&copies(pairs)).into_iter().map(<[_]>::len).collect();
        let lengths: [Vec<usize>; 5] = [
            // The candidates of two prompts.
            lengths(&[(1, 2), (1, 3), (4, 5), (4, 6)]),
            // What was written is read, is written again, and what was read is written.
            lengths(&[(1, 2), (2, 3)]),
            lengths(&[(1, 2), (3, 2)]),
            lengths(&[(1, 2), (3, 1), (4, 5)]),
            lengths(&[(1, 2), (2, 1), (1, 2)]),
        ];
        assert_eq!(lengths, [vec![4], vec![1, 1], vec![1, 1], vec![1, 2], vec![1, 1, 1]]);
    }

    #[test]
    fn copies_on_a_cpu_are_made_in_their_order() {
        let tensor = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu).unwrap();
        copy_on_cpu(&tensor, &copies(&[(0, 1), (1, 2)])).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 2.0]; 3]);
    }
}
