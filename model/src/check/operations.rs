//! Every operation's GPU form against its CPU form in f32, on random inputs.
//!
//! Past 400 lines because the comparisons are one list, an operation each.

mod fp8;

use candle_core::{DType, Result, Tensor};

use super::{CheckTarget, Deviation, distance, noise};
use crate::architecture::{Activation, Rope, RopeScaling};
use crate::batch::PackedBatch;
use crate::gpu::{Gpu, has_fp8};
use crate::gradients::Gradients;
use crate::kv_cache::{LayerCache, PAGE_TOKENS, PagedRow};
use crate::kv_format::KvFormat;
use crate::linear::{Linear, Matrix, NewModule, Nf4Matrix, SumOrder};
use crate::ops::attention::{Attention, Places};
use crate::ops::elementwise::{add_assign, scale_assign, sum};
use crate::ops::embedding::{embedding, embedding_backward};
use crate::ops::gated_unit::{gated_unit, gated_unit_backward};
use crate::ops::paged_attention::{PageNorms, PagedStep, attend_pages, write_pages};
use crate::ops::rms_norm::{HeadColumns, RmsNorm};
use crate::ops::rope::{Direction, Positions, RopeTable};
use crate::ops::rows::select_rows;
use crate::parameters::Parameters;

/// How large the inputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputSize {
    /// Seconds in an emulator.
    Small,
    /// Thousands of rows, models' own widths.
    Large,
}

/// Some of the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationGroup {
    /// Norms, rotations, gated units, sums, rows by index.
    Elementwise,
    /// Linear maps.
    Products,
    /// Maps in NF4.
    FourBits,
    /// Maps in FP8; none on a GPU that does not multiply so.
    Fp8,
    /// Attention over packed segments.
    Attention,
    /// Attention over pages.
    Pages,
    /// Over pages in FP8.
    Fp8Pages,
}

impl OperationGroup {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Elementwise,
        Self::Products,
        Self::FourBits,
        Self::Fp8,
        Self::Attention,
        Self::Pages,
        Self::Fp8Pages,
    ];
}

/// Compares every operation; `seed` draws the inputs.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_all(target: &CheckTarget, size: InputSize, seed: u64) -> Result<Vec<Deviation>> {
    let mut run = OperationChecks::new(target, size, seed);
    OperationGroup::ALL.into_iter().try_for_each(|group| run.group(group))?;
    Ok(run.found)
}

/// Compares the operations of a group.
///
/// # Errors
/// As [`compare_all`].
pub fn compare_group(
    target: &CheckTarget,
    size: InputSize,
    seed: u64,
    group: OperationGroup,
) -> Result<Vec<Deviation>> {
    let mut run = OperationChecks::new(target, size, seed);
    run.group(group)?;
    Ok(run.found)
}

pub(super) struct OperationChecks<'a> {
    target: &'a CheckTarget,
    size: InputSize,
    seed: u64,
    pub(super) found: Vec<Deviation>,
}

impl<'a> OperationChecks<'a> {
    pub(super) fn new(target: &'a CheckTarget, size: InputSize, seed: u64) -> Self {
        Self { target, size, seed, found: Vec::new() }
    }

    fn group(&mut self, group: OperationGroup) -> Result<()> {
        match group {
            OperationGroup::Elementwise => {
                self.norms()?;
                self.norms_of_heads()?;
                self.rotations()?;
                self.gated_units_and_sums()?;
                self.rows_by_index()
            }
            OperationGroup::Products => self.linear_maps(),
            OperationGroup::FourBits => self.four_bit_maps(),
            OperationGroup::Fp8 => {
                let multiplies = self.target.run(|| has_fp8(self.target.device()))?;
                if multiplies { self.fp8_maps() } else { Ok(()) }
            }
            OperationGroup::Attention => self.attention(),
            OperationGroup::Pages => self.paged_attention(false),
            OperationGroup::Fp8Pages => self.paged_attention(true),
        }
    }

    /// Runs `f` on the CPU in f32 and in its GPU form in both dtypes. Gradients that `f` makes by [`sums`] are f32 in all.
    fn compare(
        &mut self,
        name: &str,
        shapes: &[&[usize]],
        f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<()> {
        self.compare_in(&[DType::F32, DType::BF16], name, shapes, f)
    }

    /// As [`OperationChecks::compare`], in these dtypes alone.
    pub(super) fn compare_in(
        &mut self,
        dtypes: &[DType],
        name: &str,
        shapes: &[&[usize]],
        f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<()> {
        for &dtype in dtypes {
            let inputs = shapes
                .iter()
                .enumerate()
                .map(|(i, shape)| noise(shape, self.seed + i as u64)?.to_dtype(dtype))
                .collect::<Result<Vec<_>>>()?;
            let exact = inputs.iter().map(|x| x.to_dtype(DType::F32)?.copy()).collect::<Result<Vec<_>>>()?;
            let on_target = inputs
                .iter()
                .map(|x| x.to_device(self.target.device())?.copy())
                .collect::<Result<Vec<_>>>()?;
            let want = f(&exact)?;
            let got = self.target.run(|| f(&on_target))?;
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                self.found.push(Deviation {
                    name: format!("{name}, result {i}"),
                    dtype,
                    distance: distance(got, want)?,
                    // bf16 rounds by 2⁻⁹; sums of products add a little of their own.
                    bound: match (dtype, self.size) {
                        (DType::F32, InputSize::Small) => 3e-6,
                        // Sums of thousands of numbers, on either side.
                        (DType::F32, InputSize::Large) => 1e-5,
                        _ => 8e-3,
                    },
                });
            }
        }
        Ok(())
    }

    fn rows(&self) -> usize {
        if self.size == InputSize::Small { 37 } else { 3001 }
    }

    /// Widths with and without 16-byte rows, shorter and longer than a block.
    fn widths(&self) -> &'static [usize] {
        if self.size == InputSize::Small {
            &[1, 20, 24, 700, 2056]
        } else {
            &[1, 20, 700, 2048, 4096, 14_336]
        }
    }

    fn norms(&mut self) -> Result<()> {
        let rows = self.rows();
        for (i, &h) in self.widths().iter().enumerate() {
            let norm = RmsNorm { epsilon: 1e-5, offset: i % 2 == 1 };
            self.compare(&format!("norm of {h}"), &[&[rows, h], &[rows, h], &[h], &[rows, h]], |x| {
                let (sum, normed) = norm.add_forward(&x[0], &x[1], &x[2])?;
                let alone = norm.forward(&x[0], &x[2])?;
                let (dx, d_weight) = (x[3].copy()?, sums(&x[0], &[h])?);
                norm.backward(&x[0], &x[2], &x[1], Some(&d_weight), &dx)?;
                let frozen = x[3].copy()?;
                norm.backward(&x[0], &x[2], &x[1], None, &frozen)?;
                Ok(vec![sum, normed, alone, dx, d_weight, frozen])
            })?;
        }
        Ok(())
    }

    fn norms_of_heads(&mut self) -> Result<()> {
        let rows = self.rows();
        // The last is all heads of a token together.
        for (d, heads) in [(8, 3), (70, 2), (128, 32), (2056, 1)] {
            let (columns, width) = (HeadColumns { first: d, count: heads }, d * (heads + 2));
            let norm = RmsNorm { epsilon: 1e-6, offset: false };
            self.compare(&format!("norm of heads of {d}"), &[&[rows, width], &[d], &[rows, width]], |x| {
                let y = x[0].copy()?;
                norm.heads_forward(&y, columns, &x[1])?;
                let (dx, d_weight) = (x[2].copy()?, sums(&x[0], &[d])?);
                norm.heads_backward(&x[0], &dx, columns, &x[1], Some(&d_weight))?;
                Ok(vec![y, dx, d_weight])
            })?;
        }
        Ok(())
    }

    /// Whole heads and parts of them, in widths with and without 16-byte rows, forwards and back.
    fn rotations(&mut self) -> Result<()> {
        let rows = self.rows();
        for (d, width) in [(16, 16), (10, 10), (10, 6), (32, 16), (128, 96), (96, 36)] {
            let (heads, columns) = (3, 4 * d);
            let rope = RopeTable::new(&Rope { theta: 1e3, width, scaling: RopeScaling::None }, d, rows);
            self.compare(&format!("rotation of {width} of {d}"), &[&[rows, columns]], |x| {
                let positions = Positions::new((0..rows as u32).rev().collect());
                let (there, back) = (x[0].copy()?, x[0].copy()?);
                rope.rotate(&there, heads, &positions, Direction::Forward)?;
                rope.rotate(&back, heads, &positions, Direction::Backward)?;
                Ok(vec![there, back])
            })?;
        }
        Ok(())
    }

    fn gated_units_and_sums(&mut self) -> Result<()> {
        let rows = self.rows() / 7;
        for &width in self.widths() {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let shapes: [&[usize]; 3] = [&[rows, 2 * width], &[rows, width], &[rows, 2 * width]];
                self.compare(&format!("gated unit of {width}, {activation:?}"), &shapes, |x| {
                    let y = gated_unit(&x[0], activation)?;
                    let d = x[0].copy()?;
                    gated_unit_backward(&d, &x[1], activation)?;
                    let added = x[0].copy()?;
                    add_assign(&added, &x[2])?;
                    scale_assign(&added, 0.5)?;
                    Ok(vec![y, d, sum(&x[0], &x[2])?, added])
                })?;
            }
        }
        Ok(())
    }

    fn rows_by_index(&mut self) -> Result<()> {
        let (table, count) = (self.rows() / 3, self.rows());
        let ids: Vec<u32> = (0..count).map(|i| (i * i * 7 % table) as u32).collect();
        for &width in self.widths() {
            self.compare(&format!("rows of {width}"), &[&[table, width], &[count, width]], |x| {
                let d_table = sums(&x[0], &[table, width])?;
                embedding_backward(&x[1], &ids, Some(1.5), &d_table)?;
                Ok(vec![
                    embedding(&x[0], &ids, Some(4.5))?,
                    embedding(&x[0], &ids, None)?,
                    select_rows(&x[0], &[table - 1, 2, 2])?,
                    d_table,
                ])
            })?;
        }
        Ok(())
    }

    fn linear_maps(&mut self) -> Result<()> {
        let shapes = match self.size {
            InputSize::Small => [(13, 24, 10, 7), (130, 200, 137, 6), (3, 37, 9, 70)],
            InputSize::Large => [(515, 1032, 700, 344), (64, 4096, 1000, 24), (2, 1037, 300, 2)],
        };
        for (t, k, m, n) in shapes {
            self.linear_maps_of(t, k, m, n)?;
        }
        self.rows_alone(if self.size == InputSize::Small { 40 } else { 4096 })
    }

    fn four_bit_maps(&mut self) -> Result<()> {
        let shapes = match self.size {
            // Rows and outputs beside whole tiles, k of a half and of two and a half stages, either form.
            InputSize::Small => &[(1, 64, 33), (5, 320, 70), (32, 128, 32), (70, 192, 130)][..],
            InputSize::Large => &[(1, 4096, 4096), (32, 4096, 14_336), (32, 14_336, 1000), (512, 4032, 1024)],
        };
        shapes.iter().try_for_each(|&(t, k, n)| self.four_bits(t, k, n))
    }

    /// Products with a matrix in four bits: the CPU's numbers, and the bits of the product by row with a dense copy.
    fn four_bits(&mut self, t: usize, k: usize, n: usize) -> Result<()> {
        let matrix = Nf4Matrix::quantize(&noise(&[n, k], self.seed + 9)?)?;
        let coded = matrix.clone().on(self.target.device())?;
        let name = format!("{t} rows by {n} × {k} in four bits");
        self.compare(&name, &[&[t, k]], |x| {
            let gpu = Gpu::of(&x[0])?;
            let out = Tensor::zeros((t, n + 3), x[0].dtype(), x[0].device())?;
            let matrix = if gpu.is_some() { &coded } else { &matrix };
            Matrix::Nf4(matrix).forward(gpu.as_ref(), &x[0], &out, 2, SumOrder::Fastest)?;
            Ok(vec![out])
        })?;
        for dtype in [DType::F32, DType::BF16] {
            let x = noise(&[t, k], self.seed)?.to_dtype(dtype)?.to_device(self.target.device())?;
            let distance = self.target.run(|| {
                let (gpu, dense) = (Gpu::of(&x)?, coded.dense(dtype)?);
                let product = |matrix: Matrix<'_>| {
                    let out = Tensor::zeros((t, n), dtype, x.device())?;
                    matrix.forward(gpu.as_ref(), &x, &out, 0, SumOrder::ByRow)?;
                    Ok::<_, candle_core::Error>(out)
                };
                distance(&product(Matrix::Nf4(&coded))?, &product(Matrix::Dense(&dense))?)
            })?;
            let name = format!("{name}, the bits of a dense copy");
            self.found.push(Deviation { name, dtype, distance, bound: 0.0 });
        }
        Ok(())
    }

    /// Products by row: the same bits alone, among a few, and among many.
    fn rows_alone(&mut self, k: usize) -> Result<()> {
        const ROWS: usize = 130;
        for dtype in [DType::F32, DType::BF16] {
            let place =
                |shape: &[usize]| noise(shape, self.seed)?.to_dtype(dtype)?.to_device(self.target.device());
            let (x, weight) = (place(&[ROWS, k])?, place(&[70, k])?);
            let mut parameters = Parameters::default();
            let module = NewModule { name: "rows".to_owned(), weight, bias: None };
            let linear = Linear::insert(&mut parameters, vec![module])?;
            let product = |from: usize, rows: usize| {
                let x = x.narrow(0, from, rows)?.copy()?;
                self.target.run(|| linear.forward(&parameters, &x, SumOrder::ByRow))
            };
            let parts = [product(0, 1)?, product(1, 40)?, product(41, ROWS - 41)?];
            let distance = distance(&Tensor::cat(&parts, 0)?, &product(0, ROWS)?)?;
            let name = format!("products by row of {k}, the same bits in any batch");
            self.found.push(Deviation { name, dtype, distance, bound: 0.0 });
        }
        Ok(())
    }

    fn linear_maps_of(&mut self, t: usize, k: usize, m: usize, n: usize) -> Result<()> {
        let shapes: [&[usize]; 5] = [&[t, k], &[m, k], &[n, k], &[n], &[t, m + n]];
        self.compare(&format!("linear maps of {t} rows side by side"), &shapes, |x| {
            let mut parameters = Parameters::default();
            let module = |name: &str, weight: &Tensor, bias: Option<&Tensor>| NewModule {
                name: name.to_owned(),
                weight: weight.clone(),
                bias: bias.cloned(),
            };
            let modules = vec![module("first", &x[1], None), module("second", &x[2], Some(&x[3]))];
            let linear = Linear::insert(&mut parameters, modules)?;
            let y = linear.forward(&parameters, &x[0], SumOrder::Fastest)?;
            let by_row = linear.forward(&parameters, &x[0], SumOrder::ByRow)?;
            let gradients = Gradients::zeros(&parameters)?;
            let dx = linear.backward(&parameters, &x[0], &x[4], &gradients)?;
            let all = [y, by_row, dx].into_iter();
            Ok(all.chain(gradients.iter().map(|(_, gradient)| gradient.clone())).collect())
        })
    }

    /// Sequences of random lengths, longer than a tile, sharing a prompt, and one token long.
    fn attention(&mut self) -> Result<()> {
        let batch = ragged_batch(if self.size == InputSize::Small { 130 } else { 900 }, self.seed);
        let t = batch.tokens();
        let cases = [
            (64, None, None),
            (24, Some(9), None),
            (10, Some(40), Some(2.0)),
            (128, None, Some(5.0)),
            (100, Some(64), None),
            (256, None, None),
            (160, Some(65), Some(3.0)),
        ];
        for (d, window, softcap) in cases {
            let scale = 4.0 / (d as f64).sqrt();
            let attention = Attention { heads: 4, kv_heads: 2, head_dim: d, scale, softcap, window };
            let name = format!("attention, heads of {d}, window {window:?}, cap {softcap:?}");
            self.compare(&name, &[&[t, 8 * d], &[t, 4 * d]], |x| {
                let places = Places::new(batch.layout());
                let forward = attention.forward(&x[0], &places)?;
                let d_qkv = attention.backward(&x[0], &forward, &x[1], &places)?;
                Ok(vec![forward.output, forward.log_sums, d_qkv])
            })?;
        }
        Ok(())
    }
}

impl OperationChecks<'_> {
    /// Two rows that grow over scattered pages, beside others that go on from the first one's pages, with a place of their own
    /// in the last; some of a step's tokens are a prompt's, some a response's, some past the end of a part.
    /// Of keys and values as they are computed, or in FP8.
    fn paged_attention(&mut self, in_fp8: bool) -> Result<()> {
        let (long, short) = if self.size == InputSize::Small { (530, 21) } else { (1500, 333) };
        let pages_of = |tokens: usize, first: u32| -> Vec<u32> {
            (0..tokens.div_ceil(PAGE_TOKENS) as u32).map(|page| first + 2 * page).collect()
        };
        let (mut even, odd) = (pages_of(long, 0), pages_of(short, 1));
        let page_count = long.div_ceil(PAGE_TOKENS) * 2 + 5;
        // What every row of the first prompt holds; their own last pages start empty.
        let shared = (long - 1) / PAGE_TOKENS * PAGE_TOKENS;
        let own = |page: usize| -> Vec<u32> {
            let own = page_count - page;
            even[..shared / PAGE_TOKENS].iter().copied().chain([own as u32]).collect()
        };
        let (twins, stranger) = ([own(1), own(2), own(3)], own(4));
        even.push(page_count as u32 - 5);
        let row = |new_tokens, context, pages, shared| PagedRow { new_tokens, context, pages, shared };
        let steps = [
            vec![row(long, 0, &even[..], shared), row(short - 2, 0, &odd, 16)],
            vec![
                row(1, shared, &twins[0], shared),
                row(3, shared, &twins[1], shared),
                row(1, shared, &twins[2], shared),
                row(2, short - 2, &odd, 16),
                // The same keys, summed as one row's own.
                row(1, shared, &stranger, 0),
                row(1, long, &even, shared),
            ],
        ];
        let tokens = [long + short - 2, 9];
        // `width` numbers of each head are rotated.
        for (heads, kv_heads, d, width, window, softcap) in [
            (4, 2, 64, 64, None, None),
            (6, 2, 24, 24, Some(9), None),
            (3, 1, 10, 10, Some(40), Some(2.0)),
            (8, 2, 128, 128, None, Some(5.0)),
            // Four key heads to a block where a token has few keys of its own.
            (8, 4, 64, 64, Some(70), None),
            (20, 1, 100, 100, Some(64), None),
            (70, 1, 16, 16, None, None),
            (8, 1, 256, 256, None, None),
            (4, 2, 128, 96, Some(64), None),
            (4, 2, 10, 6, None, None),
            (4, 2, 64, 0, None, None),
            (2, 2, 10, 0, None, None),
        ] {
            let scale = 4.0 / (d as f64).sqrt();
            let attention = Attention { heads, kv_heads, head_dim: d, scale, softcap, window };
            let name = format!(
                "paged attention, {heads}/{kv_heads} heads of {d}, {width} rotated, window {window:?}, cap {softcap:?}"
            );
            let columns = attention.width();
            let rope = Rope { theta: 1e4, width, scaling: RopeScaling::None };
            let rope = (width > 0).then(|| RopeTable::new(&rope, d, long + 2));
            let shapes: [&[usize]; 4] = [&[tokens[0], columns], &[tokens[1], columns], &[d], &[d]];
            let run = |x: &[Tensor], format: KvFormat, is_normed: bool| {
                let cache = LayerCache::new(page_count, (kv_heads, d), format, x[0].device())?;
                steps
                    .iter()
                    .zip(x)
                    .map(|(rows, qkv)| {
                        let step = PagedStep::new(rows);
                        let qkv = qkv.copy()?;
                        let of_heads = |first, count| HeadColumns { first, count };
                        let norms = is_normed.then(|| PageNorms {
                            norm: RmsNorm { epsilon: 1e-5, offset: false },
                            queries: (&x[2], of_heads(0, heads)),
                            keys: (&x[3], of_heads(heads * d, kv_heads)),
                        });
                        write_pages(&attention, &qkv, rope.as_ref(), &step, &cache, norms)?;
                        attend_pages(&attention, &qkv, &step, &cache)
                    })
                    .collect::<Result<Vec<Tensor>>>()
            };
            let computed = |x: &[Tensor]| x[0].dtype().into();
            let can_norm = heads <= 4 && softcap.is_none();
            if !in_fp8 {
                self.compare(&name, &shapes, |x| run(x, computed(x), false))?;
                if can_norm {
                    self.compare(&format!("{name}, heads normed"), &shapes, |x| run(x, computed(x), true))?;
                }
                continue;
            }
            // An emulator takes seconds for each: one of every way that a kernel may go is enough.
            if self.size == InputSize::Small && (heads > 8 || (width != d && d > 10)) {
                continue;
            }
            let name = format!("{name}, keys and values in FP8");
            self.compare(&name, &shapes, |x| run(x, KvFormat::Fp8, false))?;
            if can_norm {
                let first = self.found.len();
                self.compare(&format!("{name}, heads normed"), &shapes, |x| run(x, KvFormat::Fp8, true))?;
                // Squares are summed in another order: a key's number that lies in the middle of two codes may get the other one.
                self.found[first..].iter_mut().for_each(|found| found.bound = found.bound.max(1e-3));
            }
        }
        Ok(())
    }
}

/// Zeros for a sum of gradients: f32 on the device of `like`.
fn sums(like: &Tensor, shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, like.device())
}

/// Sequences of random lengths up to `most`, some after one prompt, and some of one token.
pub(super) fn ragged_batch(most: usize, seed: u64) -> PackedBatch {
    let mut state = seed;
    let mut length = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (state >> 33) as usize % most
    };
    let mut batch = PackedBatch::new();
    batch.push(&[1; 1]);
    let prompt = batch.push(&vec![1; most / 2 + length(most / 2)]);
    for most in [most / 4, most, 1] {
        batch.push_after(prompt, &vec![1; length(most)]);
    }
    batch.push(&vec![1; length(most)]);
    batch
}
