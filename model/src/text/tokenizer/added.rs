//! Tokens that tokenizer.json lacks and other files of the folder name: transformers adds them, so that they are one id and
//! not cut into letters.
//!
//! As transformers does it: `added_tokens_decoder` of tokenizer_config.json in the order of its ids, else added_tokens.json;
//! then the special tokens by name, and `additional_special_tokens` (`extra_special_tokens` since 5). Like there, the
//! ids in the files are ignored: a new token gets the next free one.

use serde_json::Value;
use tokenizers::AddedToken;

use super::SpecialTokens;
use crate::companions::Companions;
use crate::error::ModelError;
use selfplay_records::guard::caught;

/// Keys of lists of further special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Adds what the model's other files name to the tokenizer. Error: a token that is not written as one.
pub(super) fn add(
    tokenizer: &mut tokenizers::Tokenizer,
    files: &Companions,
    special: &SpecialTokens,
) -> Result<(), ModelError> {
    let config = files.json_if_there("tokenizer_config.json")?;
    let map = files.json_if_there("special_tokens_map.json")?;
    let is_new_form = config["added_tokens_decoder"].is_object();
    let mut specials: Vec<AddedToken> = Vec::new();
    for (key, text) in special.iter() {
        let written = if config[key].is_null() { &map[key] } else { &config[key] };
        specials.push(token(written, text, true));
    }
    for key in LISTS {
        let list = if config[key].is_null() && !is_new_form { &map[key] } else { &config[key] };
        let entries: Vec<&Value> = match list {
            Value::Array(items) => items.iter().collect(),
            Value::Object(items) => items.values().collect(),
            _ => Vec::new(),
        };
        for entry in entries {
            if let Some(text) = entry.get("content").unwrap_or(entry).as_str() {
                specials.push(token(entry, text, true));
            }
        }
    }
    let is_special = |text: &str| specials.iter().any(|token| token.content == text);
    let mut tokens: Vec<AddedToken> = Vec::new();
    if is_new_form {
        tokens.extend(decoder_entries(&config, files)?);
    } else if let Value::Object(entries) = files.json_if_there("added_tokens.json")? {
        let mut entries: Vec<(String, u64)> =
            entries.into_iter().filter_map(|(text, id)| Some((text, id.as_u64()?))).collect();
        entries.sort_by_key(|(_, id)| *id);
        tokens.extend(entries.into_iter().map(|(text, _)| {
            let special = is_special(&text);
            AddedToken::from(text, special)
        }));
    }
    for token in &mut tokens {
        token.special |= is_special(&token.content);
    }
    let known = tokenizer.get_added_tokens_decoder();
    tokens.retain(|token| !known.values().any(|other| other == token));
    for token in specials {
        let is_known = |other: &AddedToken| other.content == token.content;
        if !known.values().any(is_known) && !tokens.iter().any(is_known) {
            tokens.push(token);
        }
    }
    if tokens.is_empty() {
        return Ok(());
    }
    let broken = |what: String| {
        ModelError::input(
            files.path("tokenizer_config.json"),
            format!("its added tokens do not fit the tokenizer: {what}"),
            "the files of a tokenizer must be of one model",
        )
    };
    match caught(|| tokenizer.add_tokens(tokens)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(broken(error.to_string())),
        Err(panic) => Err(broken(panic)),
    }
}

/// A token as it is written: a text, or an object with flags.
fn token(written: &Value, text: &str, is_special: bool) -> AddedToken {
    let flag = |name: &str, default: bool| written[name].as_bool().unwrap_or(default);
    AddedToken {
        content: text.to_owned(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !is_special),
        special: is_special,
    }
}

fn decoder_entries(config: &Value, files: &Companions) -> Result<Vec<AddedToken>, ModelError> {
    let wrong = |what: String| {
        ModelError::input(
            files.path("tokenizer_config.json"),
            what,
            "`added_tokens_decoder` maps ids to objects with a `content`",
        )
    };
    let Some(table) = config["added_tokens_decoder"].as_object() else { return Ok(Vec::new()) };
    let mut entries = Vec::with_capacity(table.len());
    for (id, entry) in table {
        let number: u64 =
            id.parse().map_err(|_| wrong(format!("`added_tokens_decoder` has the id {id:?}")))?;
        let Some(text) = entry["content"].as_str() else {
            return Err(wrong(format!("token {number} of `added_tokens_decoder` is {entry}")));
        };
        entries.push((number, token(entry, text, entry["special"] == Value::Bool(true))));
    }
    entries.sort_by_key(|(id, _)| *id);
    Ok(entries.into_iter().map(|(_, token)| token).collect())
}
