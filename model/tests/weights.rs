//! Weights out and in again: whole and sharded, every format, every prefix; and damaged files of every kind.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use selfplay_model::adapter::{AdapterConfig, AdapterStart};
use selfplay_model::architecture::{Architecture, TensorSpec};
use selfplay_model::weights::{WeightFiles, random_tensor, safetensors, save};
use selfplay_model::{Decoder, LoadOptions, LoadPurpose, Parameter, Quantization, StoredDtype};
use selfplay_records::{HasKind, Kind, atomic};
use selfplay_testing::json_file::read_json;
use selfplay_testing::{decoder, refusal};
use serde_json::{Value, json};

const CPU: Device = Device::Cpu;

fn architecture(changes: &[(&str, Value)]) -> Architecture {
    let mut config = decoder::config(json!({
        "vocab_size": 24, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
    }));
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    selfplay_testing::architecture(&config)
}

struct Model {
    arch: Architecture,
    specs: Vec<TensorSpec>,
    values: Vec<Tensor>,
}

impl Model {
    fn new() -> Self {
        let arch = architecture(&[]);
        let specs = arch.tensors();
        let values =
            specs.iter().map(|spec| random_tensor(spec, &arch, 7, DType::F32, &CPU).unwrap()).collect();
        Self { arch, specs, values }
    }

    fn save(&self, folder: &Path, dtype: DType, max_shard_bytes: usize) {
        let tensors = self.specs.iter().map(|spec| spec.name.as_str()).zip(&self.values);
        save(folder, tensors, dtype, max_shard_bytes, None, &self.arch).unwrap();
    }

    /// One file with names changed by `rename`.
    fn save_renamed(&self, folder: &Path, rename: impl Fn(&str) -> String) {
        let names: Vec<String> = self.specs.iter().map(|spec| rename(&spec.name)).collect();
        let tensors = names.iter().map(String::as_str).zip(&self.values);
        let tensors: Vec<_> = tensors.collect();
        safetensors::write(&folder.join("model.safetensors"), &tensors, StoredDtype::F32).unwrap();
    }

    fn assert_read_back(&self, folder: &Path) {
        let files = WeightFiles::open(folder).unwrap();
        files.check(&self.arch, true).unwrap();
        for (spec, value) in self.specs.iter().zip(&self.values) {
            let read = files.get(spec, DType::F32, &CPU).unwrap();
            assert_eq!(flat(&read), flat(value), "{}", spec.name);
        }
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Opens, checks and reads all of it, and gives the message of what fails.
fn failure(folder: &Path, arch: &Architecture) -> String {
    let all = || {
        let files = WeightFiles::open(folder)?;
        files.check(arch, true)?;
        arch.tensors().iter().try_for_each(|spec| files.get(spec, DType::F32, &CPU).map(drop))
    };
    same_refusal(folder);
    refusal(all())
}

/// That a load to check refuses what a load does, in the same words.
fn same_refusal(folder: &Path) {
    for heads in [false, true] {
        let load = |purpose| {
            let options = LoadOptions { heads, purpose, ..LoadOptions::default() };
            Decoder::load(folder, &options).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(load(LoadPurpose::Check), load(LoadPurpose::Compute), "heads: {heads}");
    }
}

#[test]
fn a_load_to_check_has_every_part_and_takes_adapters() {
    for (tied, quantize) in [(false, None), (true, None), (false, Some(Quantization::Nf4))] {
        let arch = architecture(&[("tie_word_embeddings", json!(tied))]);
        let folder = tempfile::tempdir().unwrap();
        Decoder::random(arch, 3, &LoadOptions::default())
            .unwrap()
            .save(folder.path(), None, usize::MAX)
            .unwrap();
        let load = |purpose| {
            let options = LoadOptions { quantize, purpose, ..LoadOptions::default() };
            let mut decoder = Decoder::load(folder.path(), &options).unwrap();
            assert_eq!(decoder.is_quantized(), quantize.is_some());
            let config =
                AdapterConfig { modules_to_save: vec!["lm_head".to_owned()], ..AdapterConfig::default() };
            decoder.add_adapter(config, AdapterStart::Default, 5).unwrap();
            decoder.train_adapter();
            let of = |parameter: &Parameter| {
                (parameter.name.clone(), parameter.value.dims().to_vec(), parameter.kind, parameter.trainable)
            };
            decoder.parameters().iter().map(|(_, parameter)| of(parameter)).collect::<Vec<_>>()
        };
        assert_eq!(load(LoadPurpose::Check), load(LoadPurpose::Compute), "{tied} {quantize:?}");
    }
}

#[test]
fn whole_and_sharded_files_read_as_written() {
    let model = Model::new();
    for max_shard_bytes in [usize::MAX, 1000, 1] {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), DType::F32, max_shard_bytes);
        assert_eq!(
            folder.path().join("model.safetensors.index.json").exists(),
            max_shard_bytes != usize::MAX
        );
        model.assert_read_back(folder.path());
        let again = Architecture::load(folder.path()).unwrap();
        assert_eq!(again.tensors(), model.specs);
    }
}

#[test]
fn maps_of_one_product_are_read_into_one_tensor() {
    let model = Model::new();
    for dtype in [DType::F32, DType::BF16] {
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), dtype, usize::MAX);
        let files = WeightFiles::open(folder.path()).unwrap();
        let decoder = Decoder::load(folder.path(), &LoadOptions::default()).unwrap();
        let parameters = decoder.parameters();
        for spec in &model.specs {
            let id = parameters.find(&spec.name).unwrap();
            let alone = files.get(spec, DType::F32, &CPU).unwrap();
            assert_eq!(flat(&parameters.get(id).value), flat(&alone), "{}", spec.name);
        }
        let ids: Vec<_> = parameters.iter().map(|(id, _)| id).collect();
        let owners = parameters.owners(&ids);
        let of = |members: usize| owners.iter().filter(|owner| owner.members.len() == members).count();
        // Queries, keys and values, and gate and up, of two layers.
        assert_eq!((of(3), of(2)), (2, 2));
        assert_eq!(owners.iter().map(|owner| owner.members.len()).sum::<usize>(), model.specs.len());
    }
}

#[test]
fn shards_keep_to_their_bound() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), DType::F32, 1000);
    let index = read_json(&folder.path().join("model.safetensors.index.json"));
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in &model.specs {
        let shard = index["weight_map"][&spec.name].as_str().unwrap();
        *bytes.entry(shard).or_default() += 4 * spec.shape.iter().product::<usize>();
    }
    assert!(bytes.len() > 2 && bytes.values().all(|n| *n <= 1000), "{bytes:?}");
    assert_eq!(index["metadata"]["total_size"], 4 * model.arch.parameter_count());
    assert!(bytes.keys().all(|name| name.ends_with(&format!("-of-{:05}.safetensors", bytes.len()))));
}

#[test]
fn bf16_is_rounded_once_and_named_in_the_configuration() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), DType::BF16, usize::MAX);
    let files = WeightFiles::open(folder.path()).unwrap();
    let spec = &model.specs[0];
    let read = flat(&files.get(spec, DType::F32, &CPU).unwrap());
    let want: Vec<f32> = flat(&model.values[0]).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
    assert_eq!(read, want);
    assert_eq!(files.get(spec, DType::BF16, &CPU).unwrap().dtype(), DType::BF16);
    let wide: Vec<f64> = files.get(spec, DType::F64, &CPU).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!(wide.iter().zip(&read).all(|(a, b)| *a == f64::from(*b)));
    let config = read_json(&folder.path().join("config.json"));
    assert_eq!(config["torch_dtype"], "bfloat16");
    assert_eq!(files.stored_dtype().unwrap().torch_name(), "bfloat16");
}

#[test]
fn the_source_folder_gives_configuration_and_companions() {
    let model = Model::new();
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = json!({"model_type": "llama", "my_own_key": 3, "dtype": "float32"});
    atomic::write_bytes(&source.path().join("config.json"), config.to_string().as_bytes()).unwrap();
    atomic::write_bytes(&source.path().join("tokenizer.json"), b"{}").unwrap();
    atomic::write_bytes(&source.path().join("optimizer.bin"), b"x").unwrap();
    let tensors = model.specs.iter().map(|spec| spec.name.as_str()).zip(&model.values);
    save(target.path(), tensors, DType::BF16, usize::MAX, Some(source.path()), &model.arch).unwrap();
    let config = read_json(&target.path().join("config.json"));
    assert_eq!(config, json!({"model_type": "llama", "my_own_key": 3, "dtype": "bfloat16"}));
    assert_eq!(std::fs::read(target.path().join("tokenizer.json")).unwrap(), b"{}");
    assert!(!target.path().join("optimizer.bin").exists());
}

#[test]
fn names_of_wrappers_are_read() {
    let model = Model::new();
    for prefix in
        ["backbone.", "pretrained_model.", "module.", "model.", "backbone.model.", "_orig_mod.module."]
    {
        let folder = tempfile::tempdir().unwrap();
        model.save_renamed(folder.path(), |name| format!("{prefix}{name}"));
        model.assert_read_back(folder.path());
    }
    let folder = tempfile::tempdir().unwrap();
    model.save_renamed(folder.path(), |name| name.strip_prefix("model.").unwrap_or(name).to_owned());
    model.assert_read_back(folder.path());
}

#[test]
fn heads_are_found_under_either_name() {
    let model = Model::new();
    for name in ["value_head.weight", "score.weight", "model.value_head.weight"] {
        let folder = tempfile::tempdir().unwrap();
        let head = Tensor::zeros((6, 8), DType::F32, &CPU).unwrap();
        let prompt = Tensor::zeros((3, 8), DType::F32, &CPU).unwrap();
        let heads = [(name, &head), ("prompt_head.weight", &prompt)];
        safetensors::write(&folder.path().join("model.safetensors"), &heads, StoredDtype::F32).unwrap();
        let files = WeightFiles::open(folder.path()).unwrap();
        let specs = files.heads(&model.arch).unwrap();
        let value = specs.value_head.unwrap();
        assert_eq!(value.shape, vec![6, 8]);
        assert_eq!(files.get(&value, DType::F32, &CPU).unwrap().dims(), &[6, 8]);
        assert_eq!(specs.prompt_head.unwrap().shape, vec![3, 8]);
        assert!(files.heads(&architecture(&[("hidden_size", json!(16))])).unwrap_err().kind() == Kind::Input);
    }
}

#[test]
fn a_preference_model_may_lack_the_output_head_and_a_policy_may_not() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    let body = model.specs.iter().map(|spec| spec.name.as_str()).zip(&model.values);
    let body: Vec<_> = body.filter(|(name, _)| *name != "lm_head.weight").collect();
    safetensors::write(&folder.path().join("model.safetensors"), &body, StoredDtype::F32).unwrap();
    let files = WeightFiles::open(folder.path()).unwrap();
    files.check(&model.arch, false).unwrap();
    assert!(files.check(&model.arch, true).unwrap_err().to_string().contains("lm_head.weight"));
    files.check(&architecture(&[("tie_word_embeddings", json!(true))]), true).unwrap();
}

#[test]
fn damaged_files_are_named() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    model.save(folder.path(), DType::F32, usize::MAX);
    let whole = std::fs::read(&path).unwrap();
    let with = |bytes: &[u8]| {
        atomic::write_bytes(&path, bytes).unwrap();
        failure(folder.path(), &model.arch)
    };
    assert!(with(&whole[..whole.len() - 10]).contains("truncated"));
    assert!(with(&whole[..200]).contains("header claims"));
    assert!(with(&whole[..5]).contains("only 5 bytes"));
    assert!(with(b"").contains("only 0 bytes"));
    let mut absurd = whole.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(with(&absurd).contains("18446744073709551615"));
    absurd[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(with(&absurd).contains("1099511627776"));
    let mut corrupt = whole.clone();
    corrupt[12] = 0xff;
    assert!(with(&corrupt).contains("header is damaged"));
    assert!(with(b"version https://git-lfs.github.com/spec/v1\noid sha256:0").contains("git lfs pull"));
    let mut nan = whole.clone();
    let end = nan.len();
    nan[end - 8..end - 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let text = with(&nan);
    // The last tensor is the output head [24, 8]; its last number but one is 190.
    assert!(text.contains("lm_head.weight") && text.contains("flat index 190"), "{text}");
}

#[test]
fn absent_files_are_named() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    assert!(failure(&folder.path().join("no"), &model.arch).contains("no such folder"));
    assert!(failure(folder.path(), &model.arch).contains("neither"));
    atomic::write_bytes(&folder.path().join("pytorch_model.bin"), b"x").unwrap();
    assert!(failure(folder.path(), &model.arch).contains("convert"));

    let sharded = tempfile::tempdir().unwrap();
    model.save(sharded.path(), DType::F32, 1000);
    let shard = std::fs::read_dir(sharded.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("model-00002"))
        .unwrap();
    let index = sharded.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let wrong = text.replace("\"model.norm.weight\"", "\"model.norm.weigth\"");
    atomic::write_bytes(&index, wrong.as_bytes()).unwrap();
    assert!(failure(sharded.path(), &model.arch).contains("model.norm.weigth"));
    atomic::write_bytes(&index, text.replace("model-00001", "../model-00001").as_bytes()).unwrap();
    assert!(failure(sharded.path(), &model.arch).contains("same folder"));
    atomic::write_bytes(&index, text.as_bytes()).unwrap();
    std::fs::remove_file(sharded.path().join(&shard)).unwrap();
    let text = failure(sharded.path(), &model.arch);
    assert!(text.contains(&shard) && text.contains("missing"), "{text}");
}

#[test]
fn shapes_and_formats_must_fit() {
    let model = Model::new();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), DType::F32, usize::MAX);
    let text = failure(folder.path(), &architecture(&[("vocab_size", json!(25))]));
    assert!(text.contains("[24, 8]") && text.contains("[25, 8]"), "{text}");
    let text = failure(folder.path(), &architecture(&[("num_hidden_layers", json!(4))]));
    assert!(text.contains("model.layers.2.input_layernorm.weight") && text.contains("and 15 more"), "{text}");

    let header = r#"{"model.norm.weight":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 8]);
    atomic::write_bytes(&folder.path().join("model.safetensors"), &bytes).unwrap();
    let files = WeightFiles::open(folder.path()).unwrap();
    let spec = model.specs.iter().find(|spec| spec.name == "model.norm.weight").unwrap();
    let spec = TensorSpec { shape: vec![1], ..spec.clone() };
    let error = files.get(&spec, DType::F32, &CPU).unwrap_err().to_string();
    assert!(error.contains("I64") && error.contains("F32, BF16 and F16"), "{error}");
}

#[test]
fn fresh_weights_are_the_seeds_alone() {
    let model = Model::new();
    let spec = &model.specs[0];
    let draw = |seed| flat(&random_tensor(spec, &model.arch, seed, DType::F32, &CPU).unwrap());
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    assert_eq!(draw(7), flat(&model.values[0]));
    let large = TensorSpec { shape: vec![200, 500], ..spec.clone() };
    let values = flat(&random_tensor(&large, &model.arch, 1, DType::F32, &CPU).unwrap());
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
    let variance = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 1e5;
    // Five standard errors of 10⁵ draws.
    assert!(mean.abs() < 5.0 * 0.02 / 1e5f64.sqrt(), "{mean}");
    assert!((variance.sqrt() / 0.02 - 1.0).abs() < 5.0 / 2e5f64.sqrt(), "{variance}");
    let norm = model.specs.iter().position(|spec| spec.name == "model.norm.weight").unwrap();
    assert_eq!(flat(&model.values[norm]), vec![1.0; 8]);
    let gemma = architecture(&[("model_type", json!("gemma")), ("hidden_act", json!("gelu"))]);
    let spec = gemma.tensors().into_iter().find(|spec| spec.name == "model.norm.weight").unwrap();
    assert_eq!(flat(&random_tensor(&spec, &gemma, 1, DType::F32, &CPU).unwrap()), vec![0.0; 8]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_damage_panics(place in 0usize..3000, byte in any::<u8>(), keep in 0usize..9000) {
        let model = Model::new();
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), DType::F32, usize::MAX);
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let place = place % bytes.len();
        bytes[place] = byte;
        bytes.truncate(keep);
        atomic::write_bytes(&path, &bytes).unwrap();
        if let Ok(files) = WeightFiles::open(folder.path()) {
            for spec in &model.specs {
                if let Err(error) = files.get(spec, DType::F32, &CPU) {
                    prop_assert!(error.kind() == Kind::Input);
                }
            }
        }
    }
}
