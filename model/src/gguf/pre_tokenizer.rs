//! How a text is cut before its pieces are encoded by BPE: `tokenizer.ggml.pre`, a name for the cut that the model was
//! trained with, → the pre-tokenizer of tokenizer.json.

use serde_json::{Value, json};

/// GPT-2's, which the byte-level step has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's: numbers by up to three digits, line ends apart.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: each digit by itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o's: words end where a capital letter follows a small one.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: as GPT-4o's, without contractions, each digit by itself.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's expression.
    Gpt2,
    /// Each digit by itself, then GPT-2's expression.
    Digits,
    /// One expression.
    Split(&'static str),
    /// What llama.cpp takes where a file names none: punctuation apart, GPT-2's expression, numbers by three digits.
    Unnamed,
}

/// What a name of `tokenizer.ggml.pre` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreTokenizerRule {
    pub(super) cut: PreTokenizer,
    /// Whole pieces that are tokens are not merged first.
    pub(super) ignores_merges: bool,
    /// A text begins with BOS, where `add_bos_token` does not say.
    pub(super) adds_bos: bool,
    /// The text is composed (NFC) first.
    pub(super) composes: bool,
}

/// The names that are known.
pub(super) const NAMES: &str = "gpt-2, llama-bpe, qwen2, smollm, dbrx, smaug-bpe, olmo, starcoder, refact, command-r, exaone, \
     codeshell, mpt, jais, phi-2, stablelm2, deepseek-r1-qwen, tekken, gpt-4o, default";

impl PreTokenizerRule {
    /// The rule of a name; `None` of one that is not known.
    pub(super) fn named(name: &str) -> Option<Self> {
        let plain = |cut| Self { cut, ignores_merges: false, adds_bos: false, composes: false };
        Some(match name {
            "gpt-2" | "mpt" | "olmo" | "jais" | "phi-2" => plain(PreTokenizer::Gpt2),
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" => {
                Self { ignores_merges: true, adds_bos: true, ..plain(PreTokenizer::Split(LLAMA3)) }
            }
            "dbrx" | "smaug-bpe" => plain(PreTokenizer::Split(LLAMA3)),
            "qwen2" | "deepseek-r1-qwen" => Self { composes: true, ..plain(PreTokenizer::Split(QWEN2)) },
            "stablelm2" => plain(PreTokenizer::Split(QWEN2)),
            "smollm" | "starcoder" | "refact" | "command-r" | "exaone" | "codeshell" => {
                plain(PreTokenizer::Digits)
            }
            "gpt-4o" => plain(PreTokenizer::Split(GPT4O)),
            "tekken" => Self { ignores_merges: true, adds_bos: true, ..plain(PreTokenizer::Split(TEKKEN)) },
            "default" => plain(PreTokenizer::Unnamed),
            _ => return None,
        })
    }
}

impl PreTokenizer {
    /// The pre-tokenizer of tokenizer.json.
    pub(super) fn to_json(self) -> Value {
        let sequence = |mut steps: Vec<Value>, splits: bool| {
            steps.push(byte_level(splits));
            json!({"type": "Sequence", "pretokenizers": steps})
        };
        match self {
            Self::Gpt2 => byte_level(true),
            Self::Digits => sequence(vec![json!({"type": "Digits", "individual_digits": true})], true),
            Self::Split(expression) => sequence(vec![split(expression)], false),
            Self::Unnamed => sequence(
                vec![split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]")],
                false,
            ),
        }
    }
}

fn split(expression: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
}

fn byte_level(splits: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits})
}
