use std::path::PathBuf;

use serde_json::json;

use super::super::Oddity;
use super::*;
use crate::atomic;
use crate::{HasKind, Kind};

struct Case {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(rows: &[Value]) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    atomic::write_bytes(&path, lines.join("\n").as_bytes()).unwrap();
    Case { _folder: folder, path }
}

fn read(rows: &[Value]) -> ReadPairs {
    read_pairs(&file(rows).path).unwrap()
}

fn error(rows: &[Value]) -> String {
    let error = read_pairs(&file(rows).path).unwrap_err();
    assert!(error.kind() == Kind::Input);
    error.to_string()
}

/// prompt, chosen reply, rejected reply: the prompt's turns as "role: text" lines.
fn told(pair: &Pair) -> [String; 3] {
    let prompt = pair.prompt.as_ref().unwrap();
    assert_eq!(&pair.chosen.as_ref().unwrap()[..prompt.len()], prompt.as_slice());
    assert_eq!(&pair.rejected.as_ref().unwrap()[..prompt.len()], prompt.as_slice());
    assert_eq!(pair.chosen.as_ref().unwrap().len(), prompt.len() + 1);
    let lines: Vec<String> = prompt.iter().map(|turn| format!("{}: {}", turn.role, turn.content)).collect();
    [lines.join("\n"), pair.chosen_text().unwrap().into(), pair.rejected_text().unwrap().into()]
}

#[test]
fn every_layout_is_the_same_pair() {
    let user = json!({"role": "user", "content": "q"});
    let reply = |text: &str| json!({"role": "assistant", "content": text});
    for row in [
        json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
        json!({"question": "q", "chosen": "a", "rejected": "b"}),
        json!({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "a", "rejected": "b"}),
        json!({"prompt": [user], "chosen": "a", "rejected": "b"}),
        json!({"instruction": "q", "input": "", "chosen": "a", "reject": "b", "label": 0}),
        json!({"conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}),
        json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}),
        json!({"chosen": [user, reply("a")], "rejected": [user, reply("b")], "metadata": null}),
        json!({"prompt": "q", "chosen": [user, reply("a")], "rejected": [user, reply("b")], "score_chosen": 8}),
        json!({"prompt": [user], "chosen": [reply("a")], "rejected": [reply("b")]}),
        json!({"prompt": [user], "chosen": [user, reply("a")], "rejected": [user, reply("b")], "prompt_id": 7}),
    ] {
        let pairs = read(std::slice::from_ref(&row)).pairs;
        assert_eq!(told(&pairs[0]), ["user: q", "a", "b"], "{row}");
    }
}

#[test]
fn numbers_stand_beside_texts() {
    let row = json!({"prompt": "q", "chosen": "a", "rejected": "b", "prompt_id": 3, "chosen_probs": 0.75,
        "ref_chosen_logps": -1.5, "ref_rejected_logps": -2.5});
    let pair = &read(&[row]).pairs[0];
    assert_eq!(pair.prompt_id.as_deref(), Some("3"));
    assert_eq!(pair.chosen_probs, Some(0.75));
    assert_eq!((pair.ref_chosen_logps, pair.ref_rejected_logps), (Some(-1.5), Some(-2.5)));
}

#[test]
fn ids_are_taken_as_they_are() {
    let row = json!({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [2], "chosen_probs_win": 0.5});
    let read = read(std::slice::from_ref(&row));
    assert_eq!(read.pairs[0].chosen_ids, Some(vec![2]));
    assert_eq!(read.oddities, Oddities::default());
    let with_text = json!({"prompt": "q", "chosen": "a", "rejected": "b",
        "prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]});
    assert_eq!(told(&self::read(&[with_text]).pairs[0]), ["user: q", "a", "b"]);
    assert!(
        error(&[row, json!({"prompt_ids": [1], "chosen_ids": [2, "x"], "rejected_ids": [3]})]).ends_with(
            "row 1: field \"chosen_ids[1]\": expected an integer from 0 to 4294967295, found a string"
        )
    );
    assert!(
        error(&[json!({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [3]})])
            .contains("row 0: field \"chosen_ids\": expected at least one token id")
    );
}

#[test]
fn rows_that_teach_nothing_are_left_out_and_told() {
    let pair = |chosen: &str, rejected: &str| json!({"chosen": chosen, "rejected": rejected});
    let read = read(&[
        pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"),
        pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: a"),
        pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: other\n\nAssistant: a"),
        pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant:"),
        pair("\n\nHuman: q\n\nAssistant: a\n\nHuman: x", "\n\nHuman: q\n\nAssistant: a\n\nHuman: y"),
        pair("\n\nHuman: q\n\nAssistant: a\n\nHuman: x\n\nAssistant: c", "\n\nHuman: q\n\nAssistant: b"),
        pair("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: a\n\nHuman: x\n\nAssistant: c"),
    ]);
    let pairs: Vec<_> = read.pairs.iter().map(told).collect();
    // Row 5 parts at the first reply; what follows answers another conversation.
    assert_eq!(pairs, [["user: q", "a", "b"], ["user: q", "a", "b"]]);
    let counts: Vec<_> =
        read.oddities.iter(true).map(|(kind, count)| (kind, count.rows, count.first_row)).collect();
    assert_eq!(
        counts,
        [(Oddity::IdenticalReplies, 1, 1), (Oddity::EmptyReply, 2, 3), (Oddity::DifferentPrompts, 2, 2)]
    );
    let changed: Vec<_> =
        read.oddities.iter(false).map(|(kind, count)| (kind, count.rows, count.first_row)).collect();
    assert_eq!(changed, [(Oddity::LaterTurns, 1, 5)]);
}

#[test]
fn what_is_wrong_is_named() {
    let good = json!({"prompt": "q", "chosen": "a", "rejected": "b"});
    assert!(
        error(&[good.clone(), json!({"prompt": "q", "chosen": "a"})])
            .contains("row 1: field \"rejected\": expected a string or a message, found no such field")
    );
    assert!(
        error(&[good.clone(), json!({"prompt": 3, "chosen": "a", "rejected": "b"})])
            .contains("row 1: field \"prompt\": expected a string, found 3")
    );
    assert!(
        error(&[good.clone(), json!({"chosen": "a", "rejected": "b"})]).contains("row 1: field \"prompt\"")
    );
    assert!(error(&[good, json!([1])]).contains("row 1: expected a JSON object, found an array"));
    assert!(
        error(&[json!({"a": 1, "b": 2})])
            .contains("row 0: unknown layout of pairs: found the fields a (a number), b (a number);")
    );
    assert!(error(&[json!({"prompt": "q", "chosen": "a", "rejected": "a"})]).contains(
        "none of the 1 rows can be used as pairs; row 0: the chosen and the rejected reply are the same"
    ));
}

#[test]
fn a_system_column_is_the_first_turn_in_every_layout() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    for row in [
        json!({"system": "s", "question": "q", "chosen": "good", "rejected": "bad"}),
        json!({"system_prompt": "s", "prompt": "q", "chosen": "good", "rejected": "bad"}),
        json!({"system": "s", "instruction": "q", "chosen": "good", "rejected": "bad"}),
        json!({"system": "s", "prompt": [turn("user", "q")], "chosen": "good", "rejected": "bad"}),
        json!({"system": "s", "prompt": [turn("user", "q")], "chosen": [turn("assistant", "good")],
            "rejected": [turn("assistant", "bad")]}),
        json!({"system": "s", "chosen": [turn("user", "q"), turn("assistant", "good")],
            "rejected": [turn("user", "q"), turn("assistant", "bad")]}),
        json!({"system": "s", "conversations": [{"from": "human", "value": "q"}], "chosen": "good", "rejected": "bad"}),
        json!({"system": "s", "chosen": "\n\nHuman: q\n\nAssistant: good",
            "rejected": "\n\nHuman: q\n\nAssistant: bad"}),
    ] {
        let pairs = read(std::slice::from_ref(&row)).pairs;
        let expected = vec![Message::new("system", "s"), Message::user("q")];
        assert_eq!(pairs[0].prompt, Some(expected), "{row}");
        assert_eq!(pairs[0].chosen_text(), Some("good"), "{row}");
    }
    // A conversation that has its own keeps it.
    let row = json!({"system": "s", "prompt": [turn("system", "own"), turn("user", "q")], "chosen": "a", "rejected": "b"});
    assert_eq!(read(&[row]).pairs[0].prompt.as_ref().unwrap()[0], Message::new("system", "own"));
}

#[test]
fn replies_may_be_messages_beside_a_prompt() {
    let reply = |text: &str| json!({"role": "assistant", "content": text});
    for prompt in [json!("q"), json!([{"role": "user", "content": "q"}])] {
        let row = json!({"prompt": prompt, "chosen": reply("good"), "rejected": reply("bad")});
        let pairs = read(&[row]).pairs;
        assert_eq!(pairs[0].prompt, Some(vec![Message::user("q")]));
        assert_eq!((pairs[0].chosen_text(), pairs[0].rejected_text()), (Some("good"), Some("bad")));
    }
}

#[test]
fn a_prompt_that_begins_with_human_keeps_the_word() {
    let row = json!({"prompt": "Human: are you?", "chosen": "yes", "rejected": "no"});
    assert_eq!(read(&[row]).pairs[0].prompt, Some(vec![Message::user("Human: are you?")]));
}

#[test]
fn published_data_sets_are_the_same_pair() {
    for (layout, row) in [
        ("alpaca-ranking", json!({"instruction": "q", "input": "", "output": ["a", "b"]})),
        ("cvalues", json!({"prompt": "q", "pos_resp": "a", "neg_resp": "b", "pos_type": "safe"})),
        (
            "safe-rlhf",
            json!({"prompt": "q", "response_0": "b", "response_1": "a", "better_response_id": 1, "safer_response_id": 0,
                "is_response_0_safe": true}),
        ),
        (
            "ultrafeedback",
            json!({"source": "x", "instruction": "q", "models": [], "completions": [
                {"response": "middle", "overall_score": 7.0}, {"response": "b", "overall_score": "2.5"},
                {"response": "a", "overall_score": 9}, {"response": "late", "overall_score": 9}]}),
        ),
        (
            "sharegpt",
            json!({"messages": [{"role": "user", "content": "q"}], "chosen": {"role": "assistant", "content": "a"},
                "rejected": {"role": "assistant", "content": "b"}}),
        ),
        (
            "oasst",
            json!({"prompt": {"text": "q", "role": "prompter", "replies": [
                {"text": "b", "role": "assistant", "rank": 2, "replies": []},
                {"text": "deleted", "role": "assistant", "rank": 3, "deleted": true, "replies": []},
                {"text": "a", "role": "assistant", "rank": 0, "replies": []}]}}),
        ),
    ] {
        let case = file(std::slice::from_ref(&row));
        let report = |path: &Path, layout: Option<&'static DataLayout<Pair>>| {
            let mut pairs = Vec::new();
            let data = DataFile { layout, ..DataFile::new(path) };
            let report = each_example::<Pair, RecordError>(&data, &mut |_, pair| {
                pairs.push(told(&pair));
                Ok(())
            });
            (pairs, report.unwrap())
        };
        let (pairs, found) = report(&case.path, None);
        assert_eq!(
            (pairs.as_slice(), found.layouts),
            ([["user: q", "a", "b"].map(String::from)].as_slice(), vec![layout])
        );
        assert_eq!(report(&case.path, DataLayout::named(layout)).0, pairs, "{row}");
    }
}

#[test]
fn replies_of_neighbours_with_one_prompt_are_paired_by_safety() {
    let row = |prompt: &str, response: &str, is_safe: bool| json!({"prompt": prompt, "response": response, "is_safe": is_safe});
    let read = read(&[
        row("q", "b", false),
        row("q", "a", true),
        row("q", "c", true),
        row("r", "d", true),
        row("s", "x", false),
        row("s", "y", true),
    ]);
    let pairs: Vec<_> = read.pairs.iter().map(told).collect();
    assert_eq!(pairs, [["user: q", "a", "b"], ["user: s", "y", "x"]]);
    let counts: Vec<_> = read.oddities.iter(true).collect();
    assert_eq!(counts.len(), 1);
    assert_eq!((counts[0].0, counts[0].1.rows, counts[0].1.first_row), (Oddity::NothingToCompare, 1, 3));
    let error = error(&[row("q", "b", false), json!({"prompt": "q", "response": "a", "is_safe": "no"})]);
    assert!(error.contains("row 1: field \"is_safe\": expected true or false"), "{error}");
}

#[test]
fn pairs_of_two_layouts_are_not_chosen_between() {
    let error = error(&[json!({"prompt": "q", "instruction": "r", "chosen": "a", "rejected": "b"})]);
    assert!(error.contains("\"texts\" and \"alpaca\"") && error.contains("row 0"), "{error}");
    let transcript = |reply: &str| format!("\n\nHuman: q\n\nAssistant: {reply}");
    let whole = json!({"prompt": "q", "chosen": transcript("a"), "rejected": transcript("b")});
    assert!(self::error(&[whole]).contains("\"texts\" and \"transcripts\""));
}

#[test]
fn ties_of_ratings_and_joined_turns_are_counted() {
    let rated = |first: f64, second: f64| {
        json!({"instruction": "q", "completions": [{"response": "a", "overall_score": first},
            {"response": "b", "overall_score": second}]})
    };
    let read = read(&[
        rated(3.0, 3.0),
        rated(4.0, 1.0),
        json!({"instruction": "q", "completions": [
        {"response": "a", "overall_score": 3.0}, {"response": "b", "overall_score": null}]}),
    ]);
    assert_eq!((read.pairs.len(), read.oddities.count(Oddity::Tie)), (1, 1));
    assert_eq!(read.oddities.count(Oddity::NothingToCompare), 1);
    let text = |reply: &str| format!("\n\nHuman: q\n\nHuman: more\n\nAssistant: {reply}");
    let read = self::read(&[json!({"chosen": text("a"), "rejected": text("b")})]);
    assert_eq!(told(&read.pairs[0])[0], "user: q\n\nmore");
    assert_eq!(read.oddities.count(Oddity::JoinedTurns), 1);
}
