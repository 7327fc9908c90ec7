//! A frozen matrix in four bits: bitsandbytes' NF4 (QLoRA, arXiv 2305.14314, section 3), bit for bit.
//!
//! The numbers of a matrix, row after row, stand in blocks of 64. A number is a code of four bits, which means one of 16
//! levels of a normal distribution, times its block's scale, the largest magnitude in it. Scales are quantised a second time:
//! their mean is taken off, and in blocks of 256 each is one of 256 levels, spread by powers of ten, times the block's largest
//! magnitude: scale = level · nested scale + mean.
//!
//! A product decodes some rows at a time and lets them go; nothing dense is kept. The backward has dx alone: the matrix is no
//! parameter. On a CPU the rows are decoded from the codes, and a stage of inference keeps the codes a second time in the order
//! of the innermost loop (`cpu/gemm/nf4.rs`); elsewhere the codes lie on the device with their scales decoded: on a GPU a product of few
//! rows decodes them on the way ([`crate::ops::nf4_product`]), and for others a whole matrix is made by a look-up.
//!
//! Departures: a block of zeros has the code of 0 (bitsandbytes divides by zero there); the mean of the scales is summed in
//! f64.

use std::cell::Cell;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::codebook::{dynamic_map, limits, nearest};
use super::dense;
use super::sum_order::SumOrder;
use crate::cpu::gemm::{CodedMatrix, MatrixRef, PackedNf4, Store, gemm};
use crate::cpu::storage::{with_slice, with_slice_mut};
use crate::gpu::Gpu;
use crate::ops::nf4_product::{DeviceNf4, nf4_product};

/// Numbers that share a scale, where a matrix is quantised here.
const BLOCK: usize = 64;
/// Scales that share one.
const NESTED_BLOCK: usize = 256;
/// Numbers that one task decodes.
const CHUNK: usize = 1 << 14;
/// Numbers that a CPU's product decodes at a time, 16 MiB of them.
pub const NF4_PANEL: usize = 1 << 22;

thread_local! {
    /// Rows that a product has decoded.
    static DECODED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// What the 16 codes mean: quantiles of a normal distribution, of either sign and 0.
const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
/// The code of 0.
const ZERO: u8 = 7;

/// The scales of a matrix's blocks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Nf4Scales {
    /// One by one.
    Plain(Vec<f32>),
    /// Quantised themselves: map\[code] · scale of its block + mean.
    Nested {
        /// One for each block of numbers.
        codes: Vec<u8>,
        /// What the 256 codes mean.
        map: Vec<f32>,
        /// One for each block of codes.
        scales: Vec<f32>,
        /// Codes that share a scale.
        block: usize,
        /// What was taken off.
        mean: f32,
    },
}

/// A matrix \[rows, inputs] of four bits a number.
#[derive(Clone, Debug)]
pub(crate) struct Nf4Matrix {
    /// \[rows, inputs].
    shape: [usize; 2],
    /// Numbers that share a scale.
    block: usize,
    levels: [f32; 16],
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// Two codes a byte, the first in the high four bits.
    Host { codes: Vec<u8>, scales: Nf4Scales },
    /// On a device: codes of whole blocks u8, scales f32 \[blocks, 1], what a code means f32 \[16], and a byte f32 \[256, 2].
    Device { codes: Tensor, scales: Tensor, levels: Tensor, pairs: Tensor },
}

impl Nf4Scales {
    fn of_block(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested { codes, map, scales, block: nested, mean } => {
                // Two roundings, as there.
                let scaled = map[usize::from(codes[block])] * scales[block / nested];
                scaled + mean
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Plain(scales) => 4 * scales.len(),
            Self::Nested { codes, map, scales, .. } => codes.len() + 4 * (map.len() + scales.len()),
        }
    }
}

impl Nf4Matrix {
    /// A matrix of its stored parts; `None` where their numbers do not fit each other.
    pub(crate) fn of_parts(
        shape: [usize; 2],
        codes: Vec<u8>,
        levels: &[f32],
        scales: Nf4Scales,
        block: usize,
    ) -> Option<Self> {
        let [rows, inputs] = shape;
        let numbers = rows.checked_mul(inputs)?;
        let blocks = numbers.div_ceil(block.max(1));
        let levels = <[f32; 16]>::try_from(levels).ok()?;
        let fits = match &scales {
            Nf4Scales::Plain(scales) => scales.len() == blocks,
            Nf4Scales::Nested { codes, map, scales, block, .. } => {
                *block > 0
                    && codes.len() == blocks
                    && map.len() == 256
                    && scales.len() == blocks.div_ceil(*block)
            }
        };
        // A block must begin with a byte.
        let fits = fits && block > 0 && block.is_multiple_of(2) && codes.len() == numbers.div_ceil(2);
        fits.then(|| Self { shape, block, levels, form: Form::Host { codes, scales } })
    }

    /// A matrix of this shape without numbers, of which nothing is decoded.
    pub(crate) fn of_shape(shape: [usize; 2]) -> Self {
        let form = Form::Host { codes: Vec::new(), scales: Nf4Scales::Plain(Vec::new()) };
        Self { shape, block: BLOCK, levels: LEVELS, form }
    }

    /// Quantises a matrix \[rows, inputs], twice.
    ///
    /// # Errors
    /// No matrix.
    pub(crate) fn quantize(matrix: &Tensor) -> Result<Self> {
        let (rows, inputs) = matrix.dims2()?;
        let values: Vec<f32> =
            matrix.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let scales: Vec<f32> = values
            .par_chunks(BLOCK)
            .map(|block| block.iter().fold(0.0f32, |largest, value| largest.max(value.abs())))
            .collect();
        let limits = limits(&LEVELS);
        let mut codes = vec![0u8; values.len().div_ceil(2)];
        codes.par_chunks_mut(BLOCK / 2).zip(values.par_chunks(BLOCK)).zip(&scales).for_each(
            |((codes, block), scale)| {
                let inverse = scale.recip();
                let code = |value: f32| {
                    if *scale == 0.0 { ZERO } else { nearest(&limits, (value * inverse).clamp(-1.0, 1.0)) }
                };
                for (packed, pair) in codes.iter_mut().zip(block.chunks(2)) {
                    *packed = code(pair[0]) << 4 | pair.get(1).map_or(0, |&value| code(value));
                }
            },
        );
        drop(values);
        let form = Form::Host { codes, scales: nested(&scales) };
        Ok(Self { shape: [rows, inputs], block: BLOCK, levels: LEVELS, form })
    }

    /// The same matrix on `device`.
    ///
    /// # Errors
    /// Out of memory there.
    pub(crate) fn placed_on(self, device: &Device) -> Result<Self> {
        if device.is_cpu() { Ok(self) } else { self.on(device) }
    }

    /// In the form for products on `device`.
    pub(crate) fn on(self, device: &Device) -> Result<Self> {
        let Form::Host { codes, scales } = &self.form else { return Ok(self) };
        let blocks = self.numbers().div_ceil(self.block);
        let mut whole = codes.clone();
        whole.resize(blocks * self.block / 2, 0);
        let scales: Vec<f32> = (0..blocks).map(|block| scales.of_block(block)).collect();
        let pairs: Vec<f32> =
            (0..256).flat_map(|byte| [self.levels[byte >> 4], self.levels[byte & 15]]).collect();
        let form = Form::Device {
            codes: Tensor::from_vec(whole, blocks * self.block / 2, device)?,
            scales: Tensor::from_vec(scales, (blocks, 1), device)?,
            levels: Tensor::from_vec(self.levels.to_vec(), 16, device)?,
            pairs: Tensor::from_vec(pairs, (256, 2), device)?,
        };
        Ok(Self { form, ..self })
    }

    /// \[rows, inputs].
    pub(crate) fn dims(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn dims2(&self) -> (usize, usize) {
        self.shape.into()
    }

    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of codes and scales.
    pub(crate) fn footprint(&self) -> usize {
        match &self.form {
            Form::Host { codes, scales } => codes.len() + scales.bytes(),
            Form::Device { codes, scales, .. } => codes.elem_count() + 4 * scales.elem_count(),
        }
    }

    /// The whole matrix.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn dense(&self, dtype: DType) -> Result<Tensor> {
        match &self.form {
            Form::Host { .. } => self.decoded_rows(0, self.shape[0])?.to_dtype(dtype),
            Form::Device { codes, scales, pairs, .. } => {
                // As u32: candle takes the highest index of a type, 255 of bytes, for no index, and gives zeros.
                let codes = codes.to_dtype(DType::U32)?;
                let numbers = pairs.index_select(&codes, 0)?.reshape(((), self.block))?;
                let numbers = numbers.broadcast_mul(scales)?.flatten_all()?;
                let numbers = numbers.narrow(0, 0, self.numbers())?;
                numbers.reshape(self.shape.as_slice())?.to_dtype(dtype)?.contiguous()
            }
        }
    }

    /// The same matrix for a CPU's products in f32; `None` elsewhere, and where its blocks do not fit the rows.
    pub(super) fn packed(&self) -> Option<PackedNf4> {
        let Form::Host { codes, scales } = &self.form else { return None };
        let code = |at: usize| if at.is_multiple_of(2) { codes[at / 2] >> 4 } else { codes[at / 2] & 15 };
        PackedNf4::of(&CodedMatrix {
            rows: self.shape[0],
            inputs: self.shape[1],
            block: self.block,
            levels: self.levels,
            code: &code,
            scale: &|block| scales.of_block(block),
        })
    }

    /// Calls `use_rows` with parts of the matrix, from the first row on: the part's first row and its rows, decoded.
    fn by_panels(&self, dtype: DType, mut use_rows: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        if let Form::Device { .. } = self.form {
            return use_rows(0, &self.dense(dtype)?);
        }
        let [all, inputs] = self.shape;
        let rows = (NF4_PANEL / inputs.max(1)).max(1);
        for first in (0..all).step_by(rows) {
            let panel = self.decoded_rows(first, rows.min(all - first))?;
            use_rows(first, &panel.to_dtype(dtype)?)?;
        }
        Ok(())
    }

    /// As [`Self::by_panels`] in f32 on the host, in memory of the thread's that stays: buffers that come and go between
    /// activations that are kept would leave holes among them, a whole dense model's worth in a pass.
    fn by_slices(&self, mut use_rows: impl FnMut(usize, usize, &[f32])) {
        let [all, inputs] = self.shape;
        let at_once = (NF4_PANEL / inputs.max(1)).clamp(1, all.max(1));
        // Taken out while in use: a product inside this one finds an empty one.
        let mut panel = DECODED.take();
        panel.resize(panel.len().max(at_once * inputs), 0.0);
        for first in (0..all).step_by(at_once) {
            let rows = at_once.min(all - first);
            let values = &mut panel[..rows * inputs];
            values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
                self.decode(first * inputs + chunk * CHUNK, values);
            });
            use_rows(first, rows, values);
        }
        DECODED.set(panel);
    }

    /// Whether [`Self::by_slices`] is for products with this tensor.
    fn is_sliced(&self, gpu: Option<&Gpu>, x: &Tensor) -> bool {
        gpu.is_none() && x.dtype() == DType::F32 && matches!(self.form, Form::Host { .. })
    }

    fn decoded_rows(&self, first: usize, rows: usize) -> Result<Tensor> {
        let inputs = self.shape[1];
        let mut values = vec![0.0f32; rows * inputs];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            self.decode(first * inputs + chunk * CHUNK, values);
        });
        Tensor::from_vec(values, (rows, inputs), &Device::Cpu)
    }

    /// The numbers from `first` on.
    fn decode(&self, first: usize, out: &mut [f32]) {
        let Form::Host { codes, scales } = &self.form else { return };
        let mut at = first;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / self.block;
            let count = ((block + 1) * self.block - at).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
            let scale = scales.of_block(block);
            let values = self.levels.map(|level| level * scale);
            let mut now = now.iter_mut();
            if at % 2 == 1
                && let Some(first) = now.next()
            {
                *first = values[usize::from(codes[at / 2] & 15)];
            }
            let mut pairs = now.into_slice().chunks_exact_mut(2);
            for (pair, byte) in (&mut pairs).zip(&codes[at.div_ceil(2)..]) {
                pair[0] = values[usize::from(byte >> 4)];
                pair[1] = values[usize::from(byte & 15)];
            }
            if let [last] = pairs.into_remainder() {
                *last = values[usize::from(codes[(at + count - 1) / 2] >> 4)];
            }
            (at, rest) = (at + count, later);
        }
    }

    /// out\[.., first..first + rows] ← x·Wᵀ for x \[t, inputs].
    pub(super) fn forward(
        &self,
        gpu: Option<&Gpu>,
        x: &Tensor,
        out: &Tensor,
        first: usize,
        sums: SumOrder,
    ) -> Result<()> {
        if let (Some(gpu), Form::Device { codes, scales, levels, .. }) = (gpu, &self.form) {
            let (shape, block) = (self.shape, self.block);
            let matrix = DeviceNf4 { codes, scales, levels, shape, block };
            if matrix.is_for(x.dims2()?.0, x.dtype()) && out.dtype() == x.dtype() {
                return nf4_product(gpu, x, matrix, out, first);
            }
        }
        if !self.is_sliced(gpu, x) {
            return self
                .by_panels(x.dtype(), |row, panel| dense::forward(gpu, x, panel, out, first + row, sums));
        }
        let ((t, k), width) = (x.dims2()?, out.dims2()?.1);
        if t == 0 {
            return Ok(());
        }
        with_slice::<f32, _>(x, |x| {
            with_slice_mut::<f32, _>(out, |out| {
                self.by_slices(|row, rows, panel| {
                    let w = MatrixRef::row_major(panel, rows, k, k).transposed();
                    let out = &mut out[first + row..];
                    gemm(MatrixRef::row_major(x, t, k, k), w, out, width, Store::Overwrite);
                });
            })
        })?
    }

    /// dx \[t, inputs] ← dy\[.., first..first + rows]·W, or added to dx.
    pub(super) fn backward_input(
        &self,
        gpu: Option<&Gpu>,
        dy: &Tensor,
        dx: &Tensor,
        first: usize,
        accumulate: bool,
    ) -> Result<()> {
        if !self.is_sliced(gpu, dy) {
            return self.by_panels(dy.dtype(), |row, panel| {
                dense::backward_input(gpu, dy, panel, dx, first + row, accumulate || row > 0)
            });
        }
        let ((t, width), k) = (dy.dims2()?, self.shape[1]);
        if t == 0 {
            return Ok(());
        }
        with_slice::<f32, _>(dy, |dy| {
            with_slice_mut::<f32, _>(dx, |dx| {
                self.by_slices(|row, rows, panel| {
                    let store = if accumulate || row > 0 { Store::Accumulate } else { Store::Overwrite };
                    let columns = MatrixRef::row_major(&dy[first + row..], t, rows, width);
                    gemm(columns, MatrixRef::row_major(panel, rows, k, k), dx, k, store);
                });
            })
        })?
    }
}

/// The scales, quantised.
fn nested(scales: &[f32]) -> Nf4Scales {
    let mean =
        (scales.iter().map(|scale| f64::from(*scale)).sum::<f64>() / scales.len().max(1) as f64) as f32;
    let map = dynamic_map(true);
    let limits = limits(&map);
    let mut codes = Vec::with_capacity(scales.len());
    let mut largest_of = Vec::with_capacity(scales.len().div_ceil(NESTED_BLOCK));
    for block in scales.chunks(NESTED_BLOCK) {
        let largest = block.iter().fold(0.0f32, |largest, scale| largest.max((scale - mean).abs()));
        let inverse = if largest > 0.0 { largest.recip() } else { 0.0 };
        codes.extend(block.iter().map(|scale| nearest(&limits, ((scale - mean) * inverse).clamp(-1.0, 1.0))));
        largest_of.push(largest);
    }
    Nf4Scales::Nested { codes, map, scales: largest_of, block: NESTED_BLOCK, mean }
}

#[cfg(test)]
mod tests;
