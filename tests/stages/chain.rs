//! Each stage by its own command, one feeding the next, as a user chains them by hand.

use std::fs;

use super::sample;

#[test]
fn the_fixture_itself_is_right() {
    let world = crate::world();
    world.selfplay(&["check", "recipe.toml"]).ok();
    sample(&world, &[]).ok();
    let rows = fs::read_to_string(world.path("out.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 12);
    // Fields that are not ours go along, and the folder of parts is gone.
    assert!(rows.lines().all(|row| row.contains("\"answer\"")), "{rows}");
    assert!(!world.path("out.jsonl.parts").exists());
}

/// Sampling settings that keep the chain short.
const SHORT: [&str; 4] = ["--set", "sample.max_new_tokens=5", "--set", "sample.num_samples=3"];

#[test]
fn prompts_become_a_policy_stage_by_stage() {
    let world = crate::world();
    world.sample("prompts.jsonl", "candidates.jsonl", &SHORT).ok();
    let candidates = world.rows("candidates.jsonl");
    assert_eq!(candidates.len(), 12);
    assert!(candidates.iter().all(|row| row["responses"].as_array().unwrap().len() == 3));

    world.score("preference_model", "candidates.jsonl", "preferences.parquet").ok();
    world
        .selfplay(&[
            "pair",
            "--candidates",
            "candidates.jsonl",
            "--preferences",
            "preferences.parquet",
            "--output",
            "pairs.jsonl",
        ])
        .ok();
    let pairs = world.rows("pairs.jsonl");
    assert!(!pairs.is_empty());
    for pair in &pairs {
        assert!(pair["chosen_score"].as_f64().unwrap() > 0.0, "the chosen one beats the rejected one");
        assert_ne!(pair["chosen_ids"], pair["rejected_ids"]);
    }

    let train = ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "trained"];
    let keys =
        ["--set", "train.learning_rate=1e-2", "--set", "train.warmup_ratio=0", "--set", "train.batch_size=4"];
    world.selfplay(&[&train[..], &keys[..]].concat()).ok();
    let steps = world.rows("trained/metrics.jsonl");
    assert_eq!(steps.len(), pairs.len().div_ceil(4));
    assert_ne!(world.bytes("policy/model.safetensors"), world.bytes("trained/policy/model.safetensors"));
    // The trained policy is a model folder like any other.
    world
        .selfplay(
            &[
                &[
                    "sample",
                    "--model",
                    "trained/policy",
                    "--prompts",
                    "prompts.jsonl",
                    "--output",
                    "again.jsonl",
                ][..],
                &SHORT[..],
            ]
            .concat(),
        )
        .ok();
}

#[test]
fn the_same_command_gives_the_same_rows_and_another_seed_others() {
    let world = crate::world();
    let run = |output: &str, seed: &str| {
        world.sample("prompts.jsonl", output, &[&["--set", seed][..], &SHORT].concat()).ok();
        world.bytes(output)
    };
    let first = run("a.jsonl", "seed=1");
    assert_eq!(first, run("b.jsonl", "seed=1"));
    assert_ne!(first, run("c.jsonl", "seed=2"));
}

#[test]
fn what_sft_makes_of_random_weights_is_a_whole_model_folder() {
    let world = crate::world();
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    world.write("data.jsonl", &format!("{row}\n{row}\n"));
    world.selfplay(&["sft", "--model", "random:policy", "--data", "data.jsonl", "--output", "out"]).ok();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        assert!(world.path("out/policy").join(name).is_file(), "{name} is missing");
    }
    world
        .selfplay(&[
            "sample",
            "--model",
            "out/policy",
            "--prompts",
            "prompts.jsonl",
            "--output",
            "c.jsonl",
            "--set",
            "sample.max_new_tokens=4",
        ])
        .ok();
}

#[test]
fn a_trained_preference_model_scores_candidates() {
    let world = crate::world();
    let pairs: String = (0..12)
        .map(|i| {
            format!(
                "{{\"prompt\": \"a b\", \"chosen\": \"c {}\", \"rejected\": \"d\"}}\n",
                if i % 2 == 0 { "e" } else { "f" }
            )
        })
        .collect();
    world.write("labels.jsonl", &pairs);
    let train = ["train-preference", "--model", "policy", "--pairs", "labels.jsonl", "--output", "made"];
    world
        .selfplay(&[&train[..], &["--set", "preference.dim=4", "--set", "preference.batch_size=4"]].concat())
        .ok();
    world.write(
        "candidates.jsonl",
        "{\"prompt\": \"a b\", \"responses\": [{\"text\": \"c\"}, {\"text\": \"d\"}]}\n",
    );
    world.score("made/preference_model", "candidates.jsonl", "p.jsonl").ok();
    let scores = &world.rows("p.jsonl")[0]["scores"];
    assert_eq!(scores[0][1].as_f64().unwrap(), -scores[1][0].as_f64().unwrap());
}
