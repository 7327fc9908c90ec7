//! A policy, a preference model and prompts so small that a run of two iterations takes about a second.
//!
//! Weights are drawn from a fixed counter-based sequence: every test makes the same bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, TensorView};
use selfplay_records::atomic;
use serde_json::json;

const CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyz 0123456789+-=?:.\n";
const HIDDEN: usize = 16;
const LAYERS: usize = 2;
const INNER: usize = 24;
const HEADS: usize = 2;
const HEAD: usize = 8;

/// A folder with everything that a run reads.
pub struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    /// Makes policy, preference models and prompts.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        write_model(&root.join("policy"), 1, None);
        write_model(&root.join("preference"), 2, Some(4));
        write_model(&root.join("other_preference"), 3, Some(1));
        for split in 0..2 {
            let rows: String = (0..20)
                .map(|row| format!("{{\"prompt\": \"what is {} + {}?\"}}\n", split * 20 + row, row % 7))
                .collect();
            write(&root.join(format!("split_{split}.jsonl")), &rows);
        }
        let held_out: String =
            (0..6).map(|row| format!("{{\"prompt\": \"say {row}\", \"answer\": \"{row}\"}}\n")).collect();
        write(&root.join("held_out.jsonl"), &held_out);
        let this = Self { folder };
        write(&this.recipe(), &this.recipe_text());
        this
    }

    /// The recipe's file.
    pub fn recipe(&self) -> PathBuf {
        self.path("recipe.toml")
    }

    /// A path in the workshop.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn recipe_text(&self) -> String {
        let root = self.folder.path().display();
        format!(
            "name = \"tiny\"\niterations = 2\nseed = 7\n\
             [policy]\nmodel = \"{root}/policy\"\n\
             [prompts]\nsplits = [\"{root}/split_0.jsonl\", \"{root}/split_1.jsonl\"]\n\
             [sample]\nnum_samples = 4\ntemperature = 1.0\ntop_p = 1.0\nmax_new_tokens = 10\nshard_prompts = 6\n\
             [score]\nmodel = \"{root}/preference\"\n\
             [train]\nbeta = 0.1\nlearning_rate = 1e-3\nbatch_size = 4\ncheckpoint_every = 2\nmicro_batch_tokens = 256\n\
             [eval]\nprompts = \"{root}/held_out.jsonl\"\nanswers = \"answer\"\nchecker = \"contains\"\n"
        )
    }

    /// The binary with arguments, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selfplay"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("SELFPLAY_FAULT");
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    /// Runs the binary and expects success.
    pub fn succeed(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, error_text(&output));
        output
    }

    /// Runs the binary and expects a status and a message with every one of the words.
    pub fn fail(&self, arguments: &[&str], status: i32, words: &[&str]) {
        let output = self.run(arguments);
        let text = error_text(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: expected {word:?} in: {text}");
        }
    }
}

/// Standard error as text.
pub fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What must be the same in two runs of one recipe: pairs and every policy's files, by name.
pub fn results(run: &Path) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    for iteration in ["iteration_01", "iteration_02"] {
        let folder = run.join(iteration);
        let mut paths = vec![folder.join("pairs.parquet"), folder.join("eval_samples.parquet")];
        if let Ok(entries) = std::fs::read_dir(folder.join("policy")) {
            paths.extend(entries.map(|entry| entry.expect("a folder that can be listed").path()));
        }
        for path in paths {
            let name = path.strip_prefix(run).expect("a path in the run").display().to_string();
            files.insert(name, std::fs::read(&path).unwrap_or_default());
        }
    }
    files
}

/// That two runs made the same bytes.
pub fn assert_same_results(one: &Path, other: &Path) {
    let (one, other) = (results(one), results(other));
    assert!(one.keys().any(|name| name.ends_with("model.safetensors")), "{:?}", one.keys());
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        assert!(one.get(name) == other.get(name), "{name} differs");
    }
}

fn write(path: &Path, text: &str) {
    atomic::write_bytes(path, text.as_bytes()).expect("a file can be written");
}

/// A Llama of two layers, with a value head of `head` rows where it is a preference model.
fn write_model(folder: &Path, seed: u64, head: Option<usize>) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
    let mut vocabulary = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>"].into_iter().enumerate() {
        vocabulary.insert(token.to_owned(), json!(id));
    }
    for (id, character) in CHARACTERS.chars().enumerate() {
        vocabulary.insert(character.to_string(), json!(id + 3));
    }
    let size = vocabulary.len();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary, "merges": []}
    });
    write(&folder.join("tokenizer.json"), &tokenizer.to_string());
    let template = "{{ bos_token }}{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '\n' }}{% endfor %}\
                    {% if add_generation_prompt %}a:{% endif %}";
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template,
                        "tokenizer_class": "PreTrainedTokenizerFast"});
    write(&folder.join("tokenizer_config.json"), &config.to_string());
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size, "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": 1, "head_dim": HEAD, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "attention_bias": false,
        "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"
    });
    write(&folder.join("config.json"), &config.to_string());
    write_weights(&folder.join("model.safetensors"), seed, size, head);
}

fn write_weights(path: &Path, seed: u64, vocabulary: usize, head: Option<usize>) {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![vocabulary, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
        ("lm_head.weight".into(), vec![vocabulary, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        shapes.extend([
            (name("self_attn.q_proj"), vec![HEADS * HEAD, HIDDEN]),
            (name("self_attn.k_proj"), vec![HEAD, HIDDEN]),
            (name("self_attn.v_proj"), vec![HEAD, HIDDEN]),
            (name("self_attn.o_proj"), vec![HIDDEN, HEADS * HEAD]),
            (name("mlp.gate_proj"), vec![INNER, HIDDEN]),
            (name("mlp.up_proj"), vec![INNER, HIDDEN]),
            (name("mlp.down_proj"), vec![HIDDEN, INNER]),
            (name("input_layernorm"), vec![HIDDEN]),
            (name("post_attention_layernorm"), vec![HIDDEN]),
        ]);
    }
    if let Some(rows) = head {
        shapes.push(("value_head.weight".into(), vec![rows, HIDDEN]));
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            let values = (0..count).map(|_| if shape.len() == 1 { 1.0 } else { 0.6 * uniform(&mut state) });
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("shape and bytes agree"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).expect("tensors can be written");
    atomic::write_bytes(path, &file).expect("a file can be written");
}

/// From −1 to 1, splitmix64.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}
