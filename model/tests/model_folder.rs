//! Model folders as people meet them: damaged and odd tokenizers, tokens that only a configuration names, a head beside
//! one that is tied, a classifier.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use selfplay_model::weights::{WeightFiles, random_tensor, safetensors, save};
use selfplay_model::{Architecture, Decoder, LoadOptions, StoredDtype, Tokenizer};
use selfplay_records::{HasKind, Kind};
use selfplay_testing::json_file::{special_token, write_json};
use selfplay_testing::{decoder, refusal};
use serde_json::{Value, json};

/// Byte-level merges of `ab`, `abab` and so on: a text has many ways to be cut.
fn tokenizer_json() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special_token(5, "<s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "u", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": {"u": 0, "a": 1, "b": 2, "ab": 3, "abab": 4, "<s>": 5},
                  "merges": [["a", "b"], ["ab", "ab"]]},
    })
}

fn write(folder: &Path, name: &str, value: &Value) {
    write_json(&folder.join(name), value);
}

fn tokenizer(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Result<Tokenizer, String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut json = tokenizer_json();
    change(&mut json);
    write(folder.path(), "tokenizer.json", &json);
    let loaded = Tokenizer::load(folder.path()).map_err(|error| refusal::<(), _>(Err(error)));
    (folder, loaded)
}

#[test]
fn what_the_crate_panics_on_is_told_with_the_file_s_name() {
    let mut with_prefix = tokenizer_json();
    with_prefix["model"]["continuing_subword_prefix"] = json!("ééé");
    let step = |kind: &str, more: Value| {
        let mut step = json!({"type": kind});
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        step
    };
    let table = |text: &str| step("Precompiled", json!({"precompiled_charsmap": text}));
    let cases: [(&str, Value); 8] = [
        ("normalizer", table("AAAA")),
        ("normalizer", table("CAAAAP//////////QUFB")),
        ("normalizer", table("/////w==")),
        ("normalizer", step("Replace", json!({"pattern": {"String": ""}, "content": "x"}))),
        ("normalizer", step("Sequence", json!({"normalizers": [table("/////w==")]}))),
        ("pre_tokenizer", step("FixedLength", json!({"length": 0}))),
        (
            "post_processor",
            step(
                "TemplateProcessing",
                json!({"single": [{"SpecialToken": {"id": "no", "type_id": 0}}], "pair": [], "special_tokens": {}}),
            ),
        ),
        (
            "post_processor",
            step(
                "TemplateProcessing",
                json!({"single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [], "special_tokens": {}}),
            ),
        ),
    ];
    for (place, value) in cases {
        let (_folder, loaded) = tokenizer(|json| json[place] = value.clone());
        let error = match loaded {
            Ok(tokenizer) => match tokenizer.encode("abab é", true) {
                Ok(_) => continue,
                failed => refusal(failed),
            },
            Err(error) => error,
        };
        assert!(error.contains("tokenizer.json: it is not a valid tokenizer"), "{place} {value}: {error}");
    }
    let (_folder, loaded) =
        tokenizer(|json| json["decoder"] = step("Strip", json!({"content": "a", "start": 0, "stop": 9})));
    if let Err(error) = loaded.unwrap().decode(&[1, 1], false) {
        assert!(
            (error.kind() == Kind::Input) && error.to_string().contains("not a valid tokenizer"),
            "{error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let text = tokenizer_json().to_string().replacen("\"decoder\":null", "\"decoder\":{1:2}", 1);
    write(folder.path(), "tokenizer.json", &Value::from(text));
    let error = refusal(Tokenizer::load(folder.path()));
    assert!(error.contains("not a valid tokenizer"), "{error}");
}

#[test]
fn dropout_is_off() {
    let (_plain_folder, plain) = tokenizer(|_| {});
    let (_folder, dropping) = tokenizer(|json| json["model"]["dropout"] = json!(0.5));
    let text = "abab".repeat(20);
    let want = plain.unwrap().encode(&text, true).unwrap();
    assert_eq!(want, [4; 20]);
    let dropping = dropping.unwrap();
    for _ in 0..20 {
        assert_eq!(dropping.encode(&text, true).unwrap(), want);
    }
}

#[test]
fn tokens_that_only_the_configuration_names_are_one_id() {
    let flags = |content: &str, special: bool| json!({"content": content, "lstrip": false, "rstrip": false, "normalized": false, "single_word": false, "special": special});
    let (folder, _) = tokenizer(|_| {});
    write(
        folder.path(),
        "tokenizer_config.json",
        &json!({
            "bos_token": "<s>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<more>"],
            "added_tokens_decoder": {"7": flags("<tool>", false), "6": flags("<|im_end|>", true)},
        }),
    );
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("ab<|im_end|><tool><more>", true).unwrap(), [3, 6, 7, 8]);
    assert_eq!((tokenizer.eos_id(), tokenizer.bos_id()), (Some(6), Some(5)));
    assert_eq!(tokenizer.decode(&[3, 6, 7], true).unwrap(), "ab <tool>");

    // The older form: added_tokens.json and special_tokens_map.json.
    let (folder, _) = self::tokenizer(|_| {});
    write(folder.path(), "added_tokens.json", &json!({"<b>": 7, "<a>": 6}));
    write(
        folder.path(),
        "special_tokens_map.json",
        &json!({"eos_token": "<end>", "bos_token": flags("<s>", true)}),
    );
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("<a><b><end>", true).unwrap(), [6, 7, 8]);
    assert_eq!(tokenizer.eos_id(), Some(8));

    // A token of the vocabulary that is named as special is whole, and keeps its id.
    let (folder, _) = self::tokenizer(|json| {
        json["model"]["vocab"]["</s>"] = json!(6);
    });
    write(folder.path(), "tokenizer_config.json", &json!({"eos_token": "</s>"}));
    assert_eq!(Tokenizer::load(folder.path()).unwrap().encode("ab</s>", true).unwrap(), [3, 6]);
}

fn tied() -> Architecture {
    selfplay_testing::architecture(&decoder::config(json!({
        "vocab_size": 24, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true,
    })))
}

/// A tied model's folder, with the given head beside the embedding.
fn with_head(head: impl FnOnce(&Tensor) -> Tensor) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let architecture = tied();
    let mut named: Vec<(String, Tensor)> = architecture
        .tensors()
        .into_iter()
        .map(|spec| {
            let value = random_tensor(&spec, &architecture, 3, DType::F32, &Device::Cpu).unwrap();
            (spec.name, value)
        })
        .collect();
    let own = head(&named.iter().find(|(name, _)| name.contains("embed")).unwrap().1);
    named.push(("lm_head.weight".to_owned(), own));
    let tensors: Vec<(&str, &Tensor)> = named.iter().map(|(name, value)| (name.as_str(), value)).collect();
    safetensors::write(&folder.path().join("model.safetensors"), &tensors, StoredDtype::F32).unwrap();
    write(folder.path(), "config.json", &architecture.to_json());
    folder
}

#[test]
fn a_head_of_its_own_is_used_and_kept_whatever_the_configuration_says() {
    let same = with_head(Clone::clone);
    let decoder = Decoder::load(same.path(), &LoadOptions::default()).unwrap();
    assert!(decoder.architecture().tie_embeddings);
    let own = with_head(|embedding| embedding.neg().unwrap());
    let decoder = Decoder::load(own.path(), &LoadOptions::default()).unwrap();
    assert!(!decoder.architecture().tie_embeddings);
    let out = tempfile::tempdir().unwrap();
    decoder.save(out.path(), None, usize::MAX).unwrap();
    let saved = Architecture::load(out.path()).unwrap();
    assert!(!saved.tie_embeddings && WeightFiles::open(out.path()).unwrap().contains("lm_head.weight"));
    let heads = |folder: &Path| {
        let decoder = Decoder::load(folder, &LoadOptions::default()).unwrap();
        let head = decoder.parameters().find("lm_head.weight").unwrap();
        decoder.parameters().get(head).value.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(heads(own.path()), heads(out.path()));
}

#[test]
fn a_classifier_s_head_is_no_preference_head() {
    let architecture = tied();
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, rows: usize| {
        let head = Tensor::zeros((rows, 8), DType::F32, &Device::Cpu).unwrap();
        save(folder.path(), [(name, &head)], DType::F32, usize::MAX, None, &architecture).unwrap();
        WeightFiles::open(folder.path()).unwrap().heads(&architecture)
    };
    assert!(put("score.weight", 1).unwrap().value_head.is_some());
    assert!(put("value_head.weight", 2).unwrap().value_head.is_some());
    let error = refusal(put("score.weight", 2));
    assert!(error.contains("classifier of 2 classes"), "{error}");
}
