//! The tokenizer and the codec on a tiny vocabulary made here; by hand, published ones with their golden ids.

use std::path::{Path, PathBuf};

use selfplay_model::{Codec, Tokenizer};
use selfplay_records::{HasKind, Kind, Message, Prompt, atomic};
use selfplay_testing::json_file::{special_token, write_json};
use serde_json::{Value, json};

/// Words of one letter, `<s>` before every sequence, and a padding that must not be used.
fn tokenizer_json() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [special_token(0, "<unk>"), special_token(1, "<s>"), special_token(2, "</s>"),
                         special_token(3, "<|end|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "unk_token": "<unk>",
                  "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<|end|>": 3, "a": 4, "b": 5, "c": 6, ":": 7}},
    })
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ eos_token }}\
                        {% endfor %}{% if add_generation_prompt %}a:{% endif %}";

fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in files {
        write_json(&folder.path().join(name), value);
    }
    folder
}

fn model(template: Option<&str>) -> tempfile::TempDir {
    folder(&[
        ("tokenizer.json", tokenizer_json()),
        (
            "tokenizer_config.json",
            json!({"bos_token": {"content": "<s>", "lstrip": false}, "chat_template": template}),
        ),
        ("special_tokens_map.json", json!({"eos_token": "</s>", "bos_token": "<unk>"})),
        ("config.json", json!({"vocab_size": 8, "eos_token_id": 3})),
    ])
}

#[test]
fn text_to_ids_and_back() {
    let folder = model(None);
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("abc", false).unwrap(), vec![4, 5, 6]);
    assert_eq!(tokenizer.encode("abc", true).unwrap(), vec![1, 4, 5, 6]);
    assert_eq!(tokenizer.encode("a</s>z", false).unwrap(), vec![4, 2, 0]);
    assert_eq!(tokenizer.encode("", true).unwrap(), vec![1]);
    assert_eq!(tokenizer.decode(&[1, 4, 5, 2], true).unwrap(), "ab");
    assert_eq!(tokenizer.decode(&[1, 4, 5, 2], false).unwrap(), "<s>ab</s>");
    assert_eq!(tokenizer.decode(&[4, 999], false).unwrap(), "a");
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.vocab_size()), (Some(1), Some(2), 8));
    assert_eq!(tokenizer.id_count(), 8);
    assert_eq!((tokenizer.bos_token(), tokenizer.eos_token()), (Some("<s>"), Some("</s>")));
    assert_eq!((tokenizer.token_to_id("c"), tokenizer.token_to_id("d")), (Some(6), None));
}

/// A vocabulary may leave ids out, and a folder without a configuration has none but the tokenizer's.
#[test]
fn ids_beyond_the_number_of_tokens_are_the_vocabulary_s() {
    let mut json = tokenizer_json();
    json["model"]["vocab"]["c"] = json!(40);
    let folder = folder(&[("tokenizer.json", json)]);
    let codec = Codec::load(folder.path(), None).unwrap();
    assert_eq!((codec.tokenizer.vocab_size(), codec.vocab_size()), (8, 41));
    assert_eq!(codec.rendered_ids("abc").unwrap(), [1, 4, 5, 40]);
    codec.check_ids(&[40], "prompt_ids").unwrap();
    assert!(codec.check_ids(&[41], "prompt_ids").is_err());
}

#[test]
fn llamas_prefix_stands_at_the_start_only_where_the_configuration_says_so() {
    let mut json = tokenizer_json();
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    json["pre_tokenizer"] = Value::Null;
    json["model"] = json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": false,
        "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<|end|>": 3, "a": 4, "b": 5, "c": 6, "▁": 7}, "merges": []});
    let ids = |config: Value| {
        let folder = folder(&[("tokenizer.json", json.clone()), ("tokenizer_config.json", config)]);
        Tokenizer::load(folder.path()).unwrap().encode("a</s>b c", false).unwrap()
    };
    let old = vec![7, 4, 2, 7, 5, 7, 6];
    assert_eq!(ids(json!({})), old);
    assert_eq!(ids(json!({"tokenizer_class": "LlamaTokenizer", "legacy": true})), old);
    assert_eq!(ids(json!({"tokenizer_class": "LlamaTokenizer", "legacy": false})), vec![7, 4, 2, 5, 7, 6]);
}

#[test]
fn a_prompt_is_one_user_message_without_further_special_tokens() {
    let folder = model(Some(TEMPLATE));
    let codec = Codec::load(folder.path(), None).unwrap();
    let prompt = Prompt { prompt: Some("ab".to_owned()), ..Prompt::default() };
    // <s> u : a b </s> a : — "u" is no word
    let want = vec![1, 0, 7, 4, 5, 2, 4, 7];
    assert_eq!(codec.prompt_ids(&prompt).unwrap(), want);
    let messages = vec![Message::user("ab")];
    assert_eq!(codec.conversation_ids(&messages, false).unwrap(), want[..6]);
    assert_eq!(codec.scoring_ids(&messages).unwrap(), [&[1], &want[..6]].concat());
    let both = Prompt { messages: Some(messages), prompt: Some("c".to_owned()), ..Prompt::default() };
    assert_eq!(codec.prompt_ids(&both).unwrap(), want);
    let ids = Prompt { prompt_ids: Some(vec![7, 7]), ..both };
    assert_eq!(codec.prompt_ids(&ids).unwrap(), vec![7, 7]);
}

#[test]
fn a_model_without_a_template_takes_raw_text() {
    let folder = model(None);
    let codec = Codec::load(folder.path(), None).unwrap();
    let prompt = Prompt { prompt: Some("ab".to_owned()), ..Prompt::default() };
    assert_eq!(codec.prompt_ids(&prompt).unwrap(), vec![1, 4, 5]);
    let error = codec.conversation_ids(&[Message::user("a"), Message::assistant("b")], true).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("--chat-template"), "{error}");
    let template = tempfile::tempdir().unwrap();
    let file = template.path().join("t.jinja");
    atomic::write_bytes(&file, b"c{{ messages[0].content }}").unwrap();
    let codec = Codec::load(folder.path(), Some(&file)).unwrap();
    assert_eq!(codec.prompt_ids(&prompt).unwrap(), vec![6, 4, 5]);
}

#[test]
fn prompts_that_are_none() {
    let folder = model(Some(TEMPLATE));
    let codec = Codec::load(folder.path(), None).unwrap();
    for (prompt, want) in [
        (Prompt { prompt_ids: Some(vec![1, 8]), ..Prompt::default() }, "`prompt_ids`[1] is 8"),
        (Prompt { prompt_ids: Some(vec![]), ..Prompt::default() }, "no tokens"),
        (Prompt { prompt_id: "p7".to_owned(), ..Prompt::default() }, "\"p7\""),
    ] {
        let error = codec.prompt_ids(&prompt).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains(want), "{error}");
    }
}

#[test]
fn a_tokenizer_larger_than_the_model_is_told() {
    let folder = model(None);
    atomic::write_bytes(&folder.path().join("config.json"), b"{\"vocab_size\": 5}").unwrap();
    let codec = Codec::load(folder.path(), None).unwrap();
    let prompt = Prompt { prompt: Some("b".to_owned()), ..Prompt::default() };
    let error = codec.prompt_ids(&prompt).unwrap_err().to_string();
    assert!(error.contains("id 5") && error.contains("5 tokens"), "{error}");
}

#[test]
fn stop_ids_come_from_the_generation_configuration_first() {
    let folder = model(None);
    let stop = || Codec::load(folder.path(), None).unwrap().stop_ids(folder.path());
    assert_eq!(stop().unwrap(), vec![2, 3]);
    let generation = folder.path().join("generation_config.json");
    atomic::write_bytes(&generation, b"{\"eos_token_id\": [7, 2, 99]}").unwrap();
    assert_eq!(stop().unwrap(), vec![2, 7]);
    atomic::write_bytes(&generation, b"{\"temperature\": 1}").unwrap();
    assert_eq!(stop().unwrap(), vec![2, 3]);
    atomic::write_bytes(&generation, b"{\"eos_token_id\": \"x\"}").unwrap();
    assert!(stop().unwrap_err().kind() == Kind::Input);
}

#[test]
fn absent_and_damaged_tokenizers() {
    let failure = |folder: &Path| {
        let error = Tokenizer::load(folder).err().expect("must be refused");
        assert!(error.kind() == Kind::Input);
        error.to_string()
    };
    let empty = folder(&[]);
    assert!(failure(empty.path()).contains("tokenizer.json"));
    assert!(failure(&empty.path().join("no")).contains("no such folder"));
    assert!(failure(folder(&[("tokenizer.model", json!("x"))]).path()).contains("transformers"));
    let mut text = tokenizer_json().to_string();
    text.truncate(text.len() / 2);
    assert!(
        failure(folder(&[("tokenizer.json", Value::from(text))]).path()).contains("not a valid tokenizer")
    );
    assert!(
        failure(folder(&[("tokenizer.json", json!({"model": 3}))]).path()).contains("not a valid tokenizer")
    );
    let bad =
        folder(&[("tokenizer.json", tokenizer_json()), ("tokenizer_config.json", json!({"bos_token": 3}))]);
    assert!(failure(bad.path()).contains("`bos_token` is 3"));
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// By hand: `SELFPLAY_TOKENIZERS=…/tokenizers`, a folder with llama3/ and its golden encodings.
#[test]
fn published_tokenizers_where_there_are_any() {
    let Some(folder) = std::env::var_os("SELFPLAY_TOKENIZERS").map(PathBuf::from) else { return };
    let llama = folder.join("llama3");
    let tokenizer = Tokenizer::load(&llama).unwrap();
    let golden = read(&llama.join("golden_swift_llama_3.2_encoded.json"));
    let text = golden["text"].as_str().unwrap();
    let want = golden.get("token_ids").or_else(|| golden.get("input_ids")).expect("ids of the golden text");
    let ids = tokenizer.encode(text, true).unwrap();
    let bare = tokenizer.encode(text, false).unwrap();
    assert!(
        json!(ids) == *want || json!(bare) == *want,
        "{} ids, {}",
        ids.len(),
        want.as_array().unwrap().len()
    );
    assert_eq!(tokenizer.decode(&bare, false).unwrap(), text);

    // Sequences of 512 ids cut from the examples written one after the other, each with <|end_of_text|>.
    let examples = std::fs::read_to_string(llama.join("golden_cs336_sft_sample.jsonl")).unwrap();
    let mut stream = Vec::new();
    for line in examples.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{}\n\n### Response:\n{}",
            row["prompt"].as_str().unwrap(),
            row["response"].as_str().unwrap()
        );
        stream.extend(tokenizer.encode(&text, true).unwrap());
        stream.extend(tokenizer.eos_id());
    }
    let rows = read(&llama.join("golden_cs336_tokenized_sft_sample.json"));
    let want: Vec<u32> = rows
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row["input_ids"].as_array().unwrap())
        .map(|id| id.as_u64().unwrap() as u32)
        .collect();
    assert_eq!(stream[..want.len()], want);
}

/// By hand: `SELFPLAY_GOLDEN=…/golden/open`, a folder with tokens.json and models/.
#[test]
fn golden_tokens_where_there_are_any() {
    let Some(folder) = std::env::var_os("SELFPLAY_GOLDEN").map(PathBuf::from) else { return };
    let golden = read(&folder.join("tokens.json"));
    for (model, cases) in golden.as_object().unwrap() {
        let codec = Codec::load(&folder.join("models").join(model), None).unwrap();
        for case in cases["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                json!(codec.tokenizer.encode(text, true).unwrap()),
                case["ids_with_special"],
                "{text:?}"
            );
            let ids = codec.tokenizer.encode(text, false).unwrap();
            assert_eq!(json!(ids), case["ids"], "{text:?}");
            assert_eq!(json!(codec.tokenizer.decode(&ids, false).unwrap()), case["decoded"]);
            assert_eq!(json!(codec.tokenizer.decode(&ids, true).unwrap()), case["decoded_skip_special"]);
        }
        for case in cases["chats"].as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let header = case["add_generation_prompt"] == true;
            assert_eq!(json!(codec.render(&messages, header).unwrap()), case["rendered"]);
            assert_eq!(json!(codec.conversation_ids(&messages, header).unwrap()), case["ids_no_special"]);
            if !header {
                assert_eq!(json!(codec.scoring_ids(&messages).unwrap()), case["ids_with_special"]);
            }
        }
        assert_eq!(json!(codec.tokenizer.bos_id()), cases["bos"]);
        assert_eq!(json!(codec.tokenizer.eos_id()), cases["eos"]);
    }
}
