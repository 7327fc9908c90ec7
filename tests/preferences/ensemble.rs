//! Several preference models as one.

use serde_json::Value;

use super::write_rewards;

/// s(0 ≻ 1) of every row.
fn scores(rows: &[Value]) -> Vec<f64> {
    rows.iter().map(|row| row["scores"][0][1].as_f64().unwrap()).collect()
}

#[test]
fn members_are_weighed_and_their_folders_are_looked_up() {
    let world = crate::run_world();
    world.sample("split_0.jsonl", "candidates.jsonl", &["--set", "sample.num_samples=3"]).ok();
    write_rewards(&world, "judge.sh", "[ $1 = 1 ] && r=1 || r=0");
    let score = |output: &str, sets: &[&str]| {
        let mut line = vec!["score", "--candidates", "candidates.jsonl", "--output", output, "-q"];
        sets.iter().for_each(|set| line.extend(["--set", set]));
        world.selfplay(&line)
    };
    let alone = |model: &str, output: &str| {
        world.score(model, "candidates.jsonl", output).ok();
        scores(&world.rows(output))
    };
    let (gpm, reward) = (alone("preference_model", "gpm.jsonl"), alone("other_preference_model", "bt.jsonl"));
    let members = "score.members=[{ model = \"preference_model\", weight = 3 }, { kind = \"bradley-terry\", model = \"other_preference_model\" }, \
                   { kind = \"command\", command = [\"sh\", \"./judge.sh\"], weight = 2 }]";
    score("all.jsonl", &["score.kind=ensemble", members]).ok();
    let all = scores(&world.rows("all.jsonl"));
    for ((found, gpm), reward) in all.iter().zip(&gpm).zip(&reward) {
        let wanted = (3.0 * gpm + reward + 2.0) / 6.0;
        assert!((found - wanted).abs() < 1e-9, "{found} {wanted}");
    }
    score("forms.jsonl", &["score.kind=ensemble", members, "score.normalize=probability"]).ok();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for ((row, gpm), reward) in world.rows("forms.jsonl").iter().zip(&gpm).zip(&reward) {
        let wanted = (3.0 * sigmoid(*gpm) + sigmoid(*reward) + 2.0 * sigmoid(1.0)) / 6.0;
        assert!((row["probabilities"][0][1].as_f64().unwrap() - wanted).abs() < 1e-6, "{row}");
    }
    for (set, words) in [
        ("score.members=[]", "score.members"),
        ("score.members=[{ model = \"preference_model\", weight = 0 }]", "score.members[0].weight"),
        ("score.members=[{ kind = \"ensemble\" }]", "score.members[0].kind"),
        ("score.members=[{ kind = \"gpm\" }]", "score.members[0].model"),
        ("score.members=[{ model = \"policy\" }]", "this is a policy"),
        ("score.members=[{ model = \"absent\" }]", "absent"),
    ] {
        score("refused.jsonl", &["score.kind=ensemble", set]).refused(&[words]);
    }
    // A run with one: its members' files are watched.
    let kind = ["--set", "score.kind=ensemble", "--set", "score.model=", "--set", members];
    world.selfplay(&[&["run", "recipe.toml", "-o", "run", "-q"][..], &kind].concat()).ok();
    let manifest = std::fs::read_to_string(world.path("run/manifest.json")).unwrap();
    assert!(manifest.contains("other_preference_model") && manifest.contains("judge.sh"), "{manifest}");
    world.selfplay(&["show", "run"]).ok();
}
