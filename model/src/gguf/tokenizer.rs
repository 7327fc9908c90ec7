//! Metadata → tokenizer.json and tokenizer_config.json, from which the tokenizer is then read as from a folder.

use serde_json::{Map, Value, json};

use super::pre_tokenizer::{NAMES, PreTokenizerRule};
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Gguf, bpe, sentencepiece};
use crate::error::ModelError;

/// Ids that are put around a text.
pub(super) struct Around {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

impl Gguf {
    /// tokenizer.json.
    pub(super) fn tokenizer(&self) -> Result<Value, ModelError> {
        let vocabulary = self.vocabulary()?;
        let mut tokenizer = match self.tokenizer_model()? {
            TokenizerModel::Bpe(rule) => {
                let merges = self.texts("tokenizer.ggml.merges")?.unwrap_or_default();
                bpe::tokenizer(&vocabulary, &merges, rule)
            }
            TokenizerModel::SentencePiece => {
                let scores = self.numbers("tokenizer.ggml.scores")?.unwrap_or_default();
                if scores.len() != vocabulary.tokens.len() {
                    let what = format!("has {} values", scores.len());
                    let want = "it must have one for each token";
                    return Err(self.wrong("tokenizer.ggml.scores", &what, want));
                }
                let merges = self.texts("tokenizer.ggml.merges")?;
                let prefix = self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                sentencepiece::tokenizer(&vocabulary, &scores, merges.as_deref(), prefix)
            }
        };
        tokenizer["post_processor"] = post_processor(&vocabulary, &self.around()?);
        Ok(tokenizer)
    }

    /// tokenizer_config.json: the special tokens by name, and the chat template.
    pub(super) fn tokenizer_config(&self) -> Result<Value, ModelError> {
        let mut config = Map::new();
        let tokens = self.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        for (name, key) in [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("sep_token", "seperator_token_id"),
            ("pad_token", "padding_token_id"),
            ("mask_token", "mask_token_id"),
        ] {
            let key = format!("tokenizer.ggml.{key}");
            let Some(id) = self.token_id(&key)? else { continue };
            let Some(token) = tokens.get(id as usize) else {
                let what = format!("is {id}");
                return Err(self.wrong(&key, &what, &format!("there are {} tokens", tokens.len())));
            };
            config.insert(name.to_owned(), json!(token));
        }
        let around = self.around()?;
        config.insert("add_bos_token".to_owned(), json!(around.bos.is_some()));
        config.insert("add_eos_token".to_owned(), json!(around.eos.is_some()));
        config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        if let Some(template) = self.text("tokenizer.chat_template")? {
            config.insert("chat_template".to_owned(), json!(template));
        }
        Ok(Value::Object(config))
    }

    fn tokenizer_model(&self) -> Result<TokenizerModel, ModelError> {
        let key = "tokenizer.ggml.model";
        match self.required_text(key)? {
            "gpt2" => {
                let name = self.text("tokenizer.ggml.pre")?.unwrap_or("default");
                let rule = PreTokenizerRule::named(name).ok_or_else(|| {
                    let what = format!("is {name:?}, which is not known");
                    self.wrong("tokenizer.ggml.pre", &what, &format!("known are {NAMES}"))
                })?;
                Ok(TokenizerModel::Bpe(rule))
            }
            "llama" => Ok(TokenizerModel::SentencePiece),
            other => {
                let what = format!("is {other:?}, which is not supported");
                Err(self.wrong(
                    key,
                    &what,
                    "supported are gpt2 (byte-level BPE) and llama (SentencePiece's BPE)",
                ))
            }
        }
    }

    fn vocabulary(&self) -> Result<Vocabulary<'_>, ModelError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = self.texts(key)?.unwrap_or_default();
        if tokens.is_empty() {
            return Err(self.wrong(key, "is missing or empty", "take a file with its tokenizer in it"));
        }
        let key = "tokenizer.ggml.token_type";
        let kinds: Vec<TokenKind> =
            self.numbers(key)?.unwrap_or_default().into_iter().map(TokenKind::of).collect();
        let kinds = if kinds.is_empty() { vec![TokenKind::Normal; tokens.len()] } else { kinds };
        if kinds.len() != tokens.len() {
            let what = format!("has {} values for {} tokens", kinds.len(), tokens.len());
            return Err(self.wrong(key, &what, "it must have one for each token"));
        }
        Ok(Vocabulary { tokens, kinds })
    }

    /// What is put around a text: `add_bos_token` and `add_eos_token`, or the kind's default.
    fn around(&self) -> Result<Around, ModelError> {
        let by_default = match self.tokenizer_model()? {
            TokenizerModel::Bpe(rule) => rule.adds_bos,
            TokenizerModel::SentencePiece => true,
        };
        let id = |wanted: bool, name: &str| {
            if wanted { self.token_id(&format!("tokenizer.ggml.{name}_token_id")) } else { Ok(None) }
        };
        Ok(Around {
            bos: id(self.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(by_default), "bos")?,
            eos: id(self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false), "eos")?,
        })
    }
}

enum TokenizerModel {
    Bpe(PreTokenizerRule),
    SentencePiece,
}

impl TokenKind {
    fn of(number: f64) -> Self {
        match number as i64 {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

impl Vocabulary<'_> {
    /// Ids by token. Of two equal ones the last counts, as in llama.cpp.
    pub(super) fn ids(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect()
    }

    /// The tokens that are never cut.
    pub(super) fn added(&self, normalized: bool) -> Vec<Value> {
        let entry = |(id, token): (usize, &&str), special: bool| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": normalized && !special, "special": special,
            })
        };
        let mut added = Vec::new();
        for (place, kind) in self.tokens.iter().enumerate().zip(&self.kinds) {
            match kind {
                TokenKind::Control | TokenKind::Unknown => added.push(entry(place, true)),
                // An empty token would be found everywhere.
                TokenKind::UserDefined if !place.1.is_empty() => added.push(entry(place, false)),
                _ => {}
            }
        }
        added
    }
}

fn post_processor(vocabulary: &Vocabulary<'_>, around: &Around) -> Value {
    let token = |id: Option<u32>| Some((id?, *vocabulary.tokens.get(id? as usize)?));
    let (bos, eos) = (token(around.bos), token(around.eos));
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let sequence = |name: &str, kind: u32| {
        let special = |token: Option<(u32, &str)>| {
            token.map(|(_, token)| json!({"SpecialToken": {"id": token, "type_id": kind}}))
        };
        let text = json!({"Sequence": {"id": name, "type_id": kind}});
        special(bos).into_iter().chain([text]).chain(special(eos)).collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, token)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
