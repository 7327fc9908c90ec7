//! SmolLM 3: Llama's form without rotary embedding on some layers (every fourth), which alone have a window where there is one.

use serde_json::{Map, Value, json};

use super::family::Family;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::{Fields, MOST_POSITIONS, shorten};
use crate::architecture::layer_types::{self, LayerType};
use crate::architecture::{Architecture, layout};
use crate::error::ModelError;

pub(super) const SMOLLM3: Family = Family {
    model_type: "smollm3",
    multimodal: None,
    class: "SmolLM3ForCausalLM",
    defaults: Defaults {
        kv_heads: Some(4),
        max_positions: 32_768,
        rope_theta: 2_000_000.0,
        tie_embeddings: true,
        ..Defaults::LLAMA
    },
    read,
    write,
    modules: |a| layout::modules(a, layout::layer),
    // Without rotation a key's bias is without effect, and its gradient nothing but rounding.
    exercise: |window| {
        json!({"mlp_bias": true, "no_rope_layer_interval": 2, "use_sliding_window": true,
            "sliding_window": window})
    },
};

fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    let bias = fields.flag("attention_bias", false)?;
    (a.qkv_bias, a.output_bias) = (bias, bias);
    a.mlp_bias = fields.flag("mlp_bias", false)?;
    let rotates = rotating_layers(fields, a.num_layers)?;
    let window = fields.count("sliding_window", MOST_POSITIONS)?;
    let has_window = fields.flag("use_sliding_window", false)? && window.is_some();
    let types = layer_types::read(fields, a.num_layers, |layer| has_window && !rotates[layer])?;
    layer_types::need_window(fields, window, &types)?;
    a.windows = types.into_iter().map(|kind| window.filter(|_| kind == LayerType::Sliding)).collect();
    for (rope, rotates) in a.ropes.iter_mut().zip(rotates) {
        if !rotates {
            *rope = None;
        }
    }
    Ok(())
}

/// Which layers rotate: those with a 1 in `no_rope_layers`, as transformers has it; without it all but each
/// `no_rope_layer_interval`-th.
fn rotating_layers(fields: &Fields, num_layers: usize) -> Result<Vec<bool>, ModelError> {
    let key = "no_rope_layers";
    let Some(value) = fields.get(key) else {
        let interval = fields.count("no_rope_layer_interval", usize::MAX)?.unwrap_or(4);
        return Ok((0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    let rotates = |value: &Value| match value {
        Value::Bool(rotates) => Some(*rotates),
        value => value.as_u64().map(|number| number != 0),
    };
    let all = value.as_array().and_then(|values| values.iter().map(rotates).collect::<Option<Vec<_>>>());
    // It may be longer than the model.
    all.filter(|all| all.len() >= num_layers).map(|mut all| {
        all.truncate(num_layers);
        all
    }).ok_or_else(|| {
        let want = format!("it must be a list of {num_layers} numbers, 1 for a layer that rotates and 0 for one that does not");
        fields.wrong(key, &format!("is {}", shorten(value)), &want)
    })
}

fn write(a: &Architecture, config: &mut Map<String, Value>) {
    let rotates: Vec<u8> = a.ropes.iter().map(|rope| u8::from(rope.is_some())).collect();
    config.insert("no_rope_layers".to_owned(), json!(rotates));
    config.insert("use_sliding_window".to_owned(), json!(a.windows.iter().any(Option::is_some)));
    config.insert("layer_types".to_owned(), layer_types::write(a));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layer_names, read, round_trip, try_read};
    use super::*;

    fn rotates(arch: &Architecture) -> Vec<bool> {
        arch.ropes.iter().map(Option::is_some).collect()
    }

    #[test]
    fn every_fourth_layer_has_no_rotation_unless_a_list_says_which() {
        let layers = |more: Value| {
            let mut keys = json!({"num_hidden_layers": 5});
            keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let arch = read("smollm3", keys);
            round_trip(&arch);
            rotates(&arch)
        };
        assert_eq!(layers(json!({})), [true, true, true, false, true]);
        assert_eq!(layers(json!({"no_rope_layers": null})), [true, true, true, false, true]);
        assert_eq!(layers(json!({"no_rope_layer_interval": 2})), [true, false, true, false, true]);
        let list = json!({"no_rope_layers": [0, 1, 1, 1, 0, 1, 1], "no_rope_layer_interval": 2});
        assert_eq!(layers(list), [false, true, true, true, false]);
        assert!(!layers(json!({"no_rope_layers": [true, false, true, true, true]}))[1]);
        for wrong in [json!([1, 0]), json!([1, 1, "no", 1, 1]), json!(3), json!([-1, 1, 1, 1, 1])] {
            let keys = json!({"num_hidden_layers": 5, "no_rope_layers": wrong});
            let text = try_read("smollm3", keys).unwrap_err().to_string();
            assert!(text.contains("`no_rope_layers`") && text.contains("5 numbers"), "{text}");
        }
        let none = read("smollm3", json!({"no_rope_layers": [0, 0, 0]}));
        assert_eq!(none.rope(), None);
        round_trip(&none);
    }

    #[test]
    fn a_window_is_on_the_layers_without_rotation() {
        let windows = |more: Value| {
            let mut keys = json!({"no_rope_layer_interval": 2, "sliding_window": 8});
            keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let arch = read("smollm3", keys);
            round_trip(&arch);
            arch.windows
        };
        assert_eq!(windows(json!({"use_sliding_window": true})), [None, Some(8), None]);
        assert_eq!(windows(json!({})), [None; 3]);
        assert_eq!(windows(json!({"use_sliding_window": true, "sliding_window": null})), [None; 3]);
        let types = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]});
        assert_eq!(windows(types.clone()), [Some(8), None, None]);
        let text = try_read("smollm3", types).unwrap_err().to_string();
        assert!(text.contains("`sliding_window`"), "{text}");
    }

    #[test]
    fn as_transformers_writes_it() {
        let four = read(
            "smollm3",
            json!({"rope_theta": 5000000.0, "rope_scaling": null, "no_rope_layers": [1, 1, 0],
                "layer_types": ["full_attention", "full_attention", "full_attention"], "use_sliding_window": false,
                "sliding_window": null, "tie_word_embeddings": true, "max_position_embeddings": 4096}),
        );
        let five = read(
            "smollm3",
            json!({"rope_parameters": {"rope_theta": 5000000.0, "rope_type": "default"}, "no_rope_layers": [1, 1, 0],
                "max_position_embeddings": 4096}),
        );
        assert_eq!(four, five);
        assert_eq!(four.rope().unwrap().theta, 5000000.0);
        assert_eq!(rotates(&four), [true, true, false]);
        let plain = read("smollm3", json!({}));
        assert_eq!((plain.max_positions, plain.rope().unwrap().theta), (32_768, 2_000_000.0));
        assert!(plain.tie_embeddings);
        let biased = read("smollm3", json!({"attention_bias": true, "mlp_bias": true}));
        assert_eq!(layer_names(&biased, 0).iter().filter(|name| name.ends_with(".bias")).count(), 7);
        round_trip(&biased);
    }
}
