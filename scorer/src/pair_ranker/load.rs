//! A PairRM-hf folder → the model: config.json, `pretrained_model.*`, `head_layer.1` and `head_layer.4`, tokenizer.json.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use selfplay_model::architecture::TensorSpec;
use selfplay_model::cpu::encoder::LayerNorm;
use selfplay_model::weights::WeightFiles;
use selfplay_model::{ModelError, ParameterKind, Tokenizer};
use selfplay_records::{Candidates, Prompt, Response};

use super::PairRanker;
use super::config::RankerConfig;
use super::encoder::{Dense, Encoder, EncoderLayer, PairHead};
use super::tokens::RankerSequences;
use crate::footprint::{ComparisonLengths, Cost};
use crate::kept_answers::KeptAnswers;
use crate::{Footprint, PreferenceModel, PromptCheck, ScoreDifference, ScoreError};

/// Whether the folder's config.json is that of such a model.
pub(crate) fn is_pair_ranker(folder: &Path) -> bool {
    let text = selfplay_records::read_regular_text(&folder.join("config.json"), 16 << 20);
    let config = text.ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    config.is_some_and(|config| config["model_type"] == "deberta-v2")
}

/// Loads the model in `folder`; its passes are kept in `kept`.
///
/// # Errors
/// A configuration, a tokenizer or weights of another form.
pub(crate) fn load(
    folder: &Path,
    difference: ScoreDifference,
    kept: KeptAnswers,
) -> Result<Box<dyn PreferenceModel>, ScoreError> {
    let config = RankerConfig::read(folder)?;
    let tokenizer = Tokenizer::load(folder)?;
    let ids = tokenizer.id_count();
    if ids > config.vocab_size {
        return Err(ScoreError::Model(ModelError::input(
            folder,
            format!("its tokenizer has ids up to {}, and vocab_size is {}", ids - 1, config.vocab_size),
            "tokenizer and weights must be of one model",
        )));
    }
    let sequences = RankerSequences::new(tokenizer, folder)?;
    let weights = RankerWeights { files: WeightFiles::open(folder)? };
    let footprint = footprint_of(&config);
    let hidden = config.hidden_size;
    let head = PairHead {
        first: weights.dense(&["head_layer.1"], hidden, 2 * hidden)?,
        second: weights.dense(&["head_layer.4"], config.n_tasks, hidden)?,
    };
    let encoder = weights.encoder(config)?;
    Ok(Box::new(PairRanker { encoder, head, sequences, difference, footprint, kept }))
}

/// The stored tensors.
struct RankerWeights {
    files: WeightFiles,
}

impl RankerWeights {
    fn encoder(&self, config: RankerConfig) -> Result<Encoder, ModelError> {
        let hidden = config.hidden_size;
        // Names as they are read: without the wrapper `pretrained_model`.
        let relative = "encoder.rel_embeddings.weight";
        let mut relative = self.tensor(relative, &[2 * config.buckets(), hidden])?;
        if config.norm_rel_ebd.as_deref().is_some_and(|norm| norm.contains("layer_norm")) {
            let norm = self.norm("encoder.LayerNorm", &config)?;
            norm.apply(&mut relative);
        }
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for number in 0..config.num_hidden_layers {
            let mut layer = self.layer(&format!("encoder.layer.{number}"), &config)?;
            layer.place(&relative);
            layers.push(layer);
        }
        let embeddings = "embeddings.word_embeddings.weight";
        Ok(Encoder {
            embeddings: self.tensor(embeddings, &[config.vocab_size, hidden])?,
            embedding_norm: self.norm("embeddings.LayerNorm", &config)?,
            layers,
            config,
        })
    }

    fn layer(&self, name: &str, config: &RankerConfig) -> Result<EncoderLayer, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let dense = |part: &str, outputs, inputs| self.dense(&[&format!("{name}.{part}")], outputs, inputs);
        let projections = ["query_proj", "key_proj", "value_proj"];
        let projections = projections.map(|part| format!("{name}.attention.self.{part}"));
        let projections: Vec<&str> = projections.iter().map(String::as_str).collect();
        let norm = |part: &str| self.norm(&format!("{name}.{part}"), config);
        Ok(EncoderLayer {
            projections: self.dense(&projections, hidden, hidden)?,
            attention_output: dense("attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            inner: dense("intermediate.dense", inner, hidden)?,
            output: dense("output.dense", hidden, inner)?,
            output_norm: norm("output.LayerNorm")?,
            position_key: Vec::new(),
            position_query: Vec::new(),
        })
    }

    /// The map of these names, each with so many outputs, side by side.
    fn dense(&self, names: &[&str], outputs: usize, inputs: usize) -> Result<Dense, ModelError> {
        let mut weights = Vec::with_capacity(names.len());
        let mut bias = Vec::with_capacity(names.len() * outputs);
        for name in names {
            weights.push(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        Ok(Dense::new(&weights, bias, inputs))
    }

    fn norm(&self, name: &str, config: &RankerConfig) -> Result<LayerNorm, ModelError> {
        let shape = [config.hidden_size];
        Ok(LayerNorm {
            weight: self.tensor(&format!("{name}.weight"), &shape)?,
            bias: self.tensor(&format!("{name}.bias"), &shape)?,
            epsilon: config.layer_norm_eps,
        })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let spec = TensorSpec { name: name.to_owned(), shape: shape.to_vec(), kind: ParameterKind::Matrix };
        let tensor = self.files.get(&spec, DType::F32, &Device::Cpu)?;
        Ok(tensor.flatten_all()?.to_vec1()?)
    }
}

/// Of the model in `folder`, from its config.json.
///
/// # Errors
/// No configuration of such a model.
pub(crate) fn footprint(folder: &Path) -> Result<Footprint, ScoreError> {
    Ok(footprint_of(&RankerConfig::read(folder)?))
}

fn footprint_of(config: &RankerConfig) -> Footprint {
    let cost = EncoderCost {
        hidden: config.hidden_size as f64,
        inner: config.intermediate_size as f64,
        layers: config.num_hidden_layers as f64,
    };
    let token_values = (config.intermediate_size + 6 * config.hidden_size) as u64;
    Footprint::new(config.parameter_count() as u64, None, token_values, Arc::new(cost))
}

/// Every ordered pair of responses is a sequence of its own, with the prompt.
#[derive(Debug)]
struct EncoderCost {
    hidden: f64,
    inner: f64,
    layers: f64,
}

impl Cost for EncoderCost {
    fn flops(&self, comparison: ComparisonLengths) -> f64 {
        let ComparisonLengths { prompt, response, responses } = comparison;
        let length = (prompt + 2 * response) as f64;
        let maps = 8.0 * self.hidden * self.hidden + 4.0 * self.hidden * self.inner;
        let attention = 4.0 * length * self.hidden;
        responses * (responses - 1.0).max(0.0) * self.layers * length * (maps + attention)
    }
}

/// As [`crate::prompt_check`].
pub(crate) fn prompt_check(folder: &Path) -> Result<Box<dyn PromptCheck>, ScoreError> {
    RankerConfig::read(folder)?;
    Ok(Box::new(SequenceCheck(RankerSequences::new(Tokenizer::load(folder)?, folder)?)))
}

struct SequenceCheck(RankerSequences);

impl PromptCheck for SequenceCheck {
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError> {
        let response = Response { text: "-".to_owned(), ..Response::default() };
        self.0.of(&Candidates { prompt: prompt.clone(), responses: vec![response] }).map(drop)
    }

    fn reads_clock(&self) -> bool {
        false
    }
}
