//! `selfplay train` and `train-preference` over data sets.

use serde_json::{Value, json};

use super::write_rows;

/// Rows in the layouts of published data sets, two usable pairs in each.
fn published() -> [(&'static str, Vec<Value>); 6] {
    let transcript = |question: &str, reply: &str| format!("\n\nHuman: {question}\n\nAssistant: {reply}");
    [
        (
            "hh.jsonl",
            vec![
                json!({"chosen": transcript("a", "b"), "rejected": transcript("a", "c")}),
                json!({"chosen": transcript("a", "b"), "rejected": transcript("a", "b")}),
                json!({"chosen": transcript("d", "e"), "rejected": transcript("d", "f")}),
            ],
        ),
        (
            "comparison.jsonl",
            vec![
                json!({"instruction": "a", "input": "b", "output": ["c", "d"]}),
                json!({"instruction": "e", "input": "", "output": ["f", "g"]}),
            ],
        ),
        (
            "cvalues.jsonl",
            vec![
                json!({"prompt": "a", "pos_resp": "b", "neg_resp": "c"}),
                json!({"prompt": "d", "pos_resp": "e", "neg_resp": "f"}),
            ],
        ),
        (
            "ultra.jsonl",
            vec![
                json!({"instruction": "a", "completions": [{"response": "b", "overall_score": 1},
                    {"response": "c", "overall_score": 9.5}]}),
                json!({"instruction": "a", "completions": [{"response": "b", "overall_score": 7},
                    {"response": "c", "overall_score": 3}]}),
                json!({"instruction": "a", "completions": [{"response": "b", "overall_score": 7},
                    {"response": "c", "overall_score": 7}]}),
            ],
        ),
        (
            "beaver.jsonl",
            vec![
                json!({"prompt": "a", "response": "b", "is_safe": false, "category": {}}),
                json!({"prompt": "a", "response": "c", "is_safe": true, "category": {}}),
                json!({"prompt": "d", "response": "e", "is_safe": true, "category": {}}),
                json!({"prompt": "d", "response": "f", "is_safe": false, "category": {}}),
            ],
        ),
        (
            "oasst.jsonl",
            vec![json!({"prompt": {"role": "prompter", "text": "a", "replies": [
                    {"role": "assistant", "text": "b", "rank": 1, "replies": []},
                    {"role": "assistant", "text": "c", "rank": 0, "replies": [{"role": "prompter", "text": "d",
                        "replies": [{"role": "assistant", "text": "e", "rank": 0, "replies": []},
                                    {"role": "assistant", "text": "f", "rank": 1, "replies": []}]}]}]}})],
        ),
    ]
}

#[test]
fn published_data_sets_train_by_name_with_their_oddities_counted() {
    let world = crate::world();
    let mut sets = Vec::new();
    for (name, rows) in published() {
        write_rows(&world, name, &rows);
        sets.push(format!("\"{name}\""));
    }
    let data = format!("train.data=[{}]", sets.join(", "));
    let train = ["train", "--model", "policy", "--output", "out", "--set", &data];
    let keys = ["--set", "train.loss=dpo", "--set", "train.loss_tokens=all", "--set", "train.warmup_ratio=0"];
    let said = world.selfplay(&[&train[..], &keys, &["--set", "train.batch_size=5"]].concat()).ok();
    for words in [
        "hh.jsonl: 3 rows (transcripts), 2 pairs; left out 1 where the chosen and the rejected reply are the same (first row 1)",
        "comparison.jsonl: 2 rows (alpaca-ranking), 2 pairs",
        "ultra.jsonl: 3 rows (ultrafeedback), 2 pairs; left out 1 where the replies are rated alike (first row 2)",
        "beaver.jsonl: 4 rows (beavertails), 2 pairs",
        "oasst.jsonl: 1 rows (oasst), 2 pairs",
        "12 examples",
    ] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    assert_eq!(world.rows("out/metrics.jsonl").len(), 3);
    assert_eq!(world.json("out/data.json").as_array().unwrap().len(), 6);

    let data = "preference.data=[{path = \"hh.jsonl\", layout = \"hh-rlhf\", weight = 3}, {path = \"cvalues.jsonl\", weight = 1}]";
    let preference = ["train-preference", "--model", "policy", "--output", "made", "--set", data];
    let keys =
        ["--set", "preference.dim=2", "--set", "preference.batch_size=2", "--set", "preference.holdout=0"];
    world.selfplay(&[&preference[..], &keys].concat()).ok();
    assert_eq!(world.rows("made/metrics.jsonl").len(), 2);
}

#[test]
fn a_pairs_file_is_read_by_a_layout_and_columns_that_are_named() {
    let world = crate::world();
    write_rows(
        &world,
        "pairs.jsonl",
        &[json!({"frage": "a", "gut": "b", "schlecht": "c"}), json!({"frage": "a", "gut": "b"})],
    );
    let columns = ["--layout", "texts", "--columns", "prompt=frage,chosen=gut,rejected=schlecht"];
    let train = [
        "train",
        "--model",
        "policy",
        "--pairs",
        "pairs.jsonl",
        "--output",
        "out",
        "--set",
        "train.loss=dpo",
    ];
    world.selfplay(&[&train[..], &columns].concat()).refused(&["pairs.jsonl", "row 1", "\"schlecht\""]);
    world.selfplay(&train).refused(&["pairs.jsonl", "row 0", "unknown layout of pairs", "column map"]);
    write_rows(&world, "pairs.jsonl", &[json!({"frage": "a", "gut": "b", "schlecht": "c"})]);
    world.selfplay(&[&train[..], &columns].concat()).ok();
    let safe = json!({"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0, "safer_response_id": 2});
    write_rows(&world, "pairs.jsonl", &[safe]);
    let safer = ["--force", "--columns", "better_response_id=safer_response_id"];
    world.selfplay(&[&train[..], &safer].concat()).refused(&["row 0", "better_response_id", "0 or 1"]);
    world.selfplay(&[&train[..], &["--force"]].concat()).ok();
}
