use serde_json::{Value, json};

use super::*;

fn row(value: Value) -> Result<InstructionRow, String> {
    instruction_row(value.as_object().unwrap()).map_err(|problem| problem.to_string())
}

#[test]
fn every_kind_is_read_with_its_arguments() {
    let arguments = json!({
        "keywords": ["a"], "keyword": "a", "frequency": 1, "relation": "at least", "forbidden_words": ["b"], "letter": "c",
        "let_frequency": 2, "let_relation": "less than", "language": "en", "num_sentences": 3, "num_paragraphs": 4, "num_words": 5,
        "nth_paragraph": 1, "first_word": "a", "num_placeholders": 1, "postscript_marker": "P.S.", "num_bullets": 2,
        "num_highlights": 1, "section_spliter": "Section", "num_sections": 2, "prompt_to_repeat": "x", "end_phrase": "y",
        "capital_frequency": 3, "capital_relation": "less than",
    });
    let read = row(
        json!({"key": "k", "prompt": "p", "instruction_id_list": INSTRUCTION_IDS, "kwargs": vec![arguments; 25]}),
    );
    assert_eq!(read.unwrap().instructions.len(), 25);
}

#[test]
fn what_is_wrong_in_a_row_is_named() {
    for (ids, arguments, wanted) in [
        (
            json!(["keywords:nothing"]),
            json!([{}]),
            "field \"instruction_id_list\": expected one of keywords:existence",
        ),
        (json!(["keywords:existence"]), json!([{}]), "field \"keywords\""),
        (json!(["keywords:existence"]), json!([{"keywords": ["("]}]), "a regular expression"),
        (json!(["keywords:existence"]), json!([]), "1 objects, one for each instruction"),
        (
            json!(["length_constraints:number_words"]),
            json!([{"num_words": 3, "relation": "about"}]),
            "\"less than\" or \"at least\"",
        ),
        (json!(["startend:end_checker"]), json!([null]), "field \"end_phrase\""),
    ] {
        let told = row(json!({"key": 1, "prompt": "p", "instruction_id_list": ids, "kwargs": arguments}))
            .unwrap_err();
        assert!(told.contains(wanted), "{told}");
    }
}

#[test]
fn trained_parameters_are_read_from_nltks_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        selfplay_records::atomic::write_bytes(&folder.path().join(name), text.as_bytes()).unwrap();
    };
    write("abbrev_types.txt", "approx\n");
    write("collocations.tab", "##number##\tjune\n");
    write("sent_starters.txt", "then\n");
    write("ortho_context.tab", "june\t46\nthe\t114\n");
    let splitter = SentenceSplitter::load(folder.path()).unwrap();
    // A number and June stay together; "the" is seen in small letters within sentences and large only at their beginning.
    assert_eq!(
        splitter.split("On 5. June it is approx. Then we go."),
        ["On 5. June it is approx.", "Then we go."]
    );
    assert_eq!(splitter.split("It is approx. The end."), ["It is approx.", "The end."]);
    assert_eq!(splitter.split("It is approx. London."), ["It is approx. London."]);
    write("ortho_context.tab", "june\tx\n");
    let told = SentenceSplitter::load(folder.path()).unwrap_err().to_string();
    assert!(told.contains("ortho_context.tab: row 0") && told.contains("an integer"), "{told}");
}

#[test]
fn an_answer_of_one_line_has_empty_inner_forms() {
    assert_eq!(loose_forms("*a*"), ["*a*", "", "", "", "a", "", "", ""]);
    assert_eq!(loose_forms("a\nb\nc")[1..4], ["b\nc", "a\nb", "b"]);
}
