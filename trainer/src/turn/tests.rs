//! Conversations to tokens with a toy tokenizer of whole words and a template that a reader can run in the head.

use selfplay_model::Codec;
use selfplay_records::{HasKind, Instruction, Kind, Message, Pair};
use selfplay_testing::json_file::write_json;

use crate::turn::{TurnRules, assistant_tokens, last_turn};
use crate::{LossKind, LossTokens, sft_examples, token_pair};

const WORDS: [&str; 9] = ["<unk>", "<user>", "<assistant>", "</s>", "hi", "yes", "no", "why", "<nl>"];
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}> {{ m.content }} </s> {% endfor %}\
                        {% if add_generation_prompt %}<assistant> {% endif %}";

fn codec(template: Option<&str>) -> Codec {
    let folder = tempfile::tempdir().unwrap();
    let vocab: serde_json::Map<String, serde_json::Value> =
        WORDS.iter().enumerate().map(|(i, word)| ((*word).to_owned(), i.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    });
    let mut config = serde_json::json!({ "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast" });
    if let Some(template) = template {
        config["chat_template"] = template.into();
    }
    for (name, value) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
        write_json(&folder.path().join(name), &value);
    }
    Codec::load(folder.path(), None).unwrap()
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

#[test]
fn a_response_is_what_follows_the_generation_prompt_with_its_stop_token() {
    let codec = codec(Some(TEMPLATE));
    let turn = last_turn(
        TurnRules::new(&codec, &[3]),
        &chat(&[("user", "hi why"), ("assistant", "yes no")]),
        "row 0",
    )
    .unwrap();
    assert_eq!(turn.prompt, [1, 4, 7, 3, 2]);
    assert_eq!(turn.response, [5, 6, 3]);
}

#[test]
fn without_a_template_text_is_raw_and_the_end_token_is_added() {
    let turn = last_turn(
        TurnRules::new(&codec(None), &[3]),
        &chat(&[("user", "hi"), ("assistant", "yes")]),
        "row 0",
    )
    .unwrap();
    assert_eq!((turn.prompt, turn.response), (vec![4], vec![5, 3]));
}

#[test]
fn a_template_that_changes_what_was_answered_falls_back_to_the_text() {
    // Once answered, the prompt's <user> is left out: no continuation.
    let odd =
        "{% if add_generation_prompt %}<user> {{ messages[0].content }} <assistant> {% else %}no{% endif %}";
    let turn = last_turn(
        TurnRules::new(&codec(Some(odd)), &[3]),
        &chat(&[("user", "hi"), ("assistant", "yes")]),
        "row 0",
    )
    .unwrap();
    assert_eq!((turn.prompt, turn.response), (vec![1, 4, 2], vec![5, 3]));
}

#[test]
fn every_assistant_turn_is_learnt_and_nothing_else() {
    let codec = codec(Some(TEMPLATE));
    let messages = chat(&[("user", "hi"), ("assistant", "yes no"), ("user", "why"), ("assistant", "no")]);
    let tokens = assistant_tokens(TurnRules::new(&codec, &[3]), &messages, "row 0").unwrap();
    //                        user hi  </s> asst yes no </s> user why </s> asst no </s>
    assert_eq!(tokens.ids, [1, 4, 3, 2, 5, 6, 3, 1, 7, 3, 2, 6, 3]);
    assert_eq!(tokens.spans, [4..7, 11..13]);
    let rows = [
        Instruction { messages, ..Instruction::default() },
        Instruction { prompt_ids: Some(vec![4, 4]), response_ids: Some(vec![5]), ..Instruction::default() },
    ];
    let examples = sft_examples(&rows, TurnRules::new(&codec, &[3]), LossTokens::Responses).unwrap();
    assert_eq!(examples[0].targets().collect::<Vec<_>>(), [4, 5, 6, 11, 12]);
    assert_eq!((examples[1].ids.as_slice(), examples[1].spans[0].clone()), (&[4, 4, 5][..], 2..3));
}

#[test]
fn ids_win_over_messages_and_a_lone_response_follows_the_prompt() {
    let codec = codec(Some(TEMPLATE));
    let text = Pair {
        prompt: Some(chat(&[("user", "hi")])),
        chosen: Some(chat(&[("user", "hi"), ("assistant", "yes")])),
        rejected: Some(chat(&[("assistant", "no")])),
        ..Pair::default()
    };
    let ids = Pair {
        prompt_id: Some("p".into()),
        prompt_ids: Some(vec![4]),
        chosen_ids: Some(vec![7, 7]),
        rejected_ids: Some(vec![8]),
        ..text.clone()
    };
    let rules = TurnRules::new(&codec, &[3]);
    let got = [text, ids].map(|pair| token_pair(0, &pair, rules, LossKind::Dpo).unwrap());
    assert_eq!(
        (&got[0].prompt, &got[0].chosen, &got[0].rejected),
        (&vec![1, 4, 3, 2], &vec![5, 3], &vec![6, 3])
    );
    assert_eq!((&got[1].prompt, &got[1].chosen, &got[1].rejected), (&vec![4], &vec![7, 7], &vec![8]));
    assert!(got[1].name.contains("\"p\""));
}

#[test]
fn bad_rows_are_named() {
    let codec = codec(Some(TEMPLATE));
    let fails = |pair: Pair| {
        let error = token_pair(0, &pair, TurnRules::new(&codec, &[3]), LossKind::Dpo).unwrap_err();
        assert!(error.kind() == Kind::Input);
        error.to_string()
    };
    assert!(fails(Pair::default()).contains("chosen_ids"));
    let ids = Pair {
        prompt_ids: Some(vec![4]),
        chosen_ids: Some(vec![5]),
        rejected_ids: Some(vec![6]),
        ..Pair::default()
    };
    assert!(fails(Pair { ref_chosen_logps: Some(-1.0), ..ids.clone() }).contains("ref_rejected_logps"));
    assert!(fails(Pair { prompt_ids: None, ..ids }).contains("no prompt"));
    let asks = chat(&[("user", "hi"), ("user", "why")]);
    let text = fails(Pair { chosen: Some(asks.clone()), rejected: Some(asks), ..Pair::default() });
    assert!(text.contains("pair 0") && text.contains("assistant"), "{text}");
}

#[test]
fn a_template_without_an_end_token_gets_one() {
    let open = "{% for m in messages %}<{{ m.role }}> {{ m.content }} <nl> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}";
    let turns = [("user", "hi"), ("assistant", "yes")];
    let last = last_turn(TurnRules::new(&codec(Some(open)), &[3]), &chat(&turns), "row 0").unwrap();
    // <nl> is a word of this tokenizer and no white space: it stays, and the end follows.
    assert_eq!((last.prompt, last.response), (vec![1, 4, 8, 2], vec![5, 8, 3]));

    let blank = open.replace(" <nl> ", "\n\n");
    let codec = codec(Some(&blank));
    let last = last_turn(TurnRules::new(&codec, &[3]), &chat(&turns), "row 0").unwrap();
    assert_eq!(last.response, [5, 3]);
    // An earlier turn is learnt as it stands in the text, without an end that is not there.
    let two = [("user", "hi"), ("assistant", "yes"), ("user", "why"), ("assistant", "no")];
    let tokens = assistant_tokens(TurnRules::new(&codec, &[3]), &chat(&two), "row 0").unwrap();
    assert_eq!(tokens.ids, [1, 4, 2, 5, 1, 7, 2, 6, 3]);
    assert_eq!(tokens.spans, [3..4, 7..9]);
}

#[test]
fn no_end_token_is_added_where_none_is_wanted() {
    let open = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}";
    let turns = chat(&[("user", "hi"), ("assistant", "yes")]);
    for template in [Some(open), None] {
        let codec = codec(template);
        let with = TurnRules::new(&codec, &[3]);
        assert_eq!(last_turn(with, &turns, "row 0").unwrap().response, [5, 3]);
        let without = TurnRules { end_token: false, ..with };
        assert_eq!(last_turn(without, &turns, "row 0").unwrap().response, [5]);
    }
    // What the template itself writes stays.
    let codec = codec(Some(TEMPLATE));
    let rules = TurnRules { end_token: false, ..TurnRules::new(&codec, &[3]) };
    assert_eq!(last_turn(rules, &turns, "row 0").unwrap().response, [5, 3]);
}

#[test]
fn a_loss_over_all_tokens_learns_the_prompt_too() {
    let codec = codec(Some(TEMPLATE));
    let messages = chat(&[("user", "hi"), ("assistant", "yes")]);
    let rows = [Instruction { messages, ..Instruction::default() }];
    let example = &sft_examples(&rows, TurnRules::new(&codec, &[3]), LossTokens::All).unwrap()[0];
    assert_eq!(example.ids, [1, 4, 3, 2, 5, 3]);
    assert_eq!(example.targets().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}
