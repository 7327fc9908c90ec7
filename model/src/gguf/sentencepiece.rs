//! SentencePiece's BPE (`tokenizer.ggml.model` llama) as tokenizer.json.
//!
//! SentencePiece has no list of merges: of all neighbours whose join is a token it joins the pair with the highest score. Two
//! neighbours can make a token in several ways; in the order of the tokens' scores, each way is a merge.
//!
//! The space before a text (`add_space_prefix`) stands after special tokens as well, as llama.cpp puts it.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::vocabulary::{TokenKind, Vocabulary};

/// Longer tokens than any that a vocabulary is trained with.
const MOST_BYTES: usize = 1024;

/// tokenizer.json without what is put around a text.
pub(super) fn tokenizer(
    vocabulary: &Vocabulary<'_>,
    scores: &[f64],
    merges: Option<&[&str]>,
    space_prefix: bool,
) -> Value {
    let merges: Vec<(&str, &str)> = match merges {
        Some(written) => written.iter().filter_map(|merge| merge.split_once(' ')).collect(),
        None => merges_of(vocabulary, scores),
    };
    let merges: Vec<Value> = merges.into_iter().map(|(left, right)| json!([left, right])).collect();
    let unknown = vocabulary.kinds.iter().position(|kind| *kind == TokenKind::Unknown);
    let has_bytes = vocabulary.kinds.contains(&TokenKind::Byte);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = if space_prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]})
    } else {
        space
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        // With a prefix it would be put before such a token, too, before it is looked for.
        "added_tokens": vocabulary.added(!space_prefix),
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| vocabulary.tokens[id]),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": has_bytes,
            "ignore_merges": false,
            "vocab": vocabulary.ids(),
            "merges": merges,
        },
    })
}

/// The merges that the scores stand for, best first.
fn merges_of<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let is_piece = |id: usize| matches!(vocabulary.kinds[id], TokenKind::Normal | TokenKind::UserDefined);
    let ids: HashMap<&str, usize> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| is_piece(*id))
        .map(|(id, token)| (*token, id))
        .collect();
    let mut ranked: Vec<usize> =
        (0..vocabulary.tokens.len()).filter(|id| vocabulary.kinds[*id] == TokenKind::Normal).collect();
    ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut merges = Vec::new();
    for id in ranked {
        let token = vocabulary.tokens[id];
        if token.len() > MOST_BYTES {
            continue;
        }
        let first = merges.len();
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((left, right));
            }
        }
        // Of several ways the one whose parts come first in the vocabulary.
        merges[first..].sort_by_key(|(left, right)| (ids[left], ids[right]));
    }
    merges
}
