//! A circle is learnt by a general preference model and by the hybrid, and not by a ranking; a line by all three.

use selfplay_testing::World;
use selfplay_testing::comparisons::LabelOrder;

use super::{measured, write_rows};

/// Held-out accuracy of a preference model of this kind that was trained on a set.
fn accuracy(world: &World, kind: &str, set: &str) -> f64 {
    let output = format!("{kind}-{set}");
    let key = |name: &str| format!("preference.{name}");
    let keys = [
        format!("{}={kind}", key("kind")),
        format!("{}=adamw", key("optimizer")),
        format!("{}=3e-3", key("learning_rate")),
        // A circle gives no first-order signal: small batches, whose labels don't balance, drown what there is.
        format!("{}={}", key("batch_size"), if set == "circle" { 300 } else { 16 }),
        format!("{}=1", key("tau")),
        format!("{}={}", key("epochs"), if set == "circle" && kind != "bradley-terry" { 18 } else { 2 }),
        format!("{}=0.1", key("holdout")),
    ];
    let train = format!("{set}_train.jsonl");
    let mut line =
        vec!["train-preference", "--model", "policy", "--pairs", &train, "--output", &output, "-q"];
    keys.iter().for_each(|set| line.extend(["--set", set]));
    world.selfplay(&line).ok();
    // What was measured while it learnt.
    let log = world.rows(&format!("{output}/accuracy.jsonl"));
    assert!(log.len() >= 2);
    assert!(log.iter().all(|line| line["loss"].is_number() && line["ece"].is_number()), "{log:?}");
    let kind_of_score = format!("score.kind={kind}");
    let model = format!("{output}/preference_model");
    let found = measured(world, &model, &format!("{set}_held_out.jsonl"), &["--set", &kind_of_score]);
    assert_eq!(found["comparisons"], 240);
    if set == "circle" {
        let cycles = &found["cycles"];
        assert_eq!((&cycles["cyclic_by_labels"], &cycles["cyclic_sets"]), (&120.into(), &24.into()));
        assert!((cycles["best_ranking"].as_f64().unwrap() - 0.7).abs() < 1e-12, "{cycles}");
    }
    found["accuracy"]["rate"].as_f64().unwrap()
}

#[test]
fn a_circle_takes_more_than_a_ranking() {
    let world = crate::world();
    for (order, set) in [(LabelOrder::Circle, "circle"), (LabelOrder::Line, "line")] {
        write_rows(&world, &format!("{set}_train.jsonl"), &order.pairs(300, 2));
        write_rows(&world, &format!("{set}_held_out.jsonl"), &order.pairs(24, 3));
    }
    let ranking = accuracy(&world, "bradley-terry", "circle");
    assert!(ranking <= 0.7 + 1e-9, "no ranking orders more: {ranking}");
    for kind in ["gpm", "hrc"] {
        let found = accuracy(&world, kind, "circle");
        assert!(found > 0.95, "{kind}: {found}");
    }
    for kind in ["bradley-terry", "gpm", "hrc"] {
        let found = accuracy(&world, kind, "line");
        assert!(found > 0.95, "{kind}: {found}");
    }
}

#[test]
fn labels_of_comparisons_are_read_and_asked_for() {
    let world = crate::world();
    let row = |more: serde_json::Value| {
        let mut row = serde_json::json!({"prompt": "a b", "chosen": "c d", "rejected": "e f"});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = |labels: [serde_json::Value; 2]| labels.map(row).to_vec();
    let train = |pairs: &str, output: &str, sets: &[&str]| {
        let mut line =
            vec!["train-preference", "--model", "policy", "--pairs", pairs, "--output", output, "-q"];
        line.extend(["--set", "preference.holdout=0", "--set", "preference.batch_size=2"]);
        line.extend(["--set", "preference.warmup_ratio=0", "--set", "preference.kind=bradley-terry"]);
        sets.iter().for_each(|set| line.extend(["--set", set]));
        world.selfplay(&line)
    };
    let loss = |output: &str| world.rows(&format!("{output}/metrics.jsonl"))[0]["loss"].as_f64().unwrap();
    use serde_json::json;
    write_rows(&world, "plain.jsonl", &rows([json!({}), json!({})]));
    write_rows(&world, "ties.jsonl", &rows([json!({"tie": true}), json!({"tie": true})]));
    let soft = json!({"chosen_probs": 0.5, "margin": 2.0});
    write_rows(&world, "soft.jsonl", &rows([soft.clone(), soft]));
    write_rows(&world, "half.jsonl", &rows([json!({"chosen_probs": 0.5, "margin": 1.0}), json!({})]));
    train("plain.jsonl", "plain", &[]).ok();
    train("ties.jsonl", "ties", &[]).ok();
    train("soft.jsonl", "soft", &["preference.soft_labels=true"]).ok();
    train("soft.jsonl", "margins", &["preference.margins=true"]).ok();
    train("soft.jsonl", "unused", &[]).ok();
    // A tie is a soft label of one half; a margin of 2 costs more than none; without the keys nothing is read.
    assert_eq!(loss("ties"), loss("soft"));
    assert_ne!(loss("ties"), loss("plain"));
    assert!(loss("margins") > loss("plain") + 0.5, "{} {}", loss("margins"), loss("plain"));
    assert_eq!(loss("unused"), loss("plain"));
    for (key, field) in [("soft_labels", "chosen_probs"), ("margins", "margin")] {
        train("half.jsonl", "refused", &[&format!("preference.{key}=true")]).refused(&["row 1", field]);
    }
    write_rows(&world, "wrong.jsonl", &rows([json!({"tie": 1}), json!({})]));
    train("wrong.jsonl", "refused", &[]).refused(&["row 0", "\"tie\"", "true or false"]);
}

#[test]
fn conversations_that_are_cut_are_counted() {
    let world = crate::world();
    let row = |chosen: &str| serde_json::json!({"prompt": "a b", "chosen": chosen, "rejected": "e f"});
    write_rows(&world, "pairs.jsonl", &[row("c d"), row(&vec!["c"; 40].join(" "))]);
    let mut line = vec!["train-preference", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "cut"];
    line.extend(["--set", "preference.holdout=0", "--set", "preference.max_length=24"]);
    let outcome = world.selfplay(&line).ok();
    assert!(outcome.stderr.contains("1 truncated"), "{}", outcome.stderr);
}
