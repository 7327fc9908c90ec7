use serde_json::json;

use super::*;

fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    crate::atomic::write_bytes(&path, text.as_bytes()).unwrap();
    (folder, path)
}

fn one(row: Value, column: &str) -> Prompt {
    let Value::Object(map) = row else { panic!("an object is wanted") };
    prompt_of(&map, column).unwrap()
}

#[test]
fn alpacas_instruction_and_input_are_one_prompt() {
    let row = json!({"instruction": "Add.", "input": "1 and 2", "output": "3"});
    for column in ["instruction", "prompt"] {
        assert_eq!(one(row.clone(), column).prompt.as_deref(), Some("Add.\n1 and 2"), "{column}");
    }
    let row = json!({"instruction": "Add.", "input": ""});
    assert_eq!(one(row, "instruction").prompt.as_deref(), Some("Add."));
    let row = json!({"instruction": "Add.", "history": [["a", "b"]], "system": "s"});
    assert_eq!(one(row, "instruction").messages.unwrap().len(), 4);
    // A prompt of its own goes before it.
    let row = json!({"prompt": "p", "instruction": "Add.", "input": "x"});
    assert_eq!(one(row, "prompt").prompt.as_deref(), Some("p"));
}

#[test]
fn a_system_column_is_the_first_turn() {
    let turns = vec![Message::new("system", "s"), Message::user("q")];
    for row in [
        json!({"system": "s", "question": "q"}),
        json!({"system_prompt": "s", "question": "q"}),
        json!({"system": "s", "question": [{"role": "user", "content": "q"}]}),
        json!({"system": "s", "messages": [{"role": "user", "content": "q"}]}),
        json!({"system": "other", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}),
    ] {
        assert_eq!(one(row.clone(), "question").messages, Some(turns.clone()), "{row}");
    }
    for row in [json!({"system": "", "question": "q"}), json!({"system": 3, "question": "q"})] {
        assert_eq!(one(row.clone(), "question").prompt.as_deref(), Some("q"), "{row}");
    }
}

#[test]
fn the_reading_ends_after_as_many_prompts_as_are_wanted() {
    let text =
        "{\"x\": 1}\n{\"prompt\": \"a\", \"n\": 1}\n{\"prompt\": \"b\", \"prompt_id\": \"i\"}\nnot JSON\n";
    let (_folder, path) = file("p.jsonl", text);
    let read = read_prompt_rows(&path, "prompt", OnBadPrompt::Skip, Some(2)).unwrap();
    assert_eq!((read.rows.len(), read.skipped), (2, 1));
    assert!(read.first_skipped.unwrap().starts_with("row 0: "));
    assert_eq!((read.rows[0].row, read.rows[0].prompt.prompt_id.as_str()), (1, "1"));
    assert_eq!(read.rows[0].others, Map::from_iter([("n".to_owned(), json!(1))]));
    assert!(read.rows[1].others.is_empty());
    let (_folder, path) = file("p.json", "[{\"prompt\": \"a\"}, {\"prompt\": \"b\"}, oh]");
    assert_eq!(read_prompt_rows(&path, "prompt", OnBadPrompt::Error, Some(2)).unwrap().rows.len(), 2);
    assert!(read_prompt_rows(&path, "prompt", OnBadPrompt::Error, None).is_err());
}

#[test]
fn a_row_s_other_fields_are_read_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.jsonl");
    let rows = "{\"question\": \"a\", \"answer\": 4, \"constraint\": {\"n\": 3}}\n{\"no\": 1}\n{\"question\": \"b\"}\n";
    crate::atomic::write_bytes(&path, rows.as_bytes()).unwrap();
    let read = read_prompt_files_whole(&[&path], "question", OnBadPrompt::Skip).unwrap();
    let others = |row: usize| Value::Object((**read.prompts[row].others.as_ref().unwrap()).clone());
    assert_eq!((read.prompts.len(), read.skipped), (2, 1));
    assert_eq!(others(0), serde_json::json!({"question": "a", "answer": 4, "constraint": {"n": 3}}));
    assert_eq!(read.prompts[1].prompt_id, "2");
    let plain = read_prompt_files(&[&path], "question", OnBadPrompt::Skip).unwrap();
    assert!(plain.prompts.iter().all(|prompt| prompt.others.is_none()));
    // They are not written.
    let text = serde_json::to_string(&read.prompts[0]).unwrap();
    assert_eq!(text, "{\"prompt_id\":\"0\",\"prompt\":\"a\"}");
}
