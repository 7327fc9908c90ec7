//! Byte-level BPE (`tokenizer.ggml.model` gpt2) as tokenizer.json.

use serde_json::{Value, json};

use super::pre_tokenizer::PreTokenizerRule;
use super::vocabulary::Vocabulary;

/// tokenizer.json without what is put around a text.
pub(super) fn tokenizer(vocabulary: &Vocabulary<'_>, merges: &[&str], rule: PreTokenizerRule) -> Value {
    // Texts with a space in them would be ambiguous as one string; byte-level tokens have none.
    let merges: Vec<Value> = merges
        .iter()
        .filter_map(|merge| merge.split_once(' '))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let normalizer = if rule.composes { json!({"type": "NFC"}) } else { Value::Null };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(false),
        "normalizer": normalizer,
        "pre_tokenizer": rule.cut.to_json(),
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rule.ignores_merges,
            "vocab": vocabulary.ids(),
            "merges": merges,
        },
    })
}
