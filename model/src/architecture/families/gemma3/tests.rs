use std::path::Path;

use super::super::testing::{config, layer_names, read, round_trip, try_read};
use super::*;
use crate::architecture::{Activation, Rope};

fn local(window: usize) -> Value {
    json!({"head_dim": 16, "sliding_window": window, "num_hidden_layers": 7})
}

fn with(mut keys: Value, more: Value) -> Value {
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    keys
}

fn rope(theta: f64, scaling: RopeScaling) -> Option<Rope> {
    Some(Rope { theta, width: 16, scaling })
}

/// Six layers as the pattern has them, and the first of the next six.
fn by_pattern<T: Clone>(sliding: T, full: T) -> Vec<T> {
    let mut all = vec![sliding; 7];
    all[5] = full;
    all
}

#[test]
fn as_transformers_4_and_5_write_it() {
    let four = read(
        "gemma3_text",
        with(
            local(8),
            json!({"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": null,
                "query_pre_attn_scalar": 64, "sliding_window_pattern": 6, "attn_logit_softcapping": null,
                "final_logit_softcapping": null, "hidden_activation": "gelu_pytorch_tanh"}),
        ),
    );
    let types = by_pattern("sliding_attention", "full_attention");
    let five = read(
        "gemma3_text",
        with(
            local(8),
            json!({"query_pre_attn_scalar": 64, "layer_types": types, "_sliding_window_pattern": 6, "rope_parameters": {
                "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}}),
        ),
    );
    assert_eq!(four, five);
    let (sliding, full) = (rope(1e4, RopeScaling::None), rope(1e6, RopeScaling::None));
    assert_eq!(four.ropes, by_pattern(sliding, full));
    assert_eq!(four.windows, by_pattern(Some(8), None));
    assert_eq!((four.attention_scale, four.attention_softcap, four.final_softcap), (0.125, None, None));
    assert_eq!((four.activation, four.embedding_scale), (Activation::GeluTanh, Some(8.0)));
    assert_eq!(four.qk_norm, Some(QkNorm::PerHead));
    assert!(four.norm_offset && four.post_norms && four.tie_embeddings);
    let written = round_trip(&four);
    assert_eq!((&written["rope_theta"], &written["rope_local_base_freq"]), (&json!(1e6), &json!(1e4)));
}

#[test]
fn absent_keys_have_the_class_s_defaults() {
    let arch = read("gemma3_text", json!({"num_hidden_layers": 6}));
    assert_eq!((arch.head_dim, arch.max_positions), (256, 131_072));
    assert_eq!(arch.attention_scale, 1.0 / 16.0);
    assert_eq!(arch.windows, [vec![Some(4096); 5], vec![None]].concat());
    assert_eq!(arch.ropes[0].as_ref().unwrap().theta, 1e4);
    assert_eq!(arch.ropes[5].as_ref().unwrap().theta, 1e6);
    // What the published multimodal files leave out.
    let mut short = config("gemma3_text", json!({}));
    for key in ["vocab_size", "num_attention_heads", "num_key_value_heads"] {
        short.as_object_mut().unwrap().remove(key);
    }
    let arch = Architecture::from_json(&short, Path::new("config.json")).unwrap();
    assert_eq!((arch.vocab_size, arch.num_heads, arch.num_kv_heads), (262_208, 8, 4));
}

#[test]
fn scaling_is_of_the_full_layers() {
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    let four = read("gemma3_text", with(local(8), json!({"rope_scaling": linear})));
    let (sliding, full) = (rope(1e4, RopeScaling::None), rope(1e6, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!(four.ropes, by_pattern(sliding, full));
    let nested = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6});
    let five = json!({"rope_parameters": {"full_attention": nested}});
    assert_eq!(read("gemma3_text", with(local(8), five)), four);
    round_trip(&four);
    // Only transformers 5 can say this.
    let other = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 30.0});
    let both = json!({"rope_parameters": {"full_attention": nested, "sliding_attention": other}});
    let both = read("gemma3_text", with(local(8), both));
    assert_eq!(both.ropes[0], rope(30.0, RopeScaling::Linear { factor: 2.0 }));
    round_trip(&both);
}

#[test]
fn which_layers_slide() {
    let windows = |more: Value| {
        let arch = read("gemma3_text", with(json!({"head_dim": 16, "sliding_window": 8}), more));
        round_trip(&arch);
        arch.windows
    };
    assert_eq!(windows(json!({})), [Some(8); 3]);
    assert_eq!(windows(json!({"sliding_window_pattern": 2})), [Some(8), None, Some(8)]);
    assert_eq!(windows(json!({"_sliding_window_pattern": 1})), [None; 3]);
    let types = json!({"layer_types": ["full_attention", "sliding_attention", "full_attention"]});
    assert_eq!(windows(types), [None, Some(8), None]);
    let text = try_read("gemma3_text", json!({"sliding_window": null})).unwrap_err().to_string();
    assert!(text.contains("`sliding_window` is not set"), "{text}");
    let none = json!({"sliding_window": null, "sliding_window_pattern": 1});
    round_trip(&read("gemma3_text", none));
}

#[test]
fn names_of_the_norms() {
    let names = layer_names(&read("gemma3_text", local(8)), 1);
    let norms: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.contains("norm")).collect();
    let want = [
        "input_layernorm.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "post_attention_layernorm.weight",
        "pre_feedforward_layernorm.weight",
        "post_feedforward_layernorm.weight",
    ];
    assert_eq!(norms, want);
}

#[test]
fn a_multimodal_model_is_its_language_model() {
    let text = config("gemma3_text", local(8));
    let want = Architecture::from_json(
        &with(text.clone(), json!({"eos_token_id": [1, 106], "bos_token_id": 2})),
        Path::new("config.json"),
    )
    .unwrap();
    let whole = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": text, "vision_config": {"hidden_size": 9}, "eos_token_id": [1, 106], "bos_token_id": 2});
    let got = Architecture::from_json(&whole, Path::new("config.json")).unwrap();
    assert_eq!(got, want);
    assert_eq!(got.to_json()["model_type"], "gemma3_text");

    let refusal =
        |whole: Value| Architecture::from_json(&whole, Path::new("config.json")).unwrap_err().to_string();
    assert!(refusal(json!({"model_type": "gemma3"})).contains("`text_config`"));
    let wrong = json!({"model_type": "gemma3", "text_config": with(text.clone(), json!({"hidden_size": 0}))});
    assert!(refusal(wrong).contains("`text_config.hidden_size`"));
    let quantised = json!({"model_type": "gemma3", "text_config": text, "quantization_config": {"bits": 4}});
    assert!(refusal(quantised).contains("quantised"));
}
