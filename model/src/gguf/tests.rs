use candle_core::{DType, Device};
use selfplay_records::{HasKind, Kind, atomic};
use selfplay_testing::gguf::{GgufParts, Meta, TensorPart, model, text, texts};
use serde_json::json;

use super::rope_factors::{Found, Llama3Scaling};
use crate::weights::WeightFiles;
use crate::{Architecture, Codec, Decoder, LoadOptions, ModelError, Tokenizer};

/// Opens the file through every door.
fn open(parts: &GgufParts) -> Result<Decoder, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = parts.write(folder.path());
    Architecture::load(&path)?;
    Codec::load(&path, None)?.stop_ids(&path)?;
    Decoder::load(&path, &LoadOptions::default())
}

fn refusal(parts: &GgufParts) -> String {
    match open(parts) {
        Ok(_) => panic!("it was read"),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Input, "{error}");
            assert!(error.to_string().contains("model.gguf"), "{error}");
            error.to_string()
        }
    }
}

fn numbers(decoder: &Decoder, name: &str) -> Vec<f32> {
    let parameters = decoder.parameters();
    let id = parameters.find(name).unwrap_or_else(|| panic!("{name}"));
    parameters.get(id).value.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn sizes_come_from_the_metadata_and_the_head_is_tied_where_there_is_none() {
    let mut parts = model("llama");
    let arch = open(&parts).unwrap().architecture().clone();
    assert_eq!((arch.vocab_size, arch.hidden_size, arch.intermediate_size), (11, 8, 16));
    assert_eq!((arch.num_layers, arch.num_heads, arch.num_kv_heads, arch.head_dim), (1, 2, 1, 4));
    assert_eq!((arch.rms_norm_eps, arch.max_positions), (1e-5, 64));
    assert_eq!((arch.rope().unwrap().theta, arch.tie_embeddings), (500_000.0, true));
    assert_eq!((arch.bos_ids, arch.eos_ids), (vec![0], vec![1]));
    parts.f32s("output.weight", &[8, 11], &[0.25; 88]);
    let decoder = open(&parts).unwrap();
    assert!(!decoder.architecture().tie_embeddings);
    assert_eq!(numbers(&decoder, "lm_head.weight"), [0.25; 88]);
}

#[test]
fn rows_of_queries_and_keys_go_back_to_halves_in_llama_alone() {
    let rows = |architecture: &str, name: &str| {
        let mut parts = model(architecture);
        if architecture == "qwen2" {
            for (bias, rows) in [("attn_q", 8), ("attn_k", 4), ("attn_v", 4)] {
                parts.f32s(&format!("blk.0.{bias}.bias"), &[rows], &vec![0.0; rows as usize]);
            }
        }
        let decoder = open(&parts).unwrap();
        let all = numbers(&decoder, &format!("model.layers.0.self_attn.{name}.weight"));
        all.chunks(8).map(|row| row[0]).collect::<Vec<_>>()
    };
    let stored: Vec<f32> = (0..8).map(|row| ((131 + 8 * row) % 997) as f32 / 100.0).collect();
    assert_eq!(rows("qwen2", "q_proj"), stored);
    // Two heads of four rows: 0 2 1 3 and 4 6 5 7.
    let halves: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7].map(|row| stored[row]).to_vec();
    assert_eq!(rows("llama", "q_proj"), halves);
    let keys: Vec<f32> = [0, 2, 1, 3].map(|row| (2 * 131 + 8 * row) as f32 / 100.0).to_vec();
    assert_eq!(rows("llama", "k_proj"), keys);
    assert_eq!(rows("llama", "v_proj")[1], (3 * 131 + 8) as f32 / 100.0);
}

#[test]
fn gemma_s_norms_lose_the_one_that_was_added() {
    let norm = |architecture: &str| {
        numbers(&open(&model(architecture)).unwrap(), "model.layers.0.input_layernorm.weight")
    };
    assert_eq!(norm("llama"), [1.5; 8]);
    assert_eq!(norm("gemma"), [0.5; 8]);
}

#[test]
fn what_a_start_from_a_gguf_writes_is_a_folder_that_gives_the_same_model() {
    let mut parts = model("llama");
    parts.set("tokenizer.chat_template", text("{% for m in messages %}{{ m.content }}</s>{% endfor %}"));
    let folder = tempfile::tempdir().unwrap();
    let path = parts.write(folder.path());
    let decoder = Decoder::load(&path, &LoadOptions::default()).unwrap();
    assert_eq!(decoder.stored_dtype(), DType::F32);
    let policy = folder.path().join("policy");
    atomic::create_dir_all(&policy).unwrap();
    decoder.save(&policy, None, usize::MAX).unwrap();
    let again = Decoder::load(&policy, &LoadOptions::default()).unwrap();
    assert_eq!(again.architecture(), decoder.architecture());
    for (_, parameter) in decoder.parameters().iter() {
        assert_eq!(
            numbers(&again, &parameter.name),
            numbers(&decoder, &parameter.name),
            "{}",
            parameter.name
        );
    }
    let (one, other) = (Codec::load(&path, None).unwrap(), Codec::load(&policy, None).unwrap());
    let ids = |codec: &Codec| codec.tokenizer.encode("ab 12\n<s>b", true).unwrap();
    assert_eq!(ids(&one), ids(&other));
    assert_eq!(one.stop_ids(&path).unwrap(), other.stop_ids(&policy).unwrap());
    assert_eq!(one.template.unwrap().source(), other.template.unwrap().source());
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(policy.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["model_type"], &config["architectures"]),
        (&json!("llama"), &json!(["LlamaForCausalLM"]))
    );
}

#[test]
fn quantised_blocks_have_their_format_s_values() {
    // Q8_0: a scale in f16 and 32 signed bytes. Q4_1: scale, minimum and 16 bytes, low halves first.
    let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let q8: Vec<u8> = f16(0.5).into_iter().chain((0..32).map(|i| (i as i8 - 16) as u8)).collect();
    let q4: Vec<u8> =
        f16(0.25).into_iter().chain(f16(-1.0)).chain((0..16).map(|i| i | ((15 - i) << 4))).collect();
    let mut parts = GgufParts::default();
    parts.set("general.architecture", text("llama")).set("llama.attention.head_count", Meta::U32(1));
    for (name, kind, bytes) in [("blk.0.ffn_up.weight", 8, q8), ("blk.0.ffn_down.weight", 3, q4)] {
        parts.tensors.push(TensorPart { name: name.to_owned(), dims: vec![32, 1], kind, bytes });
    }
    let folder = tempfile::tempdir().unwrap();
    let files = WeightFiles::open(&parts.write(folder.path())).unwrap();
    let read = |name: &str| {
        let spec = crate::architecture::TensorSpec {
            name: format!("model.layers.0.mlp.{name}.weight"),
            shape: vec![1, 32],
            kind: crate::ParameterKind::Matrix,
        };
        files.get(&spec, DType::F32, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let q8: Vec<f32> = (0..32).map(|i| (i - 16) as f32 * 0.5).collect();
    let q4: Vec<f32> = (0..16).chain((0..16).rev()).map(|i| i as f32 * 0.25 - 1.0).collect();
    assert_eq!((read("up_proj"), read("down_proj")), (q8, q4));
    assert_eq!(files.stored_dtype(), Some(crate::StoredDtype::Bf16));
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let mut parts = model("llama");
    let up = parts.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_up.weight").unwrap();
    up.bytes[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
    let text = refusal(&parts);
    assert!(text.contains("blk.0.ffn_up.weight") && text.contains("index 5"), "{text}");
}

#[test]
fn no_cut_and_no_lie_about_a_length_is_more_than_a_refusal() {
    let whole = model("llama").bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let read = |bytes: &[u8]| {
        atomic::write_bytes(&path, bytes).unwrap();
        let loaded = Decoder::load(&path, &LoadOptions::default()).map(drop);
        let tokenised = Tokenizer::load(&path).map(drop);
        for outcome in [&loaded, &tokenised] {
            if let Err(error) = outcome {
                assert_eq!(error.kind(), Kind::Input, "{error}");
            }
        }
        loaded
    };
    assert!(read(&whole).is_ok());
    let header = whole.len() / 2;
    for length in (0..header).step_by(7).chain([whole.len() - 1, whole.len() - 33]) {
        assert!(read(&whole[..length]).is_err(), "cut at {length}");
    }
    // Every 8 bytes of the header's begin as an absurd count, length or dimension.
    for place in (4..header.min(2600)).step_by(3) {
        for lie in [u64::MAX, 1 << 62, 1 << 33, 0] {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&lie.to_le_bytes());
            let _outcome = read(&bytes);
        }
    }
}

#[test]
fn what_a_header_may_not_say() {
    let with = |change: &dyn Fn(&mut GgufParts)| {
        let mut parts = model("llama");
        change(&mut parts);
        refusal(&parts)
    };
    let twice = with(&|parts| parts.tensors.push(parts.tensors[3].clone()));
    assert!(twice.contains("twice") && twice.contains("blk.0.attn_v.weight"), "{twice}");
    let key = with(&|parts| parts.metadata.push(parts.metadata[2].clone()));
    assert!(key.contains("twice") && key.contains("llama.embedding_length"), "{key}");
    let unknown = with(&|parts| parts.tensors[1].kind = 23);
    assert!(unknown.contains("IQ4_XS") && unknown.contains("blk.0.attn_q.weight"), "{unknown}");
    assert!(with(&|parts| parts.tensors[1].kind = 7777).contains("unknown type 7777"));
    let alignment = with(&|parts| {
        parts.set("general.alignment", Meta::U32(3));
    });
    assert!(alignment.contains("general.alignment"), "{alignment}");
    let blocks = with(&|parts| parts.tensors[1].kind = 8);
    assert!(blocks.contains("whole blocks of 32"), "{blocks}");
    let dims = with(&|parts| parts.tensors[1].dims = vec![8, 0]);
    assert!(dims.contains("dimensions"), "{dims}");
    let other = with(&|parts| parts.tensors[1].dims = vec![8, 4]);
    assert!(other.contains("shape [4, 8]"), "{other}");
    let foreign = with(&|parts| parts.tensors[1].name = "blk.0.attn_sub_norm.weight".to_owned());
    assert!(foreign.contains("attn_sub_norm"), "{foreign}");
    let moe = with(&|parts| {
        parts.set("llama.expert_count", Meta::U32(8));
    });
    assert!(moe.contains("mixture of experts"), "{moe}");
    let split = with(&|parts| {
        parts.set("split.count", Meta::U32(3));
    });
    assert!(split.contains("one of 3 parts"), "{split}");
    let architecture = with(&|parts| {
        parts.set("general.architecture", text("mamba"));
    });
    assert!(architecture.contains("mamba") && architecture.contains("qwen3"), "{architecture}");
    let yarn = with(&|parts| {
        parts.set("llama.rope.scaling.type", text("yarn")).set("llama.rope.scaling.factor", Meta::F32(4.0));
    });
    assert!(yarn.contains("yarn"), "{yarn}");
    let heads = with(&|parts| {
        parts.set("llama.attention.head_count", text("two"));
    });
    assert!(heads.contains("llama.attention.head_count"), "{heads}");
    let pre = with(&|parts| {
        parts.set("tokenizer.ggml.pre", text("tomorrow"));
    });
    assert!(pre.contains("tomorrow") && pre.contains("llama-bpe"), "{pre}");
    let kind = with(&|parts| {
        parts.set("tokenizer.ggml.model", text("bert"));
    });
    assert!(kind.contains("bert"), "{kind}");
    let eos = with(&|parts| {
        parts.set("tokenizer.ggml.eos_token_id", Meta::U32(99));
    });
    assert!(eos.contains("eos_token_id"), "{eos}");
}

#[test]
fn other_files_under_the_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let read = |bytes: &[u8]| {
        atomic::write_bytes(&path, bytes).unwrap();
        Architecture::load(&path).unwrap_err().to_string()
    };
    assert!(read(b"PK\x03\x04 and more").contains("no GGUF"));
    assert!(read(b"version https://git-lfs.github.com/spec/v1").contains("Git LFS"));
    assert!(read(b"GGUF\x01\0\0\0 and more bytes").contains("version 1"));
    assert!(read(b"GGUF\0\0\0\x03 and more bytes").contains("big-endian"));
    assert!(read(b"GGU").contains("3 bytes"));
    let absent = Architecture::load(&folder.path().join("none.gguf")).unwrap_err();
    assert!(absent.kind() == Kind::Input && absent.to_string().contains("no such file"), "{absent}");
    // A folder with a GGUF in it names the file.
    let error = WeightFiles::open(folder.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("model.gguf"), "{error}");
}

fn tokenizer(parts: &GgufParts) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::load(&parts.write(folder.path())).unwrap()
}

#[test]
fn the_cut_before_bpe_goes_by_its_name() {
    let ids = |pre: &str, written: &str| {
        let mut parts = model("llama");
        parts.set("tokenizer.ggml.pre", text(pre));
        // 11 is "12" as one token, 12 an apostrophe with L.
        let tokens = ["<s>", "</s>", "a", "b", "ab", "Ġ", "1", "2", "Ċ", "'", "L", "12", "'L"];
        parts
            .set("tokenizer.ggml.tokens", texts(&tokens))
            .set("tokenizer.ggml.token_type", Meta::I32s([vec![3, 3], vec![1; 11]].concat()))
            .set("tokenizer.ggml.merges", texts(&["a b", "1 2", "' L"]));
        tokenizer(&parts).encode(written, false).unwrap()
    };
    assert_eq!(ids("gpt-2", "ab12"), [4, 11]);
    assert_eq!(ids("llama-bpe", "ab12"), [4, 11]);
    assert_eq!(ids("qwen2", "ab12"), [4, 6, 7]);
    assert_eq!(ids("smollm", "ab12"), [4, 6, 7]);
    // A capital contraction is one piece where case is ignored; GPT-2 cuts before the letters.
    assert_eq!(ids("gpt-2", "'L"), [9, 10]);
    assert_eq!(ids("llama-bpe", "'L"), [12]);
}

#[test]
fn special_tokens_go_by_their_kind_and_bos_by_its_key() {
    let mut parts = model("llama");
    let encode = |parts: &GgufParts, text: &str, special| tokenizer(parts).encode(text, special).unwrap();
    assert_eq!(encode(&parts, "a</s>b", true), [2, 1, 3]);
    parts.set("tokenizer.ggml.pre", text("llama-bpe"));
    assert_eq!(encode(&parts, "a", true), [0, 2]);
    parts.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert_eq!(encode(&parts, "a", true), [2]);
    parts
        .set("tokenizer.ggml.add_bos_token", Meta::Bool(true))
        .set("tokenizer.ggml.add_eos_token", Meta::Bool(true));
    assert_eq!(encode(&parts, "a", true), [0, 2, 1]);
    let read = tokenizer(&parts);
    assert_eq!((read.bos_token(), read.eos_token()), (Some("<s>"), Some("</s>")));
    assert_eq!(read.decode(&[0, 2, 5, 3, 1], true).unwrap(), "a b");
}

#[test]
fn sentencepiece_joins_by_score_and_falls_back_to_bytes() {
    let mut parts = model("llama");
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "ab", "bc", "▁a", "▁abc", "▁ab"];
    let scores = [0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -3.0, -5.0, -4.0];
    // SentencePiece has scores and no list of merges.
    parts.metadata.retain(|(name, _)| name != "tokenizer.ggml.merges");
    parts
        .set("tokenizer.ggml.model", text("llama"))
        .set("tokenizer.ggml.tokens", texts(&tokens))
        .set("tokenizer.ggml.scores", Meta::F32s(scores.to_vec()))
        .set("tokenizer.ggml.token_type", Meta::I32s([vec![2, 3, 3, 6], vec![1; 9]].concat()))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    let encode = |text: &str| tokenizer(&parts).encode(text, false).unwrap();
    // ▁ a b c: ab (-1), then ▁ab (-4), then ▁abc (-5).
    assert_eq!(encode("abc"), [11]);
    // b c after a space: bc.
    assert_eq!(encode("bc"), [4, 9]);
    assert_eq!(encode("a\n"), [10, 3]);
    assert_eq!(tokenizer(&parts).encode("abc", true).unwrap(), [1, 11]);
    assert_eq!(tokenizer(&parts).decode(&[11, 10, 3], true).unwrap(), "abc a\n");
    parts.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    assert_eq!(tokenizer(&parts).encode("abc", false).unwrap(), [8, 7]);
}

#[test]
fn a_turn_s_end_stops_where_the_template_writes_it() {
    let mut parts = model("llama");
    let tokens = ["<s>", "</s>", "a", "b", "ab", "Ġ", "1", "2", "Ċ", "<|im_end|>", "<|end|>"];
    parts.set("tokenizer.ggml.tokens", texts(&tokens));
    let stops = |parts: &GgufParts| {
        let folder = tempfile::tempdir().unwrap();
        let path = parts.write(folder.path());
        Codec::load(&path, None).unwrap().stop_ids(&path).unwrap()
    };
    assert_eq!(stops(&parts), [1]);
    parts.set("tokenizer.chat_template", text("{{ messages[0].content }}<|im_end|>"));
    assert_eq!(stops(&parts), [1, 9]);
    parts.set("tokenizer.ggml.eot_token_id", Meta::I32(10));
    assert_eq!(stops(&parts), [1, 9, 10]);
}

#[test]
fn llama_3_s_scaling_is_found_behind_its_divisors() {
    let theta: f64 = 500_000.0;
    let divisors = |scaling: &Llama3Scaling, width: usize| -> Vec<f64> {
        let wavelength = |i: usize| std::f64::consts::TAU * theta.powf(i as f64 / width as f64);
        (0..width).map(|i| f64::from(scaling.divisor(wavelength(i)) as f32)).collect()
    };
    let published = Llama3Scaling { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
    assert_eq!(Llama3Scaling::behind(&divisors(&published, 64), theta), Found::Scaling(published));
    for other in [
        Llama3Scaling { factor: 32.0, low: 1.0, high: 4.0, original: 512.0 },
        Llama3Scaling { factor: 4.0, low: 2.0, high: 6.0, original: 1000.0 },
    ] {
        let wanted = divisors(&other, 64);
        let Found::Scaling(found) = Llama3Scaling::behind(&wanted, theta) else { panic!("{other:?}") };
        for (i, want) in wanted.iter().enumerate() {
            let wavelength = std::f64::consts::TAU * theta.powf(i as f64 / 64.0);
            assert!((found.divisor(wavelength) / want - 1.0).abs() < 1e-5, "{found:?} {i}");
        }
    }
    assert_eq!(Llama3Scaling::behind(&[1.0; 8], theta), Found::Plain);
    assert_eq!(Llama3Scaling::behind(&[1.0, 3.0, 2.0, 8.0], theta), Found::Unknown);
    let mut parts = model("llama");
    parts.f32s("rope_freqs.weight", &[2], &[1.0, 8.0]);
    assert!(matches!(
        open(&parts).unwrap().architecture().rope().unwrap().scaling,
        crate::architecture::RopeScaling::Llama3 { factor: 8.0, .. }
    ));
}
