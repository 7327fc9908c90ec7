//! The `[sample]` section: keys, defaults, check.
//!
//! `max_batch_rows`, `token_budget` and `cache_mib` trade memory for speed; without them the device decides
//! ([`Capacity`]). They change no candidate where its bits don't depend on its batch: on a CPU, and on a GPU with
//! `batch_invariant`. `seed`, `iteration` and `capacity` are the run's and no keys of the section.

use candle_core::DType;
use schemars::JsonSchema;
use selfplay_model::KvFormat;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use crate::{Capacity, Sampling};

/// The most rows of a step: a hundred times what fills a GPU.
const MOST_ROWS: usize = 1 << 16;

/// The most tokens of a step, whose activations are in memory together.
const MOST_STEP_TOKENS: usize = 1 << 20;

/// The largest cache: 16 TiB.
const MOST_CACHE_MIB: usize = 1 << 24;

/// How candidates are drawn. Deserialises from a recipe's `[sample]` table; an unknown key is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleSettings {
    /// K, the candidates per prompt; a run needs 2 or more.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub num_samples: usize,
    /// Divides the logits; 0 is greedy.
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// The most likely tokens that together hold this probability are kept; 1 is off.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub top_p: f64,
    /// This many of the most likely tokens are kept; 0 is off.
    pub top_k: usize,
    /// Tokens at least this fraction as likely as the most likely one are kept; 0 is off.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: f64,
    /// Tokens per response at most.
    #[schemars(range(min = 1, max = 1_073_741_824))]
    pub max_new_tokens: usize,
    /// Strings and token ids that end a response, beside the model's own.
    pub stop: Vec<Stop>,
    /// Prompts per shard: what is finished of a shard is kept whole or not at all.
    #[schemars(range(min = 1))]
    pub shard_prompts: usize,
    /// What draws the responses.
    pub backend: BackendKind,
    /// vllm, sglang, openai: addresses that serve the policy, as in `http://127.0.0.1:8000/v1`; the least busy one is asked, another where one fails. Absent: such a backend needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// vllm, openai: what the servers call the policy, or the base of its adapter. Absent: the one model that they serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_model: Option<String>,
    /// vllm, sglang, openai: the environment's variable that holds the servers' key. Absent: no key is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// All but native: requests at a time. Absent: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<usize>,
    /// All but native: seconds that a request may take; of a companion, that it may load or be silent. Absent: 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub timeout_s: Option<f64>,
    /// All but native: further tries of a request after a temporary failure. Absent: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// mistralrs: the companion program and its arguments; a name is looked up in PATH and beside this program. Absent: `["selfplay-mistralrs"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub companion: Option<Vec<String>>,
    /// native: fp8 draws with weights and activations of eight bits (E4M3); `logprobs` are then left to the pass that computes the policy's own before training. vllm, sglang: how a server gets the policy's weights. Absent: the policy's own weights; update with sglang, served with vllm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightDelivery>,
    /// weights = "command": a program and its arguments that has a server load the policy; it finds the policy's folder in `SELFPLAY_POLICY` and the server's address in `SELFPLAY_ENDPOINT`. Absent: command needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_command: Option<Vec<String>>,
    /// native: how keys and values are kept; `logprobs` with fp8 are left to the pass that computes the policy's own before training, as with weights = "fp8". Absent: auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// vllm, sglang, mistralrs: nats a token by which a server's log-probs may differ from ours on average. Absent: 0.15, which half precision and other kernels stay far below.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub log_prob_tolerance: Option<f64>,
    /// On a GPU: products in a fixed order, somewhat slower, so that a candidate's bits don't depend on its batch. On a
    /// CPU they never do.
    pub batch_invariant: bool,
    /// Candidates that run at the same time at most; by default 1024 on a GPU whose memory holds the keys and values of so many responses of `max_new_tokens`, where the policy is not in four bits. Absent: 64 on a CPU, 512 or 1024 on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_batch_rows: Option<usize>,
    /// Tokens per step at most, prompts' and responses' together. Absent: 1024 on a CPU, 8192 on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub token_budget: Option<usize>,
    /// Memory for keys and values, in MiB; exceeded only where a single candidate needs more. Absent: 4096 on a CPU, 90 %
    /// of a GPU's free memory less one step's activations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub cache_mib: Option<usize>,
    /// The run's seed.
    #[serde(skip)]
    pub seed: u64,
    /// The iteration, from 1.
    #[serde(skip)]
    pub iteration: u64,
    /// The capacity of the process that began this work; used for keys that are absent.
    #[serde(skip)]
    pub capacity: Option<Capacity>,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self {
            num_samples: 5,
            temperature: 0.7,
            top_p: 0.9,
            top_k: 0,
            min_p: 0.0,
            max_new_tokens: 2048,
            stop: Vec::new(),
            shard_prompts: 256,
            backend: BackendKind::Native,
            endpoints: None,
            endpoint_model: None,
            api_key_env: None,
            concurrency: None,
            timeout_s: None,
            retries: None,
            companion: None,
            weights: None,
            weights_command: None,
            kv_cache_dtype: None,
            log_prob_tolerance: None,
            batch_invariant: false,
            max_batch_rows: None,
            token_budget: None,
            cache_mib: None,
            seed: 42,
            iteration: 1,
            capacity: None,
        }
    }
}

/// One entry of `sample.stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Stop {
    /// A response ends before this text.
    Text(String),
    /// A response ends with this token.
    Id(u32),
}

/// `sample.backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Our own decoder on the trainer's own weights.
    #[default]
    Native,
    /// A vLLM server of the same weights: it is given token ids and gives token ids; log-probs are computed anew by our own weights.
    Vllm,
    /// An SGLang server, by its own interface: as vllm, and the policy's weights are brought to it.
    Sglang,
    /// A companion that runs the policy with mistral.rs, started here: as vllm.
    Mistralrs,
    /// Any server with OpenAI's chat interface: it gives text, which our tokenizer and our weights make ids and log-probs of.
    Openai,
}

impl BackendKind {
    /// Whether a server or a companion draws the responses.
    pub fn is_endpoint(self) -> bool {
        self != Self::Native
    }
}

/// `sample.weights`: which weights draw, and how they come there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightDelivery {
    /// Not at all: the server has them, or is refused.
    Served,
    /// sglang: `POST update_weights_from_disk` with the policy's folder, which the server must see.
    Update,
    /// vllm: `POST load_lora_adapter` with the policy's adapter; the server has the base (`VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, `--enable-lora`).
    Adapter,
    /// `sample.weights_command`, once for each server that has other weights.
    Command,
    /// native: candidates are drawn with the blocks' weights in E4M3, a scale for each output, and activations in E4M3, a scale for each token; embedding, norms and output head stay as they are. On a GPU it must multiply in FP8 (compute capability 8.9); a CPU computes the same numbers in f32.
    Fp8,
}

/// `sample.kv_cache_dtype`: the numbers of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// As they are computed.
    Auto,
    /// E4M3 with a scale for each token and head: half of the memory that bf16 takes, a quarter of f32's. On every GPU, and on a CPU.
    Fp8,
}

impl SampleSettings {
    /// Whether candidates are drawn in FP8.
    pub fn is_fp8(&self) -> bool {
        self.weights == Some(WeightDelivery::Fp8)
    }

    /// Whether keys and values are kept in FP8.
    pub fn has_fp8_cache(&self) -> bool {
        self.kv_cache_dtype == Some(KvCacheDtype::Fp8)
    }

    /// Whether candidates are drawn with rounded weights, or from rounded keys and values: their log-probs are then not the policy's.
    pub fn is_rounded(&self) -> bool {
        self.is_fp8() || self.has_fp8_cache()
    }

    /// How a decoder that computes in `dtype` keeps keys and values.
    pub fn kv_format(&self, dtype: DType) -> KvFormat {
        if self.has_fp8_cache() { KvFormat::Fp8 } else { dtype.into() }
    }

    /// These settings with the policy's own weights, keys and values, for what is to be said of the policy itself.
    #[must_use]
    pub fn with_own_weights(self) -> Self {
        let weights = self.weights.filter(|&weights| weights != WeightDelivery::Fp8);
        Self { weights, kv_cache_dtype: None, ..self }
    }

    /// How a server gets the policy's weights.
    pub fn weights(&self) -> WeightDelivery {
        self.weights.unwrap_or(match self.backend {
            BackendKind::Sglang => WeightDelivery::Update,
            _ => WeightDelivery::Served,
        })
    }

    /// Nats a token by which a server's log-probs may differ from ours on average.
    pub fn log_prob_tolerance(&self) -> f64 {
        self.log_prob_tolerance.unwrap_or(0.15)
    }

    /// The sampling rules of each prompt.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            num_samples: self.num_samples,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            max_new_tokens: self.max_new_tokens,
            seed: self.seed,
            iteration: self.iteration,
        }
    }

    /// Every invalid key, without its section and in the order of the fields; empty when all are valid.
    pub fn validate(&self) -> Problems {
        const AT_LEAST_ONE: &str = "an integer of 1 or more";
        let mut problems = self.sampling().validate();
        let mut require = |holds: bool, key: &str, value: String, want: &str| {
            problems.refuse(!holds, key, value, want);
        };
        for (place, stop) in self.stop.iter().enumerate() {
            let empty = matches!(stop, Stop::Text(text) if text.is_empty());
            require(
                !empty,
                &format!("stop[{place}]"),
                "\"\"".to_owned(),
                "a text of one character or more, or an id",
            );
        }
        require(self.shard_prompts >= 1, "shard_prompts", self.shard_prompts.to_string(), AT_LEAST_ONE);
        for (key, value, most) in [
            ("max_batch_rows", self.max_batch_rows, MOST_ROWS),
            ("token_budget", self.token_budget, MOST_STEP_TOKENS),
            ("cache_mib", self.cache_mib, MOST_CACHE_MIB),
        ] {
            if let Some(value) = value {
                let want = format!("an integer from 1 to {most}");
                require((1..=most).contains(&value), key, value.to_string(), &want);
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert!(SampleSettings::default().validate().is_empty());
    }

    #[test]
    fn what_is_said_of_the_policy_itself_is_said_without_rounding() {
        let settings = SampleSettings {
            weights: Some(WeightDelivery::Fp8),
            kv_cache_dtype: Some(KvCacheDtype::Fp8),
            ..SampleSettings::default()
        };
        assert!(settings.is_rounded() && settings.kv_format(DType::F32) == KvFormat::Fp8);
        let own = settings.clone().with_own_weights();
        assert!(!own.is_rounded() && own.kv_format(DType::F32) == KvFormat::Plain(DType::F32));
        let cache_alone = SampleSettings { weights: None, ..settings };
        assert!(cache_alone.is_rounded() && !cache_alone.is_fp8());
        let auto = SampleSettings { kv_cache_dtype: Some(KvCacheDtype::Auto), ..SampleSettings::default() };
        assert!(!auto.is_rounded() && auto.kv_format(DType::BF16) == KvFormat::Plain(DType::BF16));
    }

    #[test]
    fn every_bad_key_is_named_at_once() {
        let settings = SampleSettings {
            num_samples: 0,
            temperature: -1.0,
            top_p: 0.0,
            min_p: f64::NAN,
            max_new_tokens: 0,
            stop: vec![Stop::Id(3), Stop::Text(String::new())],
            shard_prompts: 0,
            max_batch_rows: Some(0),
            token_budget: Some(0),
            cache_mib: Some(0),
            ..SampleSettings::default()
        };
        let want = [
            "num_samples",
            "temperature",
            "top_p",
            "min_p",
            "max_new_tokens",
            "stop[1]",
            "shard_prompts",
            "max_batch_rows",
            "token_budget",
            "cache_mib",
        ];
        assert_eq!(settings.validate().keys(), want);
    }

    #[test]
    fn absurd_sizes_are_refused_with_the_largest_one() {
        let of = |size: usize| SampleSettings {
            max_batch_rows: Some(size),
            token_budget: Some(size),
            cache_mib: Some(size),
            ..SampleSettings::default()
        };
        for absurd in [usize::MAX, 1 << 40, (1 << 24) + 1] {
            let problems = of(absurd).validate();
            assert_eq!(problems.keys(), ["max_batch_rows", "token_budget", "cache_mib"]);
            for (problem, most) in problems.list.iter().zip(["65536", "1048576", "16777216"]) {
                assert!(problem.to_string().ends_with(&format!("an integer from 1 to {most}")), "{problem}");
            }
        }
        assert!(of(1 << 16).validate().is_empty());
    }

    #[test]
    fn a_temperature_without_end_and_a_top_p_above_one_are_refused() {
        let settings = SampleSettings { temperature: f64::INFINITY, top_p: 1.5, ..SampleSettings::default() };
        let problems = settings.validate();
        assert_eq!(problems.list.len(), 2);
        assert_eq!(problems.list[1].to_string(), "top_p = 1.5: a number above 0 and at most 1 (1 is off)");
    }
}
