//! Files of pairs, preferences and candidates: which rows are refused, left out or counted.

use selfplay_testing::tiny_model::{CONTEXT, WORDS};
use selfplay_testing::world::prompts;
use serde_json::json;

use super::{sample, words};
use crate::files::unchanged;

#[test]
fn a_pairs_file_of_the_wrong_kind_is_refused() {
    let world = crate::world();
    let train = |more: &[&str]| {
        let line = ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "trained"];
        world.selfplay(&[&line[..], more].concat())
    };
    world.write("pairs.jsonl", &prompts(3));
    let before = world.names();
    train(&[]).refused(&["pairs.jsonl"]);
    world.write("pairs.jsonl", "{\"prompt_ids\": [5], \"chosen_ids\": [6, 2], \"rejected_ids\": [7, 2]}\n");
    // Ids without targets are enough for dpo, not for gpo.
    train(&[]).refused(&["chosen_score", "gpo"]);
    let outside = WORDS.len();
    world.write(
        "pairs.jsonl",
        &format!("{{\"prompt_ids\": [5], \"chosen_ids\": [{outside}], \"rejected_ids\": [7, 2]}}\n"),
    );
    train(&["--set", "train.loss=dpo"]).refused(&[&outside.to_string()]);
    train(&["--set", "train.loss=dopo"]).refused(&["train.loss", "did you mean dpo?"]);
    unchanged(&world, &before);
    world.write("pairs.jsonl", "{\"prompt_ids\": [5], \"chosen_ids\": [6, 2], \"rejected_ids\": [7, 2]}\n");
    train(&["--set", "train.loss=dpo"]).ok();
    assert!(
        world.path("trained/metrics.jsonl").is_file() && world.path("trained/policy/config.json").is_file()
    );
    assert!(!world.path("trained.parts").exists());
    train(&["--set", "train.loss=dpo"]).refused(&["trained", "--force"]);
}

#[test]
fn rows_that_do_not_belong_together_are_refused() {
    let world = crate::world();
    world.write(
        "candidates.jsonl",
        "{\"prompt_id\": \"p\", \"prompt\": \"a\", \"responses\": [{\"text\": \"b\"}, {\"text\": \"c\"}]}\n",
    );
    world.write("preferences.jsonl", "{\"prompt_id\": \"q\", \"scores\": [[0]], \"probabilities\": [[0.5]], \"mean_scores\": [0], \"mean_probabilities\": [0.5]}\n");
    let line = [
        "pair",
        "--candidates",
        "candidates.jsonl",
        "--preferences",
        "preferences.jsonl",
        "--output",
        "pairs.jsonl",
    ];
    world.selfplay(&line).refused(&["\"p\""]);
    world.write("preferences.jsonl", "{\"prompt_id\": \"p\"}\n");
    world.selfplay(&line).refused(&["preferences.jsonl", "row 0"]);
    assert!(!world.path("pairs.jsonl").exists());
}

#[test]
fn a_row_longer_than_the_context_is_named_before_training() {
    let world = crate::world();
    let long = words(CONTEXT + 10);
    let pair = json!({"prompt": "a", "chosen": long, "rejected": words(CONTEXT + 9)});
    world.write(
        "pairs.jsonl",
        &format!("{}\n{pair}\n", json!({"prompt": "a", "chosen": "b", "rejected": "c"})),
    );
    world.write("one.jsonl", &json!({"prompt": "a", "response": long}).to_string());
    let train =
        ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "t", "--set", "train.loss=dpo"];
    let context = "context is 64";
    world.selfplay(&train).refused(&["pairs.jsonl", "pair 1", context, "train.max_length=64"]);
    assert!(!world.path("t.parts").exists());
    world.selfplay(&[&train[..], &["--set", "train.max_length=64"]].concat()).ok();
    let sft = ["sft", "--model", "policy", "--data", "one.jsonl", "--output", "s"];
    world.selfplay(&sft).refused(&["one.jsonl", "instruction 0", context, "sft.max_length=64"]);
    world.selfplay(&[&sft[..], &["--set", "sft.max_length=64"]].concat()).ok();
    let preference = ["train-preference", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "m"];
    world.selfplay(&preference).refused(&["pair 1", context, "preference.max_length=64"]);
    let logprobs = ["logprobs", "--model", "policy", "--input", "one.jsonl", "--output", "l.jsonl"];
    world.selfplay(&logprobs).refused(&["one.jsonl", "row 0", context]);
}

#[test]
fn pairs_that_teach_nothing_are_counted_and_those_cut_to_nothing_left_out() {
    let world = crate::world();
    let ids = |n: usize| vec![5_u32; n];
    let text = [
        json!({"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]}),
        json!({"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [6, 2]}),
        json!({"prompt_ids": ids(40), "chosen_ids": [6, 2], "rejected_ids": [7, 2]}),
    ]
    .map(|row| row.to_string())
    .join("\n");
    world.write("pairs.jsonl", &text);
    let line =
        ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "t", "--set", "train.loss=dpo"];
    let said = world.selfplay(&[&line[..], &["--set", "train.max_length=32"]].concat()).ok();
    for words in ["1 of 3 pairs left out", "pair 2", "1 of 2 pairs have the same tokens", "pair 1"] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    // One step, which warm-up takes: nothing is learnt, and that is told.
    assert!(said.stderr.contains("every learning rate is 0"), "{}", said.stderr);
}

#[test]
fn a_run_of_one_step_computes_the_reference_of_its_batch_alone() {
    let world = crate::world();
    let text: String = (0..200)
        .map(|n| {
            format!("{}\n", json!({"prompt_ids": [5], "chosen_ids": [6 + n % 9, 2], "rejected_ids": [16, 2]}))
        })
        .collect();
    world.write("pairs.jsonl", &text);
    let line =
        ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "t", "--set", "train.loss=dpo"];
    let one = ["--set", "train.max_steps=1", "--set", "train.batch_size=4", "--set", "train.warmup_ratio=0"];
    world.selfplay(&[&line[..], &one[..]].concat()).ok();
    assert_eq!(world.rows("t/metrics.jsonl").len(), 1);
}

#[test]
fn preferences_of_other_candidates_are_refused() {
    let world = crate::world();
    sample(&world, "prompts.jsonl", "a.jsonl", &[]).ok();
    sample(&world, "prompts.jsonl", "b.jsonl", &["--set", "seed=8", "--set", "sample.temperature=5"]).ok();
    world.score("preference_model", "a.jsonl", "pref.jsonl").ok();
    let pair = |candidates: &str, output: &str| {
        let files = ["--candidates", candidates, "--preferences", "pref.jsonl", "--output", output];
        world.selfplay(&[&["pair"][..], &files[..]].concat())
    };
    pair("a.jsonl", "pairs.jsonl").ok();
    pair("b.jsonl", "other.jsonl").refused(&["other responses", "selfplay score"]);
    // Files of older versions have no digest.
    let old: String = world
        .rows("pref.jsonl")
        .into_iter()
        .map(|mut row| {
            row.as_object_mut().unwrap().remove("candidates_digest").unwrap();
            format!("{row}\n")
        })
        .collect();
    world.write("pref.jsonl", &old);
    pair("b.jsonl", "old.jsonl").ok();
}
