use selfplay_records::{HasKind, Kind};

use super::*;

fn read(more: Value) -> Result<AdapterConfig, ModelError> {
    let mut config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
        "base_model_name_or_path": "org/base", "peft_version": "0.21.2", "kasa_config": null, "lora_bias": false,
        "loftq_config": {}, "init_lora_weights": true, "task_type": "CAUSAL_LM", "megatron_core": "megatron.core",
    });
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    AdapterConfig::from_json(config, Path::new("a/adapter_config.json"))
}

#[test]
fn every_option_is_taken_up_or_refused_by_name() {
    let config =
        read(json!({"use_rslora": true, "layers_to_transform": 1, "layers_pattern": "layers"})).unwrap();
    assert_eq!((config.rank, config.alpha, config.rslora), (4, 8.0, true));
    assert_eq!((config.layers, config.layers_pattern), (vec![1], vec!["layers".to_owned()]));
    assert_eq!(config.base, "org/base");
    for (more, named) in [
        (json!({"peft_type": "IA3"}), "peft_type = IA3"),
        (json!({"peft_type": null}), "peft_type = none"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out"),
        (json!({"lora_bias": true}), "lora_bias = true"),
        (json!({"use_qalora": true}), "use_qalora"),
        (json!({"layer_replication": [[0, 4]]}), "layer_replication"),
        (json!({"an_option_of_tomorrow": 3}), "an_option_of_tomorrow = 3"),
        (json!({"init_lora_weights": "pissa_niter_4"}), "init_lora_weights"),
        (json!({"r": 0}), "r is 0"),
        (json!({"r": -1}), "r = -1"),
        (json!({"bias": "some"}), "bias = \"some\""),
        (json!({"lora_dropout": 1.0}), "lora_dropout"),
        (json!({"rank_pattern": {"(": 2}}), "no regular expression"),
    ] {
        let error = read(more).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains(named), "{error}");
        assert!(error.to_string().starts_with("a/adapter_config.json"), "{error}");
    }
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let config = AdapterConfig {
        rank: 3,
        alpha: 4.5,
        rank_pattern: [("down_proj".to_owned(), 8)].into(),
        alpha_pattern: [("^model.layers.0.self_attn.k_proj".to_owned(), 24.0)].into(),
        target_modules: TargetModules::Pattern(".*_proj".to_owned()),
        exclude_modules: Some(TargetModules::Names(vec!["o_proj".to_owned()])),
        layers: vec![0, 2],
        layers_pattern: vec!["layers".to_owned()],
        modules_to_save: vec!["lm_head".to_owned()],
        bias: BiasTraining::LoraOnly,
        rslora: true,
        dora: true,
        dropout: 0.05,
        base: "org/base".to_owned(),
        revision: Some("v1".to_owned()),
    };
    let written = config.to_json(&[], &config.modules_to_save, true);
    assert_eq!(AdapterConfig::from_json(written, Path::new("x")).unwrap(), config);
    let all = AdapterConfig::default().to_json(&["a.q".to_owned()], &[], true);
    assert_eq!((&all["target_modules"], &all["lora_alpha"]), (&json!(["a.q"]), &json!(16)));
}

#[test]
fn a_scale_stays_when_the_rank_is_doubled() {
    for rslora in [false, true] {
        let config = AdapterConfig { rank: 6, alpha: 5.0, rslora, ..AdapterConfig::default() };
        let doubled = config.doubled();
        assert_eq!(doubled.rank, 12);
        let (before, after) = (config.scale(6, config.alpha), doubled.scale(12, doubled.alpha));
        assert!((before - after).abs() < 1e-15, "{before} {after}");
        assert_eq!(doubled.halved().rank, 6);
    }
}
