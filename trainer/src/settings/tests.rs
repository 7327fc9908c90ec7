//! Defaults, names, and what `validate` finds.

use selfplay_model::adapter::{AdapterConfig, TargetModules};

use super::*;
use crate::loss::LossKey;

fn keys(settings: &TrainSettings) -> Vec<String> {
    settings.validate().list.into_iter().map(|problem| problem.key).collect()
}

#[test]
fn defaults_are_the_contracts_and_valid() {
    let settings: TrainSettings = serde_json::from_str("{}").unwrap();
    assert_eq!(settings, TrainSettings::default());
    assert!(settings.validate().is_empty());
    let text = serde_json::to_string(&settings).unwrap();
    assert!(text.contains(r#""loss":"gpo""#) && text.contains(r#""target_clamp":"off""#), "{text}");
    assert_eq!(serde_json::from_str::<TrainSettings>(&text).unwrap(), settings);
}

#[test]
fn every_loss_goes_by_its_name() {
    for kind in LossKind::ALL {
        let json = format!("\"{kind}\"");
        assert_eq!(serde_json::from_str::<LossKind>(&json).unwrap(), kind);
        assert_eq!(serde_json::to_string(&kind).unwrap(), json);
    }
    let error = serde_json::from_str::<TrainSettings>(r#"{"loss": "spo"}"#).unwrap_err().to_string();
    assert!(error.contains("spo") && error.contains("kto-pair"), "{error}");
    let both: (OptimizerKind, OptimizerKind) = serde_json::from_str(r#"["rmsprop", "adamw"]"#).unwrap();
    assert_eq!(both, (OptimizerKind::RmsProp, OptimizerKind::AdamW));
}

#[test]
fn off_and_integers_are_read() {
    let json = r#"{"target_clamp": 1000, "max_steps": 7, "beta": 2, "lora": {"rank": 8}}"#;
    let settings: TrainSettings = serde_json::from_str(json).unwrap();
    assert_eq!((settings.target_clamp, settings.max_steps, settings.beta), (Some(1000.0), Some(7), 2.0));
    let off: TrainSettings = serde_json::from_str(r#"{"target_clamp": "off", "max_steps": "off"}"#).unwrap();
    assert_eq!(off, TrainSettings::default());
    let error = serde_json::from_str::<TrainSettings>(r#"{"max_steps": "of"}"#).unwrap_err().to_string();
    assert!(error.contains("off"), "{error}");
    assert!(serde_json::from_str::<TrainSettings>(r#"{"max_steps": -1}"#).is_err());
    assert!(serde_json::from_str::<TrainSettings>(r#"{"betta": 1}"#).is_err());
}

#[test]
fn all_problems_are_listed_at_once() {
    let wrong = TrainSettings {
        beta: 0.0,
        label_smoothing: 0.5,
        learning_rate: f64::NAN,
        momentum: 1.0,
        batch_size: 0,
        epochs: 0,
        max_prompt_length: 0,
        ..TrainSettings::default()
    };
    let want = [
        "beta",
        "label_smoothing",
        "label_smoothing",
        "momentum",
        "learning_rate",
        "epochs",
        "batch_size",
        "max_prompt_length",
    ];
    assert_eq!(keys(&wrong), want);
}

#[test]
fn keys_that_a_loss_would_ignore_are_problems() {
    let hinge = TrainSettings {
        loss: LossKind::Hinge,
        label_smoothing: 0.1,
        target_clamp: Some(10.0),
        ..TrainSettings::default()
    };
    assert_eq!(keys(&hinge), ["target_clamp", "label_smoothing"]);
    let orpo = TrainSettings { loss: LossKind::Orpo, sft_weight: 0.1, ..TrainSettings::default() };
    assert_eq!(keys(&orpo), ["sft_weight"]);
    let short = TrainSettings { epochs: 2, schedule_epochs: Some(1), ..TrainSettings::default() };
    assert_eq!(keys(&short), ["schedule_epochs"]);
}

#[test]
fn the_keys_of_inpo_are_bounded_and_its_own() {
    let with = |text: &str| keys(&serde_json::from_str(text).unwrap());
    assert!(with(r#"{"loss": "inpo"}"#).is_empty());
    assert!(
        with(r#"{"loss": "inpo", "eta": 0.05, "rho": 1, "history": 2, "history_weights": [2, 1]}"#)
            .is_empty()
    );
    assert_eq!(with(r#"{"loss": "inpo", "eta": 0, "rho": 1.5, "history": 0}"#), ["eta", "rho", "history"]);
    assert_eq!(with(r#"{"loss": "inpo", "eta": -1, "rho": -0.1}"#), ["eta", "rho"]);
    for weights in ["[1]", "[1, 0]", "[1, -1]", "[1, 1, 1]", "[]"] {
        let text = format!(r#"{{"loss": "inpo", "history": 2, "history_weights": {weights}}}"#);
        assert_eq!(with(&text), ["history_weights"], "{weights}");
    }
    assert_eq!(
        with(r#"{"loss": "dpo", "eta": 0.1, "rho": 0.5, "history": 1, "history_weights": [1]}"#),
        ["eta", "rho", "history", "history_weights"]
    );
    for loss in ["simpo", "orpo"] {
        assert_eq!(with(&format!(r#"{{"loss": "{loss}", "reference": "initial"}}"#)), ["reference"]);
        assert!(with(&format!(r#"{{"loss": "{loss}", "reference": "previous"}}"#)).is_empty());
    }
    for text in [r#"{"reference": "every-0"}"#, r#"{"reference": "first"}"#, r#"{"reference": 2}"#] {
        assert!(serde_json::from_str::<TrainSettings>(text).is_err(), "{text}");
    }
    let every: TrainSettings = serde_json::from_str(r#"{"reference": "every-12"}"#).unwrap();
    assert_eq!(every.reference, ReferenceRule::Every(12));
}

#[test]
fn smoothing_is_for_the_losses_that_smooth() {
    for loss in LossKind::ALL {
        let found = keys(&TrainSettings { loss, label_smoothing: 0.2, ..TrainSettings::default() });
        let smooths = ["dpo", "dpo-norm", "robust", "exo-pair"].contains(&loss.name());
        assert_eq!(found.is_empty(), smooths, "{loss}: {found:?}");
    }
    let half = TrainSettings { loss: LossKind::Robust, label_smoothing: 0.5, ..TrainSettings::default() };
    assert_eq!(keys(&half), ["label_smoothing"]);
    assert_eq!(LossKind::readers(LossKey::LabelSmoothing), "dpo, robust, exo-pair and dpo-norm");
    assert_eq!(LossKind::readers(LossKey::Inpo), "inpo");
}

/// An adapter's lists are sets, and a preference model's has its heads besides.
#[test]
fn an_adapter_goes_on_whatever_the_order_of_its_modules() {
    let asked: LoraSettings = serde_json::from_str(
        r#"{"target_modules": ["v_proj", "q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}"#,
    )
    .unwrap();
    let found = |saved: &[&str]| AdapterConfig {
        target_modules: TargetModules::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]),
        modules_to_save: saved.iter().map(|name| (*name).to_owned()).collect(),
        ..asked.config()
    };
    let keys =
        |saved: &[&str]| asked.differing(&found(saved)).into_iter().map(|(key, ..)| key).collect::<Vec<_>>();
    assert_eq!(keys(&["embed_tokens", "lm_head"]), [""; 0]);
    assert_eq!(keys(&["embed_tokens", "lm_head", "value_head"]), [""; 0]);
    assert_eq!(keys(&["embed_tokens"]), ["modules_to_save"]);
}

#[test]
fn a_section_of_lora_is_checked_key_by_key() {
    let read = |json: &str| serde_json::from_str::<TrainSettings>(json).unwrap();
    assert_eq!(read("{}").lora, None);
    let lora = read(r#"{"lora": {}}"#).lora.unwrap();
    let config = lora.config();
    assert_eq!((config.rank, config.alpha, config.target_modules.is_all_linear()), (16, 16.0, true));
    assert_eq!((lora.each_iteration, lora.merge), (EachIteration::Continue, MergeRule::Last));
    assert_eq!(read(r#"{"lora": {"rank": 4}}"#).lora.unwrap().config().alpha, 4.0);
    assert_eq!(read(r#"{"lora": {"init": "pissa"}}"#).lora.unwrap().init(), LoraInit::Pissa);
    assert_eq!(read(r#"{"lora": {"init": "a/b"}}"#).lora.unwrap().init(), LoraInit::Folder("a/b"));
    let wrong = r#"{"lora": {"rank": 0, "alpha": -1, "dropout": 1, "target_modules": "(", "rank_pattern": {"x": 0},
        "each_iteration": "merge", "merge": "never"}}"#;
    assert_eq!(
        keys(&read(wrong)),
        ["lora.rank", "lora.alpha", "lora.dropout", "lora.rank_pattern", "lora.target_modules", "lora.merge"]
    );
    for refused in [r#"{"lora": {"rank": -1}}"#, r#"{"lora": {"rnk": 1}}"#, r#"{"lora": {"merge": "first"}}"#]
    {
        assert!(serde_json::from_str::<TrainSettings>(refused).is_err(), "{refused}");
    }
}

/// The keys that are wrong in these settings.
fn with_keys(json: &str) -> Vec<String> {
    keys(&serde_json::from_str(json).unwrap())
}

#[test]
fn keys_are_for_the_losses_that_read_them() {
    for right in [
        r#"{"loss": "kto", "desirable_weight": 1.5, "undesirable_weight": 0, "length_normalized": true}"#,
        r#"{"loss": "grpo", "clip": 0.2, "clip_high": 0.28, "kl_weight": 0, "reference": "initial"}"#,
        r#"{"loss": "gprl", "drift_threshold": 0.5, "drift_strength": 0}"#,
        r#"{"loss": "best-of-k", "loss_tokens": "all"}"#,
        r#"{"loss": "online-ipo", "pair_weight": "margin"}"#,
        r#"{"loss": "kto", "pair_weight": "margin"}"#,
    ] {
        assert!(with_keys(right).is_empty(), "{right}: {:?}", with_keys(right));
    }
    assert_eq!(
        with_keys(r#"{"loss": "gpo", "clip": 0.2, "desirable_weight": 2}"#),
        ["desirable_weight", "clip"]
    );
    assert_eq!(with_keys(r#"{"loss": "grpo", "drift_threshold": 1}"#), ["drift_threshold"]);
    assert_eq!(
        with_keys(r#"{"loss": "gprl", "clip": 1, "clip_high": 0, "kl_weight": -1}"#),
        ["clip", "clip_high", "kl_weight"]
    );
    assert_eq!(
        with_keys(r#"{"loss": "kto", "desirable_weight": 0, "undesirable_weight": 0}"#),
        ["undesirable_weight"]
    );
}

#[test]
fn keys_of_pairs_are_refused_where_there_are_none() {
    for loss in ["grpo", "gprl", "best-of-k", "kto-pair"] {
        assert_eq!(
            with_keys(&format!(r#"{{"loss": "{loss}", "pair_weight": "margin"}}"#)),
            ["pair_weight"],
            "{loss}"
        );
    }
    let all = r#"{"loss": "gprl", "sft_weight": 0.1, "length_normalized": true, "loss_tokens": "all"}"#;
    assert_eq!(with_keys(all), ["sft_weight", "length_normalized", "loss_tokens"]);
    assert_eq!(with_keys(r#"{"loss": "best-of-k", "reference": "initial"}"#), ["reference"]);
}

#[test]
fn defaults_are_read_where_keys_are_absent() {
    let settings = TrainSettings { clip_high: Some(0.3), ..TrainSettings::default() };
    assert_eq!((settings.clip_range(), settings.kl_weight()), ((0.2, 0.3), 0.04));
    let settings = TrainSettings { clip: Some(0.1), ..TrainSettings::default() };
    assert_eq!((settings.clip_range(), settings.drift_threshold()), ((0.1, 0.1), 0.1));
    assert_eq!(settings.drift_strength(), 1.0);
}
