use serde_json::json;

use super::*;
use crate::{Prompt, read_rows, write_rows};

fn read(value: Value) -> Message {
    serde_json::from_value(value).unwrap()
}

fn refused(value: Value) -> String {
    serde_json::from_value::<Message>(value).unwrap_err().to_string()
}

#[test]
fn a_role_and_a_text_are_a_plain_message_whatever_nulls_stand_beside() {
    let message = read(json!({"content": "hi", "tool_calls": null, "role": "user", "name": null}));
    assert_eq!(message, Message::user("hi"));
    assert_eq!(serde_json::to_string(&message).unwrap(), r#"{"role":"user","content":"hi"}"#);
}

#[test]
fn parts_calls_and_names_are_kept_as_given_and_the_text_is_read_from_them() {
    let parts =
        json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    assert_eq!(read(parts.clone()).content, "a\nb");
    let calls = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]});
    assert_eq!(read(calls.clone()).content, "");
    let named = json!({"role": "tool", "name": "f", "content": "12"});
    for given in [parts, calls, named] {
        let message = read(given.clone());
        assert!(message.has_more());
        assert_eq!(serde_json::to_value(&message).unwrap(), given);
    }
}

#[test]
fn what_has_no_text_is_refused() {
    assert_eq!(refused(json!({"role": "user"})), "missing field `content`");
    assert_eq!(refused(json!({"content": "x"})), "missing field `role`");
    assert!(refused(json!({"role": "user", "content": null})).contains("expected a string"));
    assert!(refused(json!({"role": "user", "content": 3})).contains("expected a string"));
    let image =
        refused(json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}));
    assert!(image.contains("images and sound are not supported"), "{image}");
}

#[test]
fn parquet_gives_back_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let messages = vec![
        read(json!({"role": "user", "content": [{"type": "text", "text": "weather?"}]})),
        read(
            json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"c": [1, "x"]}}}]}),
        ),
        Message::user("and now?"),
    ];
    let plain =
        Prompt { prompt_id: "b".into(), messages: Some(vec![Message::user("x")]), ..Prompt::default() };
    let rows = vec![Prompt { prompt_id: "a".into(), messages: Some(messages), ..Prompt::default() }, plain];
    for name in ["rows.parquet", "rows.jsonl"] {
        let path = folder.path().join(name);
        write_rows(&path, &rows).unwrap();
        assert_eq!(read_rows::<Prompt>(&path).unwrap(), rows, "{name}");
    }
}
