//! Weights of a fresh model.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use selfplay_records::counter::{key, number};

use crate::architecture::{Architecture, ParameterKind, TensorSpec};
use crate::error::ModelError;
use crate::kernels::elementwise::{STREAM_THREADS, stream_blocks};
use crate::kernels::gpu::{Argument, Gpu, pointer};

/// A fresh tensor: matrices and embeddings normal with deviation 0.02, norms the identity, biases 0.
///
/// The numbers depend on the seed, the tensor's name and the place in it alone: not on the order of calls, the
/// device or the number of threads.
pub fn random_tensor(
    spec: &TensorSpec,
    architecture: &Architecture,
    seed: u64,
    dtype: DType,
    device: &Device,
) -> Result<Tensor, ModelError> {
    const DEVIATION: f32 = 0.02;
    let count: usize = spec.shape.iter().product();
    let key = key(seed, spec.name.bytes().map(u64::from));
    let values = match spec.kind {
        ParameterKind::Norm => vec![if architecture.norm_offset { 0.0 } else { 1.0 }; count],
        ParameterKind::Bias => vec![0.0; count],
        ParameterKind::Matrix | ParameterKind::Embedding => {
            if let Some(gpu) = Gpu::at(device)? {
                let out = gpu.unwritten(spec.shape.as_slice(), dtype)?;
                let arguments = [
                    pointer(&out)?,
                    Argument::I64(key.cast_signed()),
                    Argument::F32(DEVIATION),
                    Argument::I64(count as i64),
                ];
                gpu.launch(
                    "random_normal",
                    dtype,
                    [stream_blocks(count), 1, 1],
                    STREAM_THREADS,
                    0,
                    &arguments,
                )?;
                return Ok(out);
            }
            (0..count).into_par_iter().map(|index| DEVIATION * normal(key, index as u64)).collect()
        }
    };
    Ok(Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
}

/// A standard normal number for a place in a stream, by Box and Muller's transform.
fn normal(key: u64, index: u64) -> f32 {
    let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let radius = (-2.0 * unit(number(key, 2 * index)).ln()).sqrt();
    let angle = std::f64::consts::TAU * unit(number(key, 2 * index + 1));
    (radius * angle.cos()) as f32
}
