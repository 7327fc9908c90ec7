use serde_json::json;

use super::super::{DataFile, DataReport, each_example};
use super::*;
use crate::{HasKind, Kind, atomic};

fn read(value: Value) -> Result<Instruction, String> {
    let Value::Object(map) = value else { panic!("an object is wanted") };
    Instruction::try_from(map).map_err(|problem| problem.to_string())
}

fn turns(value: Value) -> Vec<(String, String)> {
    read(value).unwrap().messages.into_iter().map(|turn| (turn.role, turn.content)).collect()
}

fn expected(turns: &[(&str, &str)]) -> Vec<(String, String)> {
    turns.iter().map(|(role, content)| ((*role).to_owned(), (*content).to_owned())).collect()
}

#[test]
fn alpaca() {
    let plain = json!({"instruction": "Add.", "input": "", "output": "3"});
    assert_eq!(turns(plain), expected(&[("user", "Add."), ("assistant", "3")]));
    let whole = json!({"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "Be brief.",
        "history": [["Hi", "Hello"]]});
    assert_eq!(
        turns(whole),
        expected(&[
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello"),
            ("user", "Add.\n1 and 2"),
            ("assistant", "3")
        ])
    );
    let nulls = json!({"instruction": "Add.", "input": null, "output": "3", "history": null});
    assert_eq!(turns(nulls).len(), 2);
}

#[test]
fn texts_messages_and_sharegpt() {
    let two = expected(&[("user", "q"), ("assistant", "a")]);
    for row in [
        json!({"prompt": "q", "response": "a"}),
        json!({"prompt": "q", "completion": "a"}),
        json!({"question": "q", "std_answer": "a", "class": "qa"}),
        json!({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}),
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
    ] {
        assert_eq!(turns(row.clone()), two, "{row}");
    }
}

#[test]
fn ids_stand_alone() {
    let row = read(json!({"prompt_ids": [1, 2], "response_ids": [3]})).unwrap();
    assert_eq!((row.prompt_ids, row.response_ids), (Some(vec![1, 2]), Some(vec![3])));
    assert!(row.messages.is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (json!({"instruction": "a", "output": 3}), "field \"output\": expected a string, found 3"),
        (
            json!({"instruction": "a", "input": "b"}),
            "field \"output\": expected a string, found no such field",
        ),
        (
            json!({"prompt_ids": [1], "response_ids": [3, -1]}),
            "field \"response_ids[1]\": expected an integer from 0 to 4294967295, found -1",
        ),
        (
            json!({"prompt_ids": [1]}),
            "field \"response_ids\": expected an array of token ids, found no such field",
        ),
        (json!({"messages": [{"role": "user"}]}), "field \"messages[0].content\": expected a string"),
        (
            json!({"messages": [{"role": "user", "content": "q"}]}),
            "field \"messages\": expected a reply to learn, found there is no turn of the assistant",
        ),
        (json!({"conversations": [{"from": "robot", "value": "q"}]}), "field \"conversations[0].from\""),
        (json!({"text": "a"}), "found only [text]"),
    ];
    for (row, text) in cases {
        let error = read(row.clone()).unwrap_err();
        assert!(error.contains(text), "{row}: {error}");
    }
}

/// The rows of a file, read as a data set.
fn read_file(
    rows: &[Value],
    set: impl FnOnce(&mut DataFile<Instruction>),
) -> Result<(Vec<(usize, Instruction)>, DataReport), RecordError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    atomic::write_bytes(&path, lines.join("\n").as_bytes()).unwrap();
    let mut file = DataFile::new(path);
    set(&mut file);
    let mut found = Vec::new();
    let report = each_example::<_, RecordError>(&file, &mut |row, instruction| {
        found.push((row, instruction));
        Ok(())
    })?;
    Ok((found, report))
}

fn layout(name: &str) -> Option<&'static DataLayout<Instruction>> {
    Some(DataLayout::named(name).unwrap())
}

fn roles_and_texts(instruction: &Instruction) -> Vec<(&str, &str)> {
    instruction.messages.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect()
}

#[test]
fn every_published_layout_is_the_same_instruction() {
    let two = [("user", "q\nc"), ("assistant", "a")];
    for (name, row) in [
        ("alpaca", json!({"instruction": "q", "input": "c", "output": "a", "text": "whole"})),
        ("dolly", json!({"instruction": "q", "context": "c", "response": "a", "category": "open_qa"})),
        ("belle", json!({"question": "q\nc", "std_answer": "a", "class": "qa"})),
        ("prompt-response", json!({"query": "q\nc", "answer": "a"})),
        (
            "sharegpt",
            json!({"conversations": [{"from": "human", "value": "q\nc"}, {"from": "assistant", "value": "a"}], "id": 1}),
        ),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": "q\nc"}, {"role": "assistant", "content": "a"}]}),
        ),
        (
            "oasst",
            json!({"message_tree_id": "t", "prompt": {"text": "q\nc", "role": "prompter", "replies": [
                {"text": "worse", "role": "assistant", "rank": 1, "replies": []},
                {"text": "a", "role": "assistant", "rank": 0, "replies": []}]}}),
        ),
    ] {
        let (found, report) = read_file(std::slice::from_ref(&row), |_| {}).unwrap();
        assert_eq!(roles_and_texts(&found[0].1), two, "{row}");
        assert_eq!((report.layouts, report.rows, report.examples), (vec![name], 1, 1));
        let (named, _) = read_file(&[row], |file| file.layout = layout(name)).unwrap();
        assert_eq!(named, found);
    }
    let hh =
        json!({"chosen": "\n\nHuman: q\nc\n\nAssistant: a", "rejected": "\n\nHuman: q\nc\n\nAssistant: b"});
    let pair = json!({"prompt": "q\nc", "chosen": {"role": "assistant", "content": "a"}, "rejected": "b"});
    let lists =
        json!({"chosen": [{"role": "user", "content": "q\nc"}, {"role": "assistant", "content": "a"}]});
    for row in [hh, pair, lists] {
        let error = read_file(std::slice::from_ref(&row), |_| {}).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("layout = \"chosen\""), "{error}");
        let (found, _) = read_file(&[row], |file| file.layout = layout("chosen")).unwrap();
        assert_eq!(roles_and_texts(&found[0].1), two);
    }
    let apart = json!({"instruction": "q", "input": "c", "output": "a"});
    let (found, _) = read_file(&[apart], |file| file.layout = layout("alpaca-input")).unwrap();
    assert_eq!(roles_and_texts(&found[0].1), [("user", "q"), ("input", "c"), ("assistant", "a")]);
}

#[test]
fn two_layouts_that_fit_are_not_chosen_between() {
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "prompt": "other", "response": "b"});
    let error = read_file(std::slice::from_ref(&row), |_| {}).unwrap_err();
    assert!(error.kind() == Kind::Input);
    let text = error.to_string();
    assert!(text.contains("row 0") && text.contains("\"messages\" and \"prompt-response\""), "{text}");
    let (found, _) = read_file(&[row], |file| file.layout = layout("prompt-response")).unwrap();
    assert_eq!(roles_and_texts(&found[0].1), [("user", "other"), ("assistant", "b")]);
    let replies = json!({"prompt": "q", "response": "a", "output": "b"});
    let error = read_file(&[replies], |_| {}).unwrap_err().to_string();
    assert!(error.contains("one of [response, output]") && error.contains("columns"), "{error}");
}

#[test]
fn oddities_are_counted_by_kind_and_a_wrong_row_is_named() {
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let rows = [
        json!({"conversations": [turn("gpt", "hello"), turn("human", "q"), turn("gpt", "a"), turn("human", "bye")]}),
        json!({"conversations": [turn("human", "q"), turn("gpt", "  ")]}),
        json!({"conversations": [turn("human", "q")]}),
        json!({"conversations": [turn("human", "q"), turn("gpt", "")]}),
        json!({"prompt": "q", "response": "a", "is_safe": true}),
    ];
    let (found, report) = read_file(&rows[..4], |_| {}).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(roles_and_texts(&found[0].1), [("user", "q"), ("assistant", "a")]);
    assert_eq!((report.rows, report.examples), (4, 1));
    for (kind, count) in [
        (Oddity::LeadingTurns, 1),
        (Oddity::LaterTurns, 1),
        (Oddity::EmptyReply, 2),
        (Oddity::NoReply, 1),
        (Oddity::Tie, 0),
    ] {
        assert_eq!(report.oddities.count(kind), count, "{kind:?}");
    }
    let line = report.line("instructions");
    assert!(
        line.contains("4 rows (sharegpt), 1 instructions; left out 2 where a reply is empty (first row 1)"),
        "{line}"
    );
    let error = read_file(&rows, |file| file.layout = layout("sharegpt")).unwrap_err().to_string();
    assert!(error.contains("row 4: field \"conversations\": expected an array of messages"), "{error}");
    let error = read_file(&rows[1..4], |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("none of the 3 rows can be used as instructions; row 0: a reply is empty"),
        "{error}"
    );
    let unsafe_rows = [rows[4].clone(), json!({"prompt": "q", "response": "b", "is_safe": false})];
    let (found, report) = read_file(&unsafe_rows, |file| file.layout = layout("beavertails")).unwrap();
    assert_eq!((found.len(), report.oddities.count(Oddity::UnsafeReply)), (1, 1));
}

#[test]
fn calls_of_tools_and_texts_in_parts_are_kept() {
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "add"}}]});
    let parts =
        json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    let (found, report) = read_file(&[json!({"messages": [parts, call]})], |_| {}).unwrap();
    assert_eq!((found.len(), report.oddities.count(Oddity::EmptyReply)), (1, 0));
    assert_eq!(roles_and_texts(&found[0].1), [("user", "a\nb"), ("assistant", "")]);
    assert!(found[0].1.messages.iter().all(Message::has_more));
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]});
    let error = read_file(&[image], |_| {}).unwrap_err().to_string();
    assert!(error.contains("row 0: field \"messages[0].content\"") && error.contains("no text"), "{error}");
}

#[test]
fn columns_and_the_number_of_rows_are_the_user_s() {
    let rows: Vec<Value> =
        (0..5).map(|i| json!({"frage": format!("q{i}"), "antwort": "a", "n": i})).collect();
    let columns = [("prompt", "frage"), ("response", "antwort")];
    let set = |file: &mut DataFile<Instruction>| {
        file.columns = columns.iter().map(|(field, column)| ((*field).into(), (*column).into())).collect();
        file.max_rows = Some(3);
    };
    let (found, report) = read_file(&rows, set).unwrap();
    assert_eq!((found.len(), report.rows), (3, 3));
    assert_eq!(found[2].0, 2);
    assert_eq!(roles_and_texts(&found[2].1), [("user", "q2"), ("assistant", "a")]);
    let error = read_file(&[rows[0].clone(), json!({"frage": "q"})], set).unwrap_err().to_string();
    assert!(
        error.contains("row 1: field \"antwort\": expected the column that columns.response names"),
        "{error}"
    );
}

#[test]
fn a_tree_a_message_a_row_is_read_whole() {
    let row = |id: &str, parent: Option<&str>, role: &str, text: &str, rank: Option<u32>| {
        json!({"message_id": id, "parent_id": parent, "message_tree_id": "t", "role": role, "text": text,
            "rank": rank, "deleted": false})
    };
    let rows = [
        row("1", None, "prompter", "q", None),
        row("2", Some("1"), "assistant", "worse", Some(1)),
        row("3", Some("1"), "assistant", "best", Some(0)),
        row("4", Some("3"), "prompter", "more", None),
        row("5", Some("4"), "assistant", "end", None),
        row("6", Some("3"), "prompter", "unanswered", None),
    ];
    let (found, report) = read_file(&rows, |_| {}).unwrap();
    let expected = [("user", "q"), ("assistant", "best"), ("user", "more"), ("assistant", "end")];
    assert_eq!((found.len(), report.rows), (1, 6));
    assert_eq!(roles_and_texts(&found[0].1), expected);
    let lost = [rows[0].clone(), row("9", Some("8"), "assistant", "x", None)];
    let error = read_file(&lost, |_| {}).unwrap_err().to_string();
    assert!(error.contains("row 1: field \"parent_id\""), "{error}");
}
