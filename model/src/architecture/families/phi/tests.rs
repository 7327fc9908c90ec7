use serde_json::Value;

use super::super::testing::{config, layer_names, read, round_trip, try_read};
use super::*;
use crate::architecture::{Rope, RopeScaling};

fn with(mut keys: Value, more: Value) -> Value {
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    keys
}

#[test]
fn as_transformers_4_and_5_write_it() {
    let four = read(
        "phi3",
        json!({"rope_theta": 10000.0, "rope_scaling": null, "sliding_window": 12, "attention_bias": false,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75}),
    );
    let five = read(
        "phi3",
        json!({"sliding_window": 12, "original_max_position_embeddings": 4096, "rope_parameters": {
            "partial_rotary_factor": 0.75, "rope_theta": 10000.0, "rope_type": "default"}}),
    );
    assert_eq!(four, five);
    assert_eq!(four.ropes, vec![Some(Rope { theta: 1e4, width: 12, scaling: RopeScaling::None }); 3]);
    assert_eq!(four.windows, vec![Some(12); 3]);
    round_trip(&four);
}

#[test]
fn absent_keys_have_the_class_s_defaults() {
    let mut config = config("phi3", json!({}));
    config.as_object_mut().unwrap().remove("num_key_value_heads");
    let arch = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
    assert_eq!((arch.num_kv_heads, arch.max_positions, arch.rms_norm_eps), (4, 4096, 1e-5));
    assert_eq!((arch.windows.clone(), arch.rope().unwrap().width), (vec![None; 3], 16));
    // The key is written by transformers and read by nothing.
    let biased = read("phi3", json!({"attention_bias": true}));
    assert!(layer_names(&biased, 0).iter().all(|name| !name.ends_with(".bias")));
    round_trip(&arch);
}

#[test]
fn what_reads_the_same_input_is_stored_in_one_matrix() {
    let arch = read("phi3", json!({"num_key_value_heads": 1}));
    let want = [
        "input_layernorm.weight",
        "self_attn.qkv_proj.weight",
        "self_attn.o_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.gate_up_proj.weight",
        "mlp.down_proj.weight",
    ];
    assert_eq!(layer_names(&arch, 1), want);
    let shape = |part: &str| {
        let name = format!("model.layers.1.{part}.weight");
        arch.tensors().into_iter().find(|spec| spec.name == name).unwrap().shape
    };
    // Four heads of queries, one of keys, one of values.
    assert_eq!(shape("self_attn.qkv_proj"), [(4 + 1 + 1) * 16, 64]);
    assert_eq!(shape("mlp.gate_up_proj"), [2 * 128, 64]);
}

#[test]
fn a_part_of_a_head_is_rotated() {
    let width = |share: f64, head_dim: usize| {
        let arch = try_read("phi3", json!({"partial_rotary_factor": share, "head_dim": head_dim}))?;
        round_trip(&arch);
        Ok::<_, ModelError>(arch.rope().map(|rope| rope.width).unwrap())
    };
    assert_eq!(width(0.75, 128).unwrap(), 96);
    assert_eq!(width(1.0, 96).unwrap(), 96);
    // Cut to a whole number, as transformers does.
    assert_eq!(width(0.429, 100).unwrap(), 42);
    for head_dim in [98, 196] {
        for want in (2..head_dim).step_by(2) {
            // Whatever the quotient is rounded to, the written share gives the width.
            assert_eq!(width((want as f64 + 0.1) / head_dim as f64, head_dim).unwrap(), want);
        }
    }
    for (share, head_dim) in [(0.5, 10), (1.5, 16), (0.1, 16)] {
        let text = width(share, head_dim).unwrap_err().to_string();
        assert!(text.contains("`partial_rotary_factor`"), "{share}: {text}");
    }
    assert!(try_read("phi3", json!({"partial_rotary_factor": -0.5})).is_err());
    let text = try_read("llama", json!({"partial_rotary_factor": 0.5})).unwrap_err().to_string();
    assert!(text.contains("not supported"), "{text}");
}

fn long() -> Value {
    json!({"num_hidden_layers": 1, "partial_rotary_factor": 0.5, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096, "rope_scaling": {"type": "longrope",
        "short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1, 4, 16, 64]}})
}

#[test]
fn longrope_ends_where_transformers_would_take_other_divisors() {
    let arch = read("phi3", long());
    assert_eq!(arch.max_positions, 4096);
    // √(1 + ln 32 / ln 4096)
    let factor = 1.1902380714238083;
    let RopeScaling::Long { attention_factor, short_factors, .. } = &arch.rope().unwrap().scaling else {
        panic!("not longrope")
    };
    assert!((attention_factor - factor).abs() < 1e-12, "{attention_factor}");
    assert_eq!(short_factors, &[1.0, 1.25, 1.5, 2.0]);
    let written = round_trip(&arch);
    assert_eq!(written["max_position_embeddings"], 131072);
    assert_eq!(written["original_max_position_embeddings"], 4096);
    assert_eq!(written["rope_scaling"].as_object().unwrap().len(), 3);

    // Named otherwise in early files, and within rope_parameters by transformers 5.
    let mut early = long();
    early["rope_scaling"]["type"] = json!("su");
    assert_eq!(read("phi3", early), arch);
    let mut five = long();
    let mut parameters = five.as_object_mut().unwrap().remove("rope_scaling").unwrap();
    parameters.as_object_mut().unwrap().remove("type");
    parameters = with(
        parameters,
        json!({"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 4096}),
    );
    five["rope_parameters"] = parameters;
    assert_eq!(read("phi3", five), arch);

    let mut given = long();
    given["rope_scaling"]["attention_factor"] = json!(1.5);
    let given = read("phi3", given);
    assert!(matches!(given.rope().unwrap().scaling, RopeScaling::Long { attention_factor: 1.5, .. }));
    round_trip(&given);
    // Not extended: no factor.
    let plain = read("phi3", with(long(), json!({"max_position_embeddings": 2048})));
    assert!(matches!(plain.rope().unwrap().scaling, RopeScaling::Long { attention_factor: 1.0, .. }));
    assert_eq!(plain.max_positions, 2048);
    round_trip(&plain);
}

#[test]
fn longrope_with_wrong_divisors_is_refused() {
    for (key, value) in [
        ("short_factor", json!([1.0, 2.0])),
        ("short_factor", json!([1.0, 2.0, 0.0, 3.0])),
        ("long_factor", json!(null)),
        ("long_factor", json!([1.0, 2.0, "x", 3.0])),
    ] {
        let mut keys = long();
        keys["rope_scaling"][key] = value;
        let text = try_read("phi3", keys).unwrap_err().to_string();
        assert!(text.contains(&format!("`rope_scaling.{key}`")) && text.contains("4 numbers"), "{text}");
    }
    let mut other = long();
    other["rope_scaling"]["type"] = json!("dynamic");
    let text = try_read("phi3", other).unwrap_err().to_string();
    assert!(text.contains("\"dynamic\"") && text.contains("longrope"), "{text}");
}
