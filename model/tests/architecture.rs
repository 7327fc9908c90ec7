//! config.json, as transformers 4 and 5 write it, read into an [`Architecture`]; and what is refused.

use std::path::Path;

use proptest::prelude::*;
use selfplay_model::ModelError;
use selfplay_model::architecture::{Architecture, ParameterKind, RopeScaling};
use selfplay_records::{HasKind, Kind};
use selfplay_testing::decoder::extend;
use selfplay_testing::refusal::refusal_at;
use serde_json::{Value, json};

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_theta": 500000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": [2, 7],
        "tie_word_embeddings": false,
    })
}

fn with(mut config: Value, changes: Value) -> Value {
    extend(&mut config, changes);
    config
}

fn without(mut config: Value, key: &str) -> Value {
    config.as_object_mut().unwrap().remove(key);
    config
}

fn read(config: &Value) -> Result<Architecture, ModelError> {
    Architecture::from_json(config, Path::new("m/config.json"))
}

/// The message of the refusal; fails the test where the configuration is taken.
fn refusal(changes: Value) -> String {
    refusal_at("m/config.json", read(&with(llama(), changes)))
}

#[test]
fn transformers_5_says_the_same_in_other_keys() {
    let four = with(
        llama(),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    );
    let five = with(
        without(without(four.clone(), "rope_scaling"), "rope_theta"),
        json!({"dtype": "bfloat16", "rope_parameters": {"rope_type": "llama3", "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
               "rope_theta": 500000.0}}),
    );
    let arch = read(&four).unwrap();
    assert_eq!(arch, read(&without(five, "torch_dtype")).unwrap());
    assert_eq!(
        arch.rope().unwrap().scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 64
        }
    );
}

#[test]
fn nested_rope_parameters_are_taken_when_equal_and_refused_when_not() {
    let plain = json!({"rope_type": "default", "rope_theta": 7.0});
    let equal = json!({"full_attention": plain, "sliding_attention": plain});
    let arch = read(&with(without(llama(), "rope_theta"), json!({"rope_parameters": equal}))).unwrap();
    assert_eq!(arch.rope().unwrap().theta, 7.0);
    let other =
        json!({"full_attention": plain, "sliding_attention": {"rope_type": "default", "rope_theta": 8.0}});
    assert!(refusal(json!({"rope_parameters": other})).contains("differ between the layer types"));
}

#[test]
fn tensors_by_family() {
    let names = |changes| -> Vec<String> {
        read(&with(llama(), changes)).unwrap().tensors().into_iter().map(|spec| spec.name).collect()
    };
    let plain = names(json!({}));
    assert_eq!(plain.len(), 1 + 2 * 9 + 2);
    assert_eq!(plain.last().unwrap(), "lm_head.weight");
    let biased = |names: &[String]| names.iter().filter(|name| name.ends_with(".bias")).count();
    assert_eq!(biased(&names(json!({"model_type": "qwen2"}))), 2 * 3);
    assert_eq!(biased(&names(json!({"attention_bias": true}))), 2 * 4);
    assert_eq!(biased(&names(json!({"mlp_bias": true}))), 2 * 3);
    assert!(
        names(json!({"model_type": "qwen3"})).contains(&"model.layers.1.self_attn.k_norm.weight".to_owned())
    );
    assert!(!names(json!({"tie_word_embeddings": true})).contains(&"lm_head.weight".to_owned()));
    let arch = read(&llama()).unwrap();
    let key =
        arch.tensors().into_iter().find(|spec| spec.name.ends_with("0.self_attn.k_proj.weight")).unwrap();
    assert_eq!((key.shape, key.kind), (vec![32, 64], ParameterKind::Matrix));
}

#[test]
fn what_is_not_supported_is_named() {
    let text = refusal(json!({"model_type": "mixtral"}));
    assert!(
        text.contains("mixtral")
            && text.contains("llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, gemma3, phi3"),
        "{text}"
    );
    for kind in ["yarn", "longrope", "dynamic"] {
        let text = refusal(json!({"rope_scaling": {"type": kind, "factor": 2.0}}));
        assert!(text.contains(kind) && text.contains("llama3"), "{text}");
    }
    assert!(refusal(json!({"quantization_config": {"bits": 4}})).contains("quantised"));
    assert!(refusal(json!({"num_experts": 8})).contains("mixture of experts"));
    assert!(refusal(json!({"kv_lora_rank": 512})).contains("latent attention"));
    for name in ["mixtral", "deepseek_v3", "phimoe", "phi", "gemma3n", "olmo", "olmo3", "qwen3_moe", "smollm"]
    {
        let text = refusal(json!({"model_type": name}));
        assert!(text.contains(&format!("\"{name}\"")) && text.contains("smollm3"), "{text}");
    }
}

#[test]
fn numbers_that_cannot_be() {
    for (key, value) in [
        ("vocab_size", json!(0)),
        ("hidden_size", json!(-64)),
        ("num_hidden_layers", json!("two")),
        ("num_attention_heads", json!(1e18)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
        ("rms_norm_eps", json!(0)),
        ("rope_theta", json!(-1)),
        ("intermediate_size", json!(2.5)),
        ("eos_token_id", json!(-1)),
        ("tie_word_embeddings", json!("yes")),
    ] {
        let text = refusal(json!({key: value}));
        assert!(text.contains(&format!("`{key}`")), "{key}: {text}");
    }
    let error = read(&without(llama(), "hidden_size")).unwrap_err().to_string();
    assert!(error.contains("`hidden_size` is missing"), "{error}");
}

#[test]
fn folders_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let absent = Architecture::load(&folder.path().join("no")).unwrap_err();
    assert!(absent.kind() == Kind::Input && absent.to_string().contains("no such folder"));
    let empty = Architecture::load(folder.path()).unwrap_err();
    assert!(empty.kind() == Kind::Input && empty.to_string().contains("config.json"), "{empty}");
    selfplay_records::atomic::write_bytes(&folder.path().join("config.json"), b"{\"model_type\": ").unwrap();
    assert!(Architecture::load(folder.path()).unwrap_err().to_string().contains("not valid JSON"));
}

#[test]
fn a_written_configuration_reads_as_the_same_architecture() {
    for changes in [
        json!({}),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
        json!({"model_type": "mistral", "sliding_window": 8}),
        json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}),
        json!({"model_type": "qwen3", "head_dim": 32, "attention_bias": true}),
        json!({"model_type": "gemma", "hidden_act": "gelu"}),
        json!({"model_type": "gemma2", "query_pre_attn_scalar": 24, "sliding_window": 8}),
        json!({"model_type": "gemma3_text", "query_pre_attn_scalar": 24, "sliding_window": 8}),
        json!({"model_type": "phi3", "partial_rotary_factor": 0.5}),
        json!({"model_type": "olmo2", "attention_bias": true}),
        json!({"model_type": "smollm3", "no_rope_layers": [0, 1]}),
    ] {
        let mut arch = read(&with(llama(), changes)).unwrap();
        arch.stored_dtype = None;
        let again = read(&arch.to_json()).unwrap();
        assert!((again.attention_scale - arch.attention_scale).abs() < 1e-12);
        assert_eq!(Architecture { attention_scale: arch.attention_scale, ..again }, arch);
    }
}

proptest! {
    #[test]
    fn no_value_of_any_key_panics(
        key in prop::sample::select(vec![
            "model_type", "vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
            "rope_scaling", "rope_parameters", "rope_theta", "sliding_window", "layer_types", "eos_token_id",
            "max_window_layers", "torch_dtype", "hidden_act", "rms_norm_eps", "partial_rotary_factor", "text_config",
            "no_rope_layers", "no_rope_layer_interval", "sliding_window_pattern", "rope_local_base_freq",
            "original_max_position_embeddings", "query_pre_attn_scalar",
        ]),
        family in prop::sample::select(vec![
            "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3", "phi3", "olmo2", "smollm3",
        ]),
        value in prop_oneof![
            Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!("")), any::<i64>().prop_map(|x| json!(x)),
            any::<f64>().prop_map(|x| json!(x)), any::<u64>().prop_map(|x| json!([x, "a"])),
            Just(json!({"rope_type": "llama3"})), Just(json!({"full_attention": {}})),
            Just(json!({"type": "longrope", "short_factor": [1], "long_factor": [1]})),
            Just(json!({"full_attention": {"rope_type": "longrope"}, "sliding_attention": 3})),
        ],
    ) {
        let config = with(with(llama(), json!({"model_type": family, "use_sliding_window": true})), json!({key: value}));
        if let Ok(arch) = read(&config) {
            prop_assert_eq!(arch.windows.len(), arch.num_layers);
            prop_assert_eq!(arch.ropes.len(), arch.num_layers);
            prop_assert_eq!(arch.num_heads % arch.num_kv_heads, 0);
            prop_assert!(arch.parameter_count() > 0);
        }
    }
}
