//! Text to token ids and back, by the model folder's tokenizer.json.
//!
//! The ids are those of transformers' fast tokenizers: padding and truncation that tokenizer.json may carry are
//! switched off, special tokens written in a text are recognised, also those that other files of the folder name alone
//! ([`added`]). The names of the special tokens come from tokenizer_config.json and special_tokens_map.json. Departure: BPE's
//! dropout, which draws at random, is switched off as well. A panic of the tokenizers crate is reported as a fault of the
//! file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::companions::Companions;
use crate::error::ModelError;
use selfplay_records::guard::caught;

mod added;
mod checks;

/// Published tokenizers have some ten megabytes.
const MOST_BYTES: u64 = 512 << 20;

/// Keys of special tokens, as chat templates name them.
const SPECIAL_KEYS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The texts of a tokenizer's special tokens, by key (`bos_token`, `eos_token`, …).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens(Vec<(String, String)>);

impl SpecialTokens {
    /// Special tokens given by key.
    pub fn new<'a>(tokens: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(tokens.into_iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect())
    }

    /// Reads tokenizer_config.json, then special_tokens_map.json for what the former leaves out; both may be absent.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        Self::of(&Companions::of(folder)?)
    }

    fn of(files: &Companions) -> Result<Self, ModelError> {
        let mut tokens = Self::default();
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            let config = files.json_if_there(file)?;
            let path = files.path(file);
            for key in SPECIAL_KEYS {
                if tokens.get(key).is_none()
                    && let Some(text) = token_text(&config[key], key, &path)?
                {
                    tokens.0.push((key.to_owned(), text));
                }
            }
        }
        Ok(tokens)
    }

    /// The text of the token called `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, text)| text.as_str())
    }

    /// All of them, key and text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, text)| (key.as_str(), text.as_str()))
    }
}

/// A special token as written: a string, or an object whose `content` is the string.
fn token_text(value: &Value, key: &str, path: &Path) -> Result<Option<String>, ModelError> {
    let text = value.get("content").unwrap_or(value);
    match text {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(ModelError::input(
            path,
            format!("`{key}` is {value}"),
            "it must be a string, or an object with a string `content`",
        )),
    }
}

/// Whether tokenizer_config.json asks for Llama's `legacy: false`: the space that SentencePiece puts before a text
/// stands at its very start only, not after every special token. tokenizer.json files of that time still have the
/// old way written in them; transformers 5 follows the flag.
fn has_new_prefix(files: &Companions) -> Result<bool, ModelError> {
    let config = files.json_if_there("tokenizer_config.json")?;
    let is_llama =
        matches!(config["tokenizer_class"].as_str(), Some("LlamaTokenizer" | "LlamaTokenizerFast"));
    Ok(is_llama && config["legacy"] == Value::Bool(false) && config["add_prefix_space"] != Value::Bool(false))
}

/// Exchanges a normalizer that puts "▁" before every piece of text for a pre-tokenizer that does so at the start.
fn prefix_first_only(tokenizer: &mut Value) {
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == "▁";
    let normalizer = &tokenizer["normalizer"];
    let has_old_prefix = prepends(normalizer)
        || normalizer["normalizers"].as_array().is_some_and(|steps| steps.iter().any(prepends));
    if has_old_prefix && tokenizer["pre_tokenizer"].is_null() {
        tokenizer["normalizer"] = Value::Null;
        tokenizer["pre_tokenizer"] = serde_json::json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false
        });
    }
}

/// BPE's dropout cuts a text into other pieces at each call: good while a tokenizer's model is made to see them, wrong
/// where the same text must give the same ids.
fn without_dropout(tokenizer: &mut tokenizers::Tokenizer) {
    use tokenizers::ModelWrapper;
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { return };
    if model.dropout.is_some() {
        let mut model = model.clone();
        model.dropout = None;
        tokenizer.with_model(ModelWrapper::BPE(model));
    }
}

/// A tokenizer with its special tokens.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
}

impl Tokenizer {
    /// Reads `folder`/tokenizer.json and the names of the special tokens; or what the GGUF that `folder` is has of them.
    ///
    /// Errors: no folder, no tokenizer.json (a `tokenizer.model` alone does not do), a damaged file.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let files = Companions::of(folder)?;
        let path = files.path("tokenizer.json");
        let remedy = if folder.join("tokenizer.model").is_file() {
            "tokenizer.model alone is not read: save the tokenizer with transformers, which writes tokenizer.json"
        } else {
            "a model folder holds tokenizer.json"
        };
        if files.folder().is_some_and(|folder| !folder.is_dir()) {
            return Err(ModelError::input(
                folder,
                "there is no such folder",
                "name a model folder that exists",
            ));
        }
        if !path.is_file()
            && let Some(fault) = crate::adapter::fault(folder)
        {
            return Err(fault);
        }
        let bytes = match files.folder() {
            Some(_) => selfplay_records::read_regular(&path, MOST_BYTES)
                .map_err(|error| ModelError::reading(&path, error, remedy))?,
            None => files.json("tokenizer.json", remedy)?.to_string().into_bytes(),
        };
        let damaged = |error: &dyn std::fmt::Display| {
            ModelError::input(&path, format!("it is not a valid tokenizer: {error}"), "fetch the file again")
        };
        checks::steps(&path, &bytes)?;
        let new_prefix = has_new_prefix(&files)?;
        let read = || -> Result<tokenizers::Tokenizer, String> {
            if !new_prefix {
                return tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| error.to_string());
            }
            let mut json = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            prefix_first_only(&mut json);
            serde_json::from_value(json).map_err(|error| error.to_string())
        };
        let mut inner = caught(read).unwrap_or_else(Err).map_err(|error| damaged(&error))?;
        let special = SpecialTokens::of(&files)?;
        added::add(&mut inner, &files, &special)?;
        without_dropout(&mut inner);
        // What a call pads or cuts is the caller's business, whatever the file was last used with.
        inner.with_padding(None);
        if inner.with_truncation(None).is_err() {
            return Err(ModelError::input(
                &path,
                "its truncation cannot be switched off",
                "fetch the file again",
            ));
        }
        Ok(Self { path, inner, special })
    }

    /// The ids of `text`; with `add_special_tokens`, those that the tokenizer puts around a sequence are added.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, ModelError> {
        let begin = || text.chars().take(40).collect::<String>();
        // encode_fast leaves out the offsets, which are not needed here.
        match caught(|| self.inner.encode_fast(text, add_special_tokens)) {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(error)) => Err(ModelError::input(
                &self.path,
                format!("it cannot encode {:?}: {error}", begin()),
                "the tokenizer needs an unknown token or byte fallback",
            )),
            Err(panic) => Err(self.broken(&format!("encoding {:?} ends in: {panic}", begin()))),
        }
    }

    /// The text of `ids`; with `skip_special`, special tokens are left out. Ids without a token give no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        match caught(|| self.inner.decode(ids, skip_special)) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(self.broken(&format!("it cannot decode ids: {error}"))),
            Err(panic) => Err(self.broken(&format!("decoding ids ends in: {panic}"))),
        }
    }

    fn broken(&self, what: &str) -> ModelError {
        ModelError::input(&self.path, format!("it is not a valid tokenizer: {what}"), "fetch the file again")
    }

    /// The id of a token given by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the vocabulary writes it: not its text.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of the beginning-of-sequence token, where the folder names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_token().and_then(|token| self.token_to_id(token))
    }

    /// The id of the end-of-sequence token, where the folder names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_token().and_then(|token| self.token_to_id(token))
    }

    /// The text of the beginning-of-sequence token.
    pub fn bos_token(&self) -> Option<&str> {
        self.special.get("bos_token")
    }

    /// The text of the end-of-sequence token.
    pub fn eos_token(&self) -> Option<&str> {
        self.special.get("eos_token")
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// One more than the largest id: as many as there are tokens, where no id is left out.
    pub fn id_count(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The special tokens' texts.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }
}
