//! What stands behind the GPU forms: launches of kernels and products, by addresses and numbers alone.

use candle_core::{DType, Result};

/// One argument of a kernel, by value.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// An address in the memory of the device; 0 is absent.
    Pointer(u64),
    /// `int`.
    I32(i32),
    /// `int64_t`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Its name in the sources.
    pub kernel: &'a str,
    /// Blocks in x, y, z, each at least 1.
    pub grid: [u32; 3],
    /// Threads of a block, in x.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// In the order of its parameters.
    pub arguments: &'a [Argument],
}

/// One matrix of a product: row by row at `pointer`, rows `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Its first element.
    pub pointer: u64,
    /// bf16 or f32.
    pub dtype: DType,
    /// Elements between the starts of two rows.
    pub stride: usize,
    /// The product takes its transpose.
    pub transposed: bool,
}

impl Operand {
    /// The columns from `first` on.
    #[must_use]
    pub fn columns_from(self, first: usize) -> Self {
        Self { pointer: self.pointer + (first * self.dtype.size_in_bytes()) as u64, ..self }
    }

    /// The same matrix with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// C \[m, n] ← A \[m, k] · B \[k, n], plus C itself if `accumulate`; sums in f32, rounded to C's dtype once.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Left; the dtype of `b`.
    pub a: Operand,
    /// Right.
    pub b: Operand,
    /// Out; never transposed.
    pub c: Operand,
    /// Add to C.
    pub accumulate: bool,
}

/// What runs kernels and products, one after the other in the order of the calls.
pub trait Launcher: Send + Sync {
    /// Starts a kernel.
    ///
    /// # Errors
    /// An unknown kernel, or what the device says.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Starts a product; no side is empty.
    ///
    /// # Errors
    /// What the device says.
    fn gemm(&self, gemm: &Gemm) -> Result<()>;

    /// From now on launches and products are recorded instead of started.
    ///
    /// # Errors
    /// What the device says.
    fn begin_capture(&self) -> Result<()>;

    /// What was recorded; also ends a recording that failed.
    ///
    /// # Errors
    /// What the device says.
    fn end_capture(&self) -> Result<Box<dyn Captured>>;
}

/// Launches and products that start by one call, as often as wanted, with the addresses and numbers of the recording.
pub trait Captured: Send + Sync {
    /// Starts them in their order.
    ///
    /// # Errors
    /// What the device says.
    fn replay(&self) -> Result<()>;
}

/// All kernels by name.
pub const KERNELS: &[&str] = &[
    "adamw",
    "add_bf16",
    "add_bias_bf16",
    "add_bias_f32",
    "add_f32",
    "attend_common_pages_bf16_128",
    "attend_common_pages_bf16_256",
    "attend_common_pages_bf16_64",
    "attend_common_pages_f32_128",
    "attend_common_pages_f32_256",
    "attend_common_pages_f32_64",
    "attend_pages_bf16_128",
    "attend_pages_bf16_256",
    "attend_pages_bf16_64",
    "attend_pages_f32_128",
    "attend_pages_f32_256",
    "attend_pages_f32_64",
    "attention_backward_keys_bf16_256",
    "attention_backward_keys_f32_256",
    "attention_backward_keys_values_bf16_128",
    "attention_backward_keys_values_bf16_64",
    "attention_backward_keys_values_f32_128",
    "attention_backward_keys_values_f32_64",
    "attention_backward_queries_bf16_128",
    "attention_backward_queries_bf16_256",
    "attention_backward_queries_bf16_64",
    "attention_backward_queries_f32_128",
    "attention_backward_queries_f32_256",
    "attention_backward_queries_f32_64",
    "attention_backward_values_bf16_256",
    "attention_backward_values_f32_256",
    "attention_delta_bf16",
    "attention_delta_f32",
    "attention_forward_bf16_128",
    "attention_forward_bf16_256",
    "attention_forward_bf16_64",
    "attention_forward_f32_128",
    "attention_forward_f32_256",
    "attention_forward_f32_64",
    "column_sums_bf16",
    "column_sums_f32",
    "copy_page_bf16",
    "copy_page_f32",
    "draw",
    "fixed_product_few_bf16",
    "fixed_product_few_bf16_to_f32",
    "fixed_product_few_f32",
    "fixed_product_many_bf16",
    "fixed_product_many_bf16_to_f32",
    "fixed_product_many_f32",
    "gated_unit_backward_bf16",
    "gated_unit_backward_f32",
    "gated_unit_bf16",
    "gated_unit_f32",
    "gather_rows_bf16",
    "gather_rows_f32",
    "heads_norm_backward_bf16",
    "heads_norm_backward_f32",
    "heads_norm_bf16",
    "heads_norm_f32",
    "join_parts_bf16",
    "join_parts_f32",
    "log_prob",
    "log_prob_backward_bf16",
    "log_prob_backward_f32",
    "random_normal_bf16",
    "random_normal_f32",
    "rms_norm_backward_bf16",
    "rms_norm_backward_f32",
    "rms_norm_bf16",
    "rms_norm_f32",
    "rmsprop",
    "rope_bf16",
    "rope_f32",
    "rope_pages_bf16",
    "rope_pages_f32",
    "scale_bf16",
    "scale_f32",
    "soft_cap",
    "sum_of_squares",
    "sum_partials",
    "sum_rows_bf16",
    "sum_rows_bf16_to_f32",
    "sum_rows_f32",
    "zero",
];
