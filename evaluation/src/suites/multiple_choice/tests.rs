use serde_json::json;

use selfplay_records::atomic;

use super::*;

fn question(layout: ChoiceLayout, row: serde_json::Value) -> Result<ChoiceQuestion, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    atomic::write_bytes(&path, row.to_string().as_bytes()).unwrap();
    read(layout, &path, "").map(|mut rows| rows.remove(0)).map_err(|error| error.to_string())
}

#[test]
fn the_best_choice_is_by_sum_and_by_character() {
    let row = json!({"id": "q", "question": "Q?", "choices": {"text": ["abcd", "b"], "label": ["A", "B"]}, "answerKey": "A"});
    let one = question(ChoiceLayout::Arc, row).unwrap();
    // Sums −4 and −3: the second; a character −1 and −3: the first.
    assert_eq!(figures(&one, &[-4.0, -3.0]), [("acc", 0.0), ("acc_norm", 1.0)]);
    assert_eq!(figures(&one, &[-2.0, -2.0]), [("acc", 1.0), ("acc_norm", 1.0)], "the first of equal ones");
    let texts = requests(&one, &[&one]);
    assert_eq!(texts[1].context, "Question: Q?\nAnswer: abcd\n\nQuestion: Q?\nAnswer:");
    assert_eq!(texts[1].continuation, " b");
}

#[test]
fn a_gap_is_filled_before_the_ending() {
    let row = json!({"sentence": "Ann thanked Eve as _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"});
    let one = question(ChoiceLayout::WinoGrande, row).unwrap();
    let texts = requests(&one, &[&one]);
    assert_eq!(texts[0].context, "Ann thanked Eve as Eve had helped.\n\nAnn thanked Eve as Ann");
    assert_eq!(texts[0].continuation, " had helped.");
    assert_eq!(one.correct, Correct::One(1));
}

#[test]
fn mc2_is_the_share_of_the_true_answers() {
    let row = json!({"question": "Q", "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 0, 1]}});
    let one = question(ChoiceLayout::TruthfulQaMc2, row).unwrap();
    let log = |p: f64| p.ln() - 2000.0;
    let found = figures(&one, &[log(0.1), log(0.3), log(0.2)])[0].1;
    assert!((found - 0.5).abs() < 1e-12, "{found}");
}

#[test]
fn rows_of_another_layout_are_named() {
    let arc = json!({"question": "Q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "E"});
    let told = question(ChoiceLayout::Arc, arc).unwrap_err();
    assert!(told.contains("row 0: field \"answerKey\": expected one of A, found \"E\""), "{told}");
    let told = question(ChoiceLayout::HellaSwag, json!({"ctx": "x"})).unwrap_err();
    assert!(told.contains("field \"activity_label\"") && told.contains("the row has ctx"), "{told}");
    let told = question(ChoiceLayout::Mmlu, json!({"question": "Q", "choices": ["a", "b"], "answer": 0}))
        .unwrap_err();
    assert!(told.contains("four choices"), "{told}");
    let row = json!({"activity_label": "x", "ctx_a": "a", "ctx_b": "b", "endings": ["e"], "label": "3"});
    assert!(question(ChoiceLayout::HellaSwag, row).unwrap_err().contains("one of 1 choices"));
}

#[test]
fn mmlus_own_files_have_no_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("high_school_physics_test.csv");
    atomic::write_bytes(&path, b"\"What, then?\",w,x,y,z,C\nAnd now?,1,2,3,4,A\n").unwrap();
    let rows = read(ChoiceLayout::Mmlu, &path, "").unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].texts, ["What, then?\nA. w\nB. x\nC. y\nD. z\nAnswer:"]);
    assert_eq!(
        (&rows[0].correct, rows[0].category.as_deref()),
        (&Correct::One(2), Some("high_school_physics"))
    );
    assert!(rows[0].description.ends_with("about high school physics.\n\n"));
}
