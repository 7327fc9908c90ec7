use serde_json::json;

use super::*;

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
            json!({"prompt_ids": [1], "response_ids": [-1]}),
            "field \"response_ids\": expected an array of token ids",
        ),
        (
            json!({"prompt_ids": [1]}),
            "field \"response_ids\": expected an array of token ids, found no such field",
        ),
        (json!({"messages": [{"role": "user"}]}), "field \"messages[0].content\": expected a string"),
        (json!({"messages": [{"role": "user", "content": "q"}]}), "found the turn of \"user\" at its end"),
        (json!({"conversations": [{"from": "robot", "value": "q"}]}), "field \"conversations[0].from\""),
        (json!({"text": "a"}), "found only [text]"),
    ];
    for (row, text) in cases {
        let error = read(row.clone()).unwrap_err();
        assert!(error.contains(text), "{row}: {error}");
    }
}
