//! A model folder of every family, written and read again; and a multimodal model's, read as its language model.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use selfplay_model::decoder::KeepPlan;
use selfplay_model::weights::{WeightFiles, safetensors};
use selfplay_model::{Architecture, Decoder, LoadOptions, StoredDtype};
use selfplay_records::atomic;
use selfplay_testing::families::{FAMILIES, batch, config, decoder, gradients, numbers};
use serde_json::{Value, json};

fn hidden(decoder: &Decoder) -> Vec<f64> {
    numbers(&decoder.hidden(&batch().0).unwrap())
}

fn load(folder: &Path) -> Decoder {
    Decoder::load(folder, &LoadOptions::default()).unwrap()
}

fn write_config(folder: &Path, config: &Value) {
    atomic::write_bytes(&folder.join("config.json"), config.to_string().as_bytes()).unwrap();
}

fn read_config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn what_is_written_is_read_as_the_same_model() {
    for family in FAMILIES {
        let first = decoder(family, DType::F32);
        let (fresh, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // Without a source the configuration is made from the architecture; with one it is the source's.
        first.save(fresh.path(), None, usize::MAX).unwrap();
        let second = load(fresh.path());
        assert_eq!(hidden(&second), hidden(&first), "{family}");
        second.save(copied.path(), None, 4000).unwrap();
        let third = load(copied.path());
        assert_eq!(hidden(&third), hidden(&first), "{family}");
        assert_eq!(read_config(copied.path()), read_config(fresh.path()), "{family}");
        let names = |decoder: &Decoder| -> Vec<String> {
            decoder.parameters().iter().map(|(_, parameter)| parameter.name.clone()).collect()
        };
        assert_eq!(names(&third), names(&first), "{family}");
        let (got, want) = (gradients(&third, KeepPlan::LEAST), gradients(&first, KeepPlan::LEAST));
        for (id, gradient) in want.iter() {
            assert_eq!(numbers(got.get(id).unwrap()), numbers(gradient), "{family}");
        }
    }
}

#[test]
fn a_fused_matrix_is_written_fused() {
    let folder = tempfile::tempdir().unwrap();
    decoder("phi3", DType::F32).save(folder.path(), None, usize::MAX).unwrap();
    let files = WeightFiles::open(folder.path()).unwrap();
    assert!(files.contains("model.layers.2.self_attn.qkv_proj.weight"));
    assert!(files.contains("model.layers.2.mlp.gate_up_proj.weight"));
    assert!(!files.contains("model.layers.2.self_attn.q_proj.weight"));
}

#[test]
fn a_multimodal_model_is_read_and_written_as_its_language_model() {
    let language = decoder("gemma3_text", DType::F32);
    let want = hidden(&language);
    // As transformers 4 and 5 name the tensors.
    for (inside, outside) in [("language_model.model.", ""), ("model.language_model.", "model.")] {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors: Vec<(String, Tensor)> = language
            .parameters()
            .iter()
            .map(|(_, p)| (p.name.replacen("model.", inside, 1), p.value.clone()))
            .collect();
        let other = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        tensors.push((format!("{outside}vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"), other));
        let tensors: Vec<(&str, &Tensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        safetensors::write(&folder.path().join("model.safetensors"), &tensors, StoredDtype::F32).unwrap();
        let mut text = config("gemma3_text");
        text.as_object_mut().unwrap().remove("eos_token_id");
        let whole = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": text, "vision_config": {"hidden_size": 3}, "eos_token_id": [2, 7], "dtype": "float32"});
        write_config(folder.path(), &whole);

        let read = load(folder.path());
        assert_eq!(hidden(&read), want, "{inside}");
        assert_eq!(read.architecture().eos_ids, [2, 7]);
        let written = tempfile::tempdir().unwrap();
        read.save(written.path(), None, usize::MAX).unwrap();
        let again = load(written.path());
        assert_eq!(hidden(&again), want, "{inside}");
        assert_eq!(again.architecture(), read.architecture());
        let config = read_config(written.path());
        assert_eq!((&config["model_type"], &config["text_config"]), (&json!("gemma3_text"), &Value::Null));
        assert_eq!(config["architectures"], json!(["Gemma3ForCausalLM"]));
        let files = WeightFiles::open(written.path()).unwrap();
        assert!(!files.contains("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"));
    }
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &json!({"model_type": "gemma3"}));
    assert!(Architecture::load(folder.path()).unwrap_err().to_string().contains("`text_config`"));
}
