//! The block-wise pass on a GPU: `rmsprop_8bit` and `adamw_8bit` of model/src/gpu/cuda/optimizer.cu, a thread for each number.

use candle_core::{DType, Device, Result, Tensor, bail};
use selfplay_model::gpu::{Argument, Gpu, pointer, pointer_or_null};

use super::{BLOCK, Code, CodedStates};
use crate::optimizer::{Rule, StepScalars};

/// What codes mean and where they change, on the device: levels, then limits, f32 \[512].
#[derive(Clone)]
pub(in crate::optimizer) struct CodeTables {
    signed: Tensor,
    unsigned: Tensor,
}

impl CodeTables {
    /// Both tables on `device`.
    ///
    /// # Errors
    /// Out of memory there.
    pub fn on(device: &Device) -> Result<Self> {
        let table = |code: &Code| Tensor::from_vec([code.levels, code.limits].concat(), 512, device);
        Ok(Self { signed: table(Code::signed())?, unsigned: table(Code::unsigned())? })
    }
}

/// One parameter's weight with what its step reads and writes.
#[derive(Clone, Copy)]
pub(in crate::optimizer) struct Place<'a> {
    /// f32.
    pub weight: &'a Tensor,
    /// Its rounded copy, written in the same pass.
    pub copy: Option<&'a Tensor>,
    /// f32.
    pub gradient: &'a Tensor,
}

/// One parameter's step.
pub(in crate::optimizer) fn step(
    gpu: &Gpu,
    rule: &Rule,
    scalars: StepScalars,
    place: Place<'_>,
    states: &CodedStates,
    tables: &CodeTables,
) -> Result<()> {
    let Place { weight, copy, gradient } = place;
    if let Some(copy) = copy.filter(|copy| copy.dtype() != DType::BF16) {
        bail!("a GPU's optimizer keeps copies in bf16, not {:?}", copy.dtype())
    }
    let n = weight.elem_count();
    let mut arguments = vec![pointer(weight)?, pointer_or_null(copy)?, pointer(gradient)?];
    let first = [pointer(&states.first.codes)?, pointer(&states.first.magnitudes)?, pointer(&tables.signed)?];
    arguments.extend(first);
    let kernel = match (rule, &states.second) {
        (Rule::RmsProp(rule), None) => {
            arguments.push(Argument::I64(n as i64));
            arguments.extend(rule.update(scalars).numbers().map(Argument::F32));
            "rmsprop_8bit"
        }
        (Rule::AdamW(rule), Some(second)) => {
            arguments.extend([
                pointer(&second.codes)?,
                pointer(&second.magnitudes)?,
                pointer(&tables.unsigned)?,
                Argument::I64(n as i64),
            ]);
            arguments.extend(rule.update(scalars).numbers().map(Argument::F32));
            "adamw_8bit"
        }
        _ => bail!("an optimizer of eight bits has another number of states"),
    };
    gpu.launch_single(kernel, [n.div_ceil(BLOCK), 1, 1], BLOCK, 0, &arguments)
}
