use std::io::Write;

use selfplay_records::{HasKind, atomic};

use super::*;

fn request(body: Value, number: u64) -> JsonRequest {
    JsonRequest { path: "chat/completions".into(), body, number }
}

#[test]
fn keys_see_everything_but_the_order_of_fields() {
    let key = |body: Value, number| RequestKey::of(&request(body, number));
    let one = key(json!({"a": 1, "b": {"x": [1, 2], "y": "é"}}), 0);
    assert_eq!(one, key(json!({"b": {"y": "é", "x": [1, 2]}, "a": 1}), 0));
    assert_eq!(RequestKey::from_hex(&one.hex()), Some(one));
    for other in [
        key(json!({"a": 1, "b": {"x": [2, 1], "y": "é"}}), 0),
        key(json!({"a": "1", "b": {"x": [1, 2], "y": "é"}}), 0),
        key(json!({"a": 1, "b": {"x": [1, 2], "y": "é"}}), 1),
        RequestKey::of(&JsonRequest {
            path: "completions".into(),
            body: json!({"a": 1, "b": {"x": [1, 2], "y": "é"}}),
            number: 0,
        }),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn answers_survive_and_a_torn_line_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("transcript.jsonl");
    let requests: Vec<_> = (0..5).map(|number| request(json!({"q": "line\nend é"}), number)).collect();
    let keys: Vec<_> = requests.iter().map(RequestKey::of).collect();
    let mut transcript = Transcript::open(&path).unwrap();
    assert!(transcript.is_empty());
    for (place, (key, request)) in keys.iter().zip(&requests).enumerate() {
        assert_eq!(transcript.answer(key).unwrap(), None);
        transcript.keep(*key, request, &json!({"text": format!("{place}\n\u{2028}")})).unwrap();
        assert_eq!(transcript.answer(key).unwrap().unwrap()["text"], format!("{place}\n\u{2028}"));
    }
    // The later line of a key counts.
    transcript.keep(keys[1], &requests[1], &json!("later")).unwrap();
    drop(transcript);
    // A kill in the middle of a line.
    let text = std::fs::read(&path).unwrap();
    let mut torn = text.clone();
    torn.extend_from_slice(b"{\"key\": \"12");
    atomic::write_bytes(&path, &torn).unwrap();
    let transcript = Transcript::open(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), text);
    assert_eq!(transcript.len(), 5);
    assert_eq!(transcript.answer(&keys[1]).unwrap(), Some(json!("later")));
    assert_eq!(transcript.answer(&keys[4]).unwrap().unwrap()["text"], "4\n\u{2028}");
}

#[test]
fn a_file_that_is_no_transcript_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine");
    // A log that is opened loses a last line without an end; these are not torn logs.
    for text in ["{\"my\": \"config\"}", "line 1\nline 2", "[1]\n", "{\"key\": \"door\"}\n", "\n"] {
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        let error = Transcript::open(&path).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("row 0"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    // The first line, torn by a kill.
    for text in ["", "{", "{\"key\":\"12ab"] {
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        assert!(Transcript::open(&path).unwrap().is_empty());
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
    assert_eq!(Transcript::open(folder.path()).unwrap_err().kind(), Kind::Input);
}

#[test]
fn a_file_that_is_no_transcript_is_refused_with_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    for line in ["{\"prompt\": \"x\"}", "no JSON", "", "{\"key\": \"ab\", \"answer\": 1}"] {
        let mut text = Vec::new();
        writeln!(text, "{{\"key\": \"{}\", \"answer\": 1}}\n{line}", "0".repeat(64)).unwrap();
        atomic::write_bytes(&path, &text).unwrap();
        let error = Transcript::open(&path).unwrap_err();
        assert!(error.to_string().contains("t.jsonl: row 1: expected an answer"), "{error}");
        assert_eq!(error.kind(), Kind::Input);
    }
}

#[test]
fn an_answer_of_our_own_is_found_without_its_request_s_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let [one, other] = [0, 1].map(|number| request(json!({"long": "question"}), number));
    let mut transcript = Transcript::open(&path).unwrap();
    assert_eq!(transcript.find(&one).unwrap(), None);
    transcript.put(&one, &json!([0.1, -0.0])).unwrap();
    drop(transcript);
    let transcript = Transcript::open(&path).unwrap();
    assert_eq!(transcript.find(&one).unwrap(), Some(json!([0.1, -0.0])));
    assert_eq!(transcript.find(&other).unwrap(), None);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("question"));
}
