//! Weights of a fresh model.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use selfplay_records::counter::{key, number};

use crate::architecture::{Architecture, ParameterKind, TensorSpec};
use crate::error::ModelError;
use crate::gpu::{Argument, Gpu, pointer};
use crate::ops::elementwise::{STREAM_THREADS, stream_blocks};

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
pub(crate) fn normal(key: u64, index: u64) -> f32 {
    let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let radius = (-2.0 * unit(number(key, 2 * index)).ln()).sqrt();
    let angle = std::f64::consts::TAU * unit(number(key, 2 * index + 1));
    (radius * angle.cos()) as f32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Models of earlier runs started from these: computed apart from this code, from the definition above.
    #[test]
    fn fresh_weights_are_fixed() {
        let config = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1});
        let arch = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        let spec = TensorSpec {
            name: "model.norm.x.weight".to_owned(),
            shape: vec![2, 2],
            kind: ParameterKind::Matrix,
        };
        let fresh = random_tensor(&spec, &arch, 7, DType::F32, &Device::Cpu).unwrap();
        let bits: Vec<u32> =
            fresh.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
        assert_eq!(bits, [0xbc57_8f57, 0xbcc0_26e7, 0x3cb7_41ed, 0x3ba1_13fe], "{bits:x?}");
    }
}
