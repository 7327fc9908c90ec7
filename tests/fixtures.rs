//! Tiny models, prompts and recipes in temporary folders, and the real binary run on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, TensorView};
use selfplay_records::atomic;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Words of the tiny tokenizer; their places are their ids.
pub const WORDS: [&str; 24] = [
    "<unk>",
    "<bos>",
    "<eos>",
    "<user>",
    "<assistant>",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
    "o",
    "p",
    "q",
    "r",
    "s",
];

/// Longest context of the tiny models.
pub const CONTEXT: usize = 64;

const HIDDEN: usize = 16;
const WIDE: usize = 24;
const LAYERS: usize = 2;

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{{ m.content }}{{ eos_token }}\
{% else %}<user>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A temporary folder with a policy, a preference model, prompts and a recipe over them.
pub struct World {
    folder: TempDir,
}

impl World {
    /// Everything valid; tests break one thing each.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        write_model(&world.path("policy"), None);
        write_model(&world.path("judge"), Some(Heads { value: 4, prompt: Some(2) }));
        world.write("prompts.jsonl", &prompts(12));
        world.write("recipe.toml", &world.recipe());
        world
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) {
        self.write_bytes(name, text.as_bytes());
    }

    /// Writes a file.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        atomic::write_bytes(&self.path(name), bytes).unwrap();
    }

    /// One iteration, two shards, two steps: a run of a second or so.
    pub fn recipe(&self) -> String {
        "name = \"tiny\"\niterations = 1\nseed = 7\n\
         [policy]\nmodel = \"policy\"\n\
         [prompts]\nsplits = [\"prompts.jsonl\"]\n\
         [sample]\nnum_samples = 3\nmax_new_tokens = 6\nshard_prompts = 6\ntemperature = 1.0\ntop_p = 1.0\n\
         [score]\nmodel = \"judge\"\n\
         [train]\nbatch_size = 5\nlearning_rate = 1e-3\nwarmup_ratio = 0\nmax_length = 48\nmax_prompt_length = 24\n\
         [eval]\nmax_prompts = 2\n"
            .to_owned()
    }

    /// Runs the real binary in the folder.
    pub fn selfplay(&self, arguments: &[&str]) -> Outcome {
        selfplay_in(self.folder.path(), arguments)
    }

    /// Names of everything in the folder, sub-folders with a slash, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        list(self.folder.path(), "", &mut names);
        names.sort();
        names
    }
}

/// What a run of the binary said.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    /// Status 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self
    }

    /// Status 2 within seconds, one message on standard error that holds all of `words`.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        assert_eq!(self.status, Some(2), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let messages = self.stderr.lines().filter(|line| line.starts_with("selfplay: ")).count();
        assert_eq!(messages, 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("defect"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        assert!(self.took < Duration::from_secs(20), "took {:?}", self.took);
        self
    }
}

/// Runs the real binary.
pub fn selfplay_in(folder: &Path, arguments: &[&str]) -> Outcome {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_selfplay"))
        .args(arguments)
        .current_dir(folder)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", folder.join("hub"))
        .env_remove("SELFPLAY_LOG")
        .output()
        .unwrap();
    Outcome {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

/// `count` prompts of two to four words.
pub fn prompts(count: usize) -> String {
    let word = |n: usize| WORDS[5 + n % 19];
    (0..count)
        .map(|n| {
            let words: Vec<&str> = (0..2 + n % 3).map(|place| word(n + place * 7 + n / 19)).collect();
            format!("{}\n", json!({"prompt": words.join(" "), "answer": word(n)}))
        })
        .collect()
}

/// Rows of a preference model's heads.
#[derive(Clone, Copy)]
pub struct Heads {
    pub value: usize,
    pub prompt: Option<usize>,
}

/// A random Llama in Hugging Face layout, with its tokenizer and chat template.
pub fn write_model(folder: &Path, heads: Option<Heads>) {
    write_weights(folder, &tensors(heads));
    let json = |name: &str, value: Value| {
        atomic::write_bytes(&folder.join(name), value.to_string().as_bytes()).unwrap();
    };
    json("config.json", config());
    json("tokenizer.json", tokenizer());
    json(
        "tokenizer_config.json",
        json!({"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "chat_template": TEMPLATE,
               "tokenizer_class": "PreTrainedTokenizerFast"}),
    );
}

/// The tiny models' config.json.
pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS.len(),
        "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "hidden_act": "silu",
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
        "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false, "bos_token_id": 1,
        "eos_token_id": 2, "torch_dtype": "float32"
    })
}

fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let special: Vec<Value> = WORDS[..5]
        .iter()
        .enumerate()
        .map(|(id, word)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    })
}

/// A tensor of f32.
#[derive(Clone)]
pub struct Weights {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// All tensors of a tiny model.
pub fn tensors(heads: Option<Heads>) -> Vec<Weights> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let size: usize = shape.iter().product();
        let values = (0..size)
            .map(|_| {
                // A linear congruential generator is random enough for weights that nobody reads.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 40) as f32 / (1 << 24) as f32;
                if shape.len() == 1 { 0.9 + 0.2 * unit } else { unit - 0.5 }
            })
            .collect();
        all.push(Weights { name, shape: shape.to_vec(), values });
    };
    add("model.embed_tokens.weight".into(), &[WORDS.len(), HIDDEN]);
    for layer in 0..LAYERS {
        let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(at("input_layernorm"), &[HIDDEN]);
        add(at("self_attn.q_proj"), &[16, HIDDEN]);
        add(at("self_attn.k_proj"), &[8, HIDDEN]);
        add(at("self_attn.v_proj"), &[8, HIDDEN]);
        add(at("self_attn.o_proj"), &[HIDDEN, 16]);
        add(at("post_attention_layernorm"), &[HIDDEN]);
        add(at("mlp.gate_proj"), &[WIDE, HIDDEN]);
        add(at("mlp.up_proj"), &[WIDE, HIDDEN]);
        add(at("mlp.down_proj"), &[HIDDEN, WIDE]);
    }
    add("model.norm.weight".into(), &[HIDDEN]);
    add("lm_head.weight".into(), &[WORDS.len(), HIDDEN]);
    if let Some(heads) = heads {
        add("value_head.weight".into(), &[heads.value, HIDDEN]);
        if let Some(rows) = heads.prompt {
            add("prompt_head.weight".into(), &[rows, HIDDEN]);
        }
    }
    all
}

/// model.safetensors of some tensors; the folder is made.
pub fn write_weights(folder: &Path, tensors: &[Weights]) {
    fs::create_dir_all(folder).unwrap();
    atomic::write_bytes(&folder.join("model.safetensors"), &safetensors_of(tensors)).unwrap();
}

/// A safetensors file's bytes.
pub fn safetensors_of(tensors: &[Weights]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        (tensor.name.clone(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{name}/"), names);
            names.push(format!("{name}/"));
        } else {
            names.push(name);
        }
    }
}
