//! Qwen 2 and 2.5 (bias on queries, keys and values) and Qwen 3, dense (queries and keys normalised per head).

use serde_json::{Map, Value, json};

use super::family::Family;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::layer_types;
use crate::architecture::{Architecture, QkNorm, layout};
use crate::error::ModelError;

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    multimodal: None,
    class: "Qwen2ForCausalLM",
    defaults: Defaults { kv_heads: Some(32), max_positions: 32_768, ..Defaults::LLAMA },
    read: read_2,
    write,
    modules: |a| layout::modules(a, layout::layer),
    exercise: |_| json!({"use_sliding_window": false}),
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    read: read_3,
    exercise: |_| json!({"attention_bias": true, "use_sliding_window": false}),
    ..QWEN2
};

fn read_2(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    a.qkv_bias = true;
    a.windows = windows(fields, a.num_layers)?;
    Ok(())
}

fn read_3(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    let bias = fields.flag("attention_bias", false)?;
    (a.qkv_bias, a.output_bias) = (bias, bias);
    a.qk_norm = Some(QkNorm::PerHead);
    a.windows = windows(fields, a.num_layers)?;
    Ok(())
}

fn windows(fields: &Fields, num_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let window = if fields.flag("use_sliding_window", false)? { layer_types::window(fields)? } else { None };
    let first = match fields.get("max_window_layers").and_then(Value::as_u64) {
        // 0 is a meaning here: every layer has the window.
        Some(first) => first as usize,
        None => fields.count("max_window_layers", usize::MAX)?.unwrap_or(28),
    };
    layer_types::windows_by_layer(fields, window, num_layers, |layer| layer >= first)
}

fn write(a: &Architecture, config: &mut Map<String, Value>) {
    let any = a.windows.iter().any(Option::is_some);
    config.insert("use_sliding_window".to_owned(), Value::from(any));
    config.insert("layer_types".to_owned(), layer_types::write(a));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layer_names, read, round_trip};
    use super::*;

    #[test]
    fn windows_start_at_a_layer_or_are_named_for_each() {
        let windows = |more: Value| {
            let mut keys = json!({"sliding_window": 8, "use_sliding_window": true});
            keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let arch = read("qwen2", keys);
            round_trip(&arch);
            arch.windows
        };
        assert_eq!(windows(json!({"max_window_layers": 1})), vec![None, Some(8), Some(8)]);
        assert_eq!(windows(json!({"max_window_layers": 0})), vec![Some(8); 3]);
        assert_eq!(windows(json!({})), vec![None; 3]);
        let off = json!({"use_sliding_window": false, "max_window_layers": 0});
        assert_eq!(windows(off), vec![None; 3]);
        let types = json!({"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]});
        assert_eq!(windows(types), vec![Some(8), None, Some(8)]);
    }

    #[test]
    fn qwen_2_has_three_biases_whatever_the_keys_say() {
        let arch = read("qwen2", json!({"attention_bias": false}));
        let biases: Vec<String> =
            layer_names(&arch, 0).into_iter().filter(|name| name.ends_with(".bias")).collect();
        assert_eq!(biases, ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]);
        round_trip(&arch);
    }

    #[test]
    fn qwen_3_normalises_heads_and_has_biases_where_the_key_says_so() {
        let arch = read("qwen3", json!({}));
        assert_eq!(arch.head_dim, 128);
        let names = layer_names(&arch, 2);
        let at = |name: &str| names.iter().position(|have| have == name).unwrap();
        assert_eq!(at("self_attn.q_norm.weight"), at("self_attn.v_proj.weight") + 1);
        assert_eq!(at("self_attn.k_norm.weight"), at("self_attn.o_proj.weight") - 1);
        assert!(names.iter().all(|name| !name.ends_with(".bias")));
        let biased = read("qwen3", json!({"attention_bias": true, "head_dim": 32}));
        assert_eq!(layer_names(&biased, 0).iter().filter(|name| name.ends_with(".bias")).count(), 4);
        round_trip(&biased);
    }
}
