//! The fused pass on a GPU: `rmsprop` and `adamw` of model/src/gpu/cuda/optimizer.cu.

use candle_core::{DType, Result, Tensor, bail};
use selfplay_model::gpu::{Argument, Gpu, pointer, pointer_or_null};
use selfplay_model::ops::elementwise::{STREAM_THREADS, stream_blocks};

use super::fused::StateTensors;
use super::{Rule, StepScalars};

/// One parameter's step; `copy` is its rounded copy, written in the same pass.
pub(super) fn step(
    gpu: &Gpu,
    rule: &Rule,
    scalars: StepScalars,
    weight: &Tensor,
    copy: Option<&Tensor>,
    gradient: &Tensor,
    state: &StateTensors,
) -> Result<()> {
    if let Some(copy) = copy.filter(|copy| copy.dtype() != DType::BF16) {
        bail!("a GPU's optimizer keeps copies in bf16, not {:?}", copy.dtype())
    }
    let n = weight.elem_count();
    let [first, second, third] = state;
    let mut arguments = vec![
        pointer(weight)?,
        pointer_or_null(copy)?,
        pointer(gradient)?,
        pointer_or_null(first.as_ref())?,
        pointer_or_null(second.as_ref())?,
    ];
    let kernel = match rule {
        Rule::RmsProp(rule) => {
            arguments.extend([pointer_or_null(third.as_ref())?, Argument::I64(n as i64)]);
            arguments.extend(rule.update(scalars).numbers().map(Argument::F32));
            "rmsprop"
        }
        Rule::AdamW(rule) => {
            arguments.push(Argument::I64(n as i64));
            arguments.extend(rule.update(scalars).numbers().map(Argument::F32));
            "adamw"
        }
    };
    gpu.launch_single(kernel, [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments)
}
