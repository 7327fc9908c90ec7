//! A model of 24 words and two layers, as a folder in Hugging Face's layout: a policy, or a preference model of either kind.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use selfplay_records::atomic;
use serde_json::{Value, json};

use crate::json_file::{special_token, write_json};
use crate::random::Random;

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

/// The tokens that stand for no word come first; this many.
pub const SPECIAL: usize = 5;

/// Longest context.
pub const CONTEXT: usize = 64;

/// Size of a hidden state.
pub const HIDDEN: usize = 16;

/// Size between the two products of a feed-forward.
pub const WIDE: usize = 24;

/// Number of layers.
pub const LAYERS: usize = 2;

/// Prints every turn, and ends an assistant's with the end token.
pub const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{{ m.content }}{{ eos_token }}\
{% else %}<user>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A word by number; numbers past the last word begin anew.
pub fn word(number: usize) -> &'static str {
    WORDS[SPECIAL + number % (WORDS.len() - SPECIAL)]
}

/// Rows of a preference model's heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Of `value_head`: 2k of a general preference model, 1 of Bradley-Terry.
    pub value: usize,
    /// Of `prompt_head`, where there is one.
    pub prompt: Option<usize>,
}

/// What distinguishes two of these models: their weights, and the heads of a preference model.
#[derive(Clone, Copy, Debug)]
pub struct TinyModel {
    /// Of the random weights.
    pub seed: u64,
    /// `None`: a policy.
    pub heads: Option<Heads>,
}

impl TinyModel {
    /// A policy.
    pub const POLICY: Self = Self { seed: 1, heads: None };

    /// A general preference model with k = 2.
    pub const PREFERENCE: Self = Self::preference(4, Some(2));

    /// A Bradley-Terry model.
    pub const BRADLEY_TERRY: Self = Self::preference(1, None);

    /// A preference model whose heads have so many rows.
    pub const fn preference(value: usize, prompt: Option<usize>) -> Self {
        Self { seed: 2, heads: Some(Heads { value, prompt }) }
    }

    /// Writes the folder, with tokenizer and chat template.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let weights = safetensors_of(&self.tensors());
        atomic::write_bytes(&folder.join("model.safetensors"), &weights).unwrap();
        write_json(&folder.join("config.json"), &config());
        write_json(&folder.join("tokenizer.json"), &tokenizer());
        write_json(
            &folder.join("tokenizer_config.json"),
            &json!({"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "chat_template": TEMPLATE,
                    "tokenizer_class": "PreTrainedTokenizerFast"}),
        );
    }

    /// All its tensors: matrices between −½ and ½, weights of norms about 1.
    pub fn tensors(&self) -> Vec<Weights> {
        let mut random = Random::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut draw = |(name, shape): (String, Vec<usize>)| {
            let size: usize = shape.iter().product();
            let number =
                |_| if shape.len() == 1 { 1.0 + 0.1 * random.signed() } else { 0.5 * random.signed() };
            Weights { values: (0..size).map(number).collect(), name, shape }
        };
        self.shapes().into_iter().map(&mut draw).collect()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![WORDS.len(), HIDDEN])];
        for layer in 0..LAYERS {
            let parts = [
                ("input_layernorm", vec![HIDDEN]),
                ("self_attn.q_proj", vec![16, HIDDEN]),
                ("self_attn.k_proj", vec![8, HIDDEN]),
                ("self_attn.v_proj", vec![8, HIDDEN]),
                ("self_attn.o_proj", vec![HIDDEN, 16]),
                ("post_attention_layernorm", vec![HIDDEN]),
                ("mlp.gate_proj", vec![WIDE, HIDDEN]),
                ("mlp.up_proj", vec![WIDE, HIDDEN]),
                ("mlp.down_proj", vec![HIDDEN, WIDE]),
            ];
            shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
        }
        shapes.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
        shapes.push(("lm_head.weight".to_owned(), vec![WORDS.len(), HIDDEN]));
        if let Some(Heads { value, prompt }) = self.heads {
            shapes.push(("value_head.weight".to_owned(), vec![value, HIDDEN]));
            shapes.extend(prompt.map(|rows| ("prompt_head.weight".to_owned(), vec![rows, HIDDEN])));
        }
        shapes
    }
}

/// The config.json of all these models.
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

/// The tokenizer.json of all these models: words between spaces.
pub fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let special: Vec<Value> =
        WORDS[..SPECIAL].iter().enumerate().map(|(id, word)| special_token(id, word)).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    })
}

/// A tensor of f32.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Its name in the file.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Row by row.
    pub values: Vec<f32>,
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
