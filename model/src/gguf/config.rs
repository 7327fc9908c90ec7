//! Metadata → config.json and generation_config.json, as the model's folder would have them.

use serde_json::{Map, Value, json};

use super::Gguf;
use super::architecture::GgufArchitecture;
use crate::error::ModelError;

/// Tokens that end a turn, whatever a file calls them: its `eos_token_id` is often the one that ends a document.
const ENDS_OF_TURN: [&str; 6] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"];

impl Gguf {
    /// config.json.
    pub(super) fn config(&self) -> Result<Value, ModelError> {
        let architecture = self.architecture()?;
        let key = |part: &str| format!("{}.{part}", architecture.name());
        if self.count(&key("expert_count"))?.is_some_and(|experts| experts > 0) {
            let want = "use a dense model";
            return Err(self.wrong(&key("expert_count"), "makes this a mixture of experts", want));
        }
        let hidden = self.required_count(&key("embedding_length"))?;
        let heads = self.required_count(&key("attention.head_count"))?;
        let kv_heads = self.count(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let head_dim = match self.count(&key("attention.key_length"))? {
            Some(head_dim) => head_dim,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        if self.count(&key("attention.value_length"))?.is_some_and(|length| length != head_dim) {
            let want = "keys and values must have heads of one size";
            return Err(self.wrong(&key("attention.value_length"), "is not that of the keys", want));
        }
        let rotated = self.count(&key("rope.dimension_count"))?.unwrap_or(head_dim);
        if rotated != head_dim && architecture != GgufArchitecture::Phi3 {
            let want = "use a model that turns the whole head";
            return Err(self.wrong(&key("rope.dimension_count"), "is not the head's size", want));
        }
        let embedding = self.tensors.get("token_embd.weight").ok_or_else(|| {
            ModelError::input(
                self.path(),
                "it has no tensor token_embd.weight",
                "take a file of a whole model",
            )
        })?;
        let mut config = Map::new();
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("model_type", json!(architecture.model_type()));
        put("vocab_size", json!(embedding.shape[0]));
        put("hidden_size", json!(hidden));
        put("intermediate_size", json!(self.required_count(&key("feed_forward_length"))?));
        put("num_hidden_layers", json!(self.required_count(&key("block_count"))?));
        put("num_attention_heads", json!(heads));
        put("num_key_value_heads", json!(kv_heads));
        put("head_dim", json!(head_dim));
        put("max_position_embeddings", json!(self.required_count(&key("context_length"))?));
        if let Some(eps) = self.number(&key("attention.layer_norm_rms_epsilon"))? {
            put("rms_norm_eps", json!(eps));
        }
        put("tie_word_embeddings", json!(!self.tensors.contains_key("output.weight")));
        put("attention_bias", json!(self.tensors.contains_key("blk.0.attn_q.bias")));
        put("mlp_bias", json!(self.tensors.contains_key("blk.0.ffn_down.bias")));
        put("rope_theta", json!(self.number(&key("rope.freq_base"))?.unwrap_or(10_000.0)));
        put("torch_dtype", json!(self.written_dtype()));
        for (name, key) in [
            ("bos_token_id", "bos_token_id"),
            ("eos_token_id", "eos_token_id"),
            ("pad_token_id", "padding_token_id"),
        ] {
            if let Some(id) = self.token_id(&format!("tokenizer.ggml.{key}"))? {
                put(name, json!(id));
            }
        }
        if let Some(scaling) = self.rope_scaling(architecture)? {
            put("rope_scaling", scaling);
        }
        config.extend(self.own_keys(architecture, head_dim, rotated)?);
        Ok(Value::Object(config))
    }

    /// The keys of config.json that one family alone has.
    fn own_keys(
        &self,
        architecture: GgufArchitecture,
        head_dim: usize,
        rotated: usize,
    ) -> Result<Map<String, Value>, ModelError> {
        let key = |part: &str| format!("{}.{part}", architecture.name());
        let hidden = self.required_count(&key("embedding_length"))?;
        let heads = self.required_count(&key("attention.head_count"))?;
        let layers = self.required_count(&key("block_count"))?;
        let window = self.count(&key("attention.sliding_window"))?.filter(|window| *window > 0);
        let mut keys = Map::new();
        let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        // The files do not say it; llama.cpp, too, goes by the number of layers of the 27B models.
        let scalar = |largest: usize| {
            if layers == largest { hidden.checked_div(heads).unwrap_or(0) } else { head_dim }
        };
        match architecture {
            GgufArchitecture::Llama | GgufArchitecture::Olmo2 | GgufArchitecture::SmolLm3 => {}
            GgufArchitecture::Qwen2 | GgufArchitecture::Qwen3 => {
                put("use_sliding_window", json!(false));
            }
            GgufArchitecture::Gemma => {
                put("hidden_activation", json!("gelu_pytorch_tanh"));
            }
            GgufArchitecture::Gemma2 => {
                put("hidden_activation", json!("gelu_pytorch_tanh"));
                put("sliding_window", json!(window.unwrap_or(4096)));
                put("query_pre_attn_scalar", json!(scalar(46)));
                for (name, part, default) in [
                    ("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
                    ("final_logit_softcapping", "final_logit_softcapping", 30.0),
                ] {
                    put(name, json!(self.number(&key(part))?.unwrap_or(default)));
                }
            }
            GgufArchitecture::Gemma3 => {
                put("hidden_activation", json!("gelu_pytorch_tanh"));
                put("sliding_window", json!(window.unwrap_or(1024)));
                put("query_pre_attn_scalar", json!(scalar(62)));
                let local = self.number(&key("rope.freq_base_swa"))?.unwrap_or(10_000.0);
                put("rope_local_base_freq", json!(local));
                if let Some(cap) = self.number(&key("final_logit_softcapping"))? {
                    put("final_logit_softcapping", json!(cap));
                }
                if !self.has(&key("rope.freq_base")) {
                    put("rope_theta", json!(1_000_000.0));
                }
                let pattern = key("attention.sliding_window_pattern");
                if self.is_list(&pattern) {
                    let kind = |is_sliding: &f64| {
                        if *is_sliding == 0.0 { "full_attention" } else { "sliding_attention" }
                    };
                    let types = self.numbers(&pattern)?.unwrap_or_default();
                    put("layer_types", types.iter().map(kind).collect());
                } else {
                    put("sliding_window_pattern", json!(self.count(&pattern)?.unwrap_or(6)));
                }
            }
            GgufArchitecture::Phi3 => {
                put("sliding_window", json!(window));
                put("partial_rotary_factor", json!(rotated as f64 / head_dim.max(1) as f64));
                if let Some(original) = self.count(&key("rope.scaling.original_context_length"))? {
                    put("original_max_position_embeddings", json!(original));
                }
            }
        }
        Ok(keys)
    }

    /// generation_config.json: the ids that end a response.
    pub(super) fn generation_config(&self) -> Result<Value, ModelError> {
        let id = |name: &str| self.token_id(&format!("tokenizer.ggml.{name}_token_id"));
        let mut ends: Vec<u32> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
        let template = self.text("tokenizer.chat_template")?.unwrap_or_default();
        let written: Vec<&str> = ENDS_OF_TURN.into_iter().filter(|token| template.contains(token)).collect();
        if !written.is_empty() {
            let tokens = self.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
            let of_turn = tokens.iter().enumerate().filter(|(_, token)| written.contains(token));
            ends.extend(of_turn.map(|(id, _)| id as u32));
        }
        ends.sort_unstable();
        ends.dedup();
        let mut config = Map::new();
        if let Some(bos) = id("bos")? {
            config.insert("bos_token_id".to_owned(), json!(bos));
        }
        if !ends.is_empty() {
            config.insert("eos_token_id".to_owned(), json!(ends));
        }
        Ok(Value::Object(config))
    }

    /// The number format that a folder of this model is written in: the one of most weights; bf16 of quantised ones.
    fn written_dtype(&self) -> &'static str {
        use candle_core::quantized::GgmlDType;
        let largest = self.tensors.values().max_by_key(|tensor| tensor.shape.iter().product::<usize>());
        match largest.map(|tensor| tensor.format) {
            Some(GgmlDType::F32) => "float32",
            Some(GgmlDType::F16) => "float16",
            _ => "bfloat16",
        }
    }
}
