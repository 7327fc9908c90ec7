//! Phi-3, Phi-3.5 and Phi-4 (dense): Llama's form with queries, keys and values in one matrix and gate and up in another, a
//! part of each head that may be left unrotated, and LongRoPE.

use serde_json::json;

use super::family::Family;
use crate::architecture::Architecture;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::{Fields, MOST_POSITIONS};
use crate::architecture::layout::{self, LayerModules, LayerNames, ModuleSpec};
use crate::error::ModelError;

pub(super) const PHI3: Family = Family {
    model_type: "phi3",
    multimodal: None,
    class: "Phi3ForCausalLM",
    defaults: Defaults {
        max_positions: 4096,
        rms_norm_eps: 1e-5,
        partial_rotary: true,
        longrope_original: Some(4096),
        ..Defaults::LLAMA
    },
    read,
    write: |_, _| {},
    modules: |a| layout::modules(a, fused),
    exercise: |window| json!({"sliding_window": window, "partial_rotary_factor": 0.75}),
};

fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    // No window where the key is absent, unlike Mistral. `attention_bias` is written and means nothing.
    a.windows = vec![fields.count("sliding_window", MOST_POSITIONS)?; a.num_layers];
    Ok(())
}

/// Llama's layer with all that reads the same input in one matrix: queries, keys, values; gate, up.
pub(super) fn fused(a: &Architecture, names: &LayerNames) -> LayerModules {
    let layer = layout::layer(a, names);
    let joined = |part, modules: &[ModuleSpec]| {
        let outputs = modules.iter().map(|module| module.outputs).sum();
        vec![names.module(part, outputs, a.hidden_size, modules.iter().any(|module| module.bias))]
    };
    LayerModules {
        qkv: joined("self_attn.qkv_proj", &layer.qkv),
        gate_up: joined("mlp.gate_up_proj", &layer.gate_up),
        ..layer
    }
}

#[cfg(test)]
mod tests;
