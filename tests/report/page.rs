//! The page as a file: its numbers are the run's, whatever state the run is in.

use serde_json::Value;

/// The charts' numbers: their series' points by title of the figure.
fn points(page: &str, title: &str) -> Vec<(String, Vec<[f64; 2]>)> {
    let figure = page.split("<figure class=\"plot\">").find(|part| part.contains(&format!("<b>{title}</b>")));
    let figure = figure.unwrap_or_else(|| panic!("no chart {title}"));
    let json =
        figure.split("<script type=\"application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    let numbers: Value = serde_json::from_str(json).unwrap();
    let point = |pair: &Value| [pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap()];
    let series = numbers["series"].as_array().unwrap();
    series
        .iter()
        .map(|one| {
            let name = one["name"].as_str().unwrap().to_owned();
            (name, one["points"].as_array().unwrap().iter().map(point).collect())
        })
        .collect()
}

fn close(mine: &[[f64; 2]], wanted: &[[f64; 2]]) -> bool {
    let same = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
    mine.len() == wanted.len() && mine.iter().zip(wanted).all(|(a, b)| same(a[0], b[0]) && same(a[1], b[1]))
}

#[test]
fn a_page_tells_the_numbers_of_a_run_and_in_what_two_runs_differ() {
    let world = super::finished_run(&[]);
    world.selfplay(&["report", "out", "-o", "out.html"]).ok();
    let page = String::from_utf8(world.bytes("out.html")).unwrap();
    let iterations: Vec<Value> =
        (1..=2).map(|number| world.json(&format!("out/iteration_0{number}/summary.json"))).collect();
    let start = world.json("out/start/eval.json");
    let number = |value: &Value| value.as_f64().unwrap();
    let wanted = |key: &str| -> Vec<[f64; 2]> {
        iterations.iter().map(|one| [number(&one["iteration"]), number(&one[key])]).collect()
    };
    for (title, key) in
        [("KL", "kl"), ("Intransitivity", "cyclic"), ("Win rate against the first policy", "win_rate_first")]
    {
        assert!(close(&points(&page, title)[0].1, &wanted(key)), "{title}");
    }
    let mut accuracy = vec![[0.0, number(&start["eval_accuracy"])]];
    accuracy.extend(wanted("eval_accuracy"));
    assert!(close(&points(&page, "Accuracy")[0].1, &accuracy));
    let mut losses = Vec::new();
    for iteration in 1..=2 {
        for row in world.rows(&format!("out/iteration_0{iteration}/train/metrics.jsonl")) {
            losses.push([losses.len() as f64 + 1.0, number(&row["loss"])]);
        }
    }
    assert!(close(&points(&page, "Loss")[0].1, &losses), "{losses:?}");
    // Lengths: what the bins hold adds up to all candidates.
    let share: f64 = points(&page, "Length of the candidates")[1].1.iter().map(|point| point[1]).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    // Six held-out prompts before and after, with what the preference model says of each, whose mean is the win rate.
    let wins = world.json("out/iteration_02/eval_wins.json");
    let wins: Vec<f64> = wins["first"].as_array().unwrap().iter().map(number).collect();
    let mean = wins.iter().sum::<f64>() / wins.len() as f64;
    assert!((mean - number(&iterations[1]["win_rate_first"])).abs() < 1e-9);
    assert_eq!(page.matches("P(after ≻ before)").count(), 6);
    for win in wins {
        assert!(page.contains(&format!("P(after ≻ before) {:.1} %", 100.0 * win)), "{win}");
    }
    assert!(page.contains("P(chosen ≻ rejected)") && page.contains("class=\"answer chosen\""));
    assert!(page.contains("most resident bytes") && page.contains("MiB"));

    world
        .selfplay(&[
            "branch",
            "out",
            "--from",
            "iteration_01/pairs",
            "-o",
            "sppo",
            "--set",
            "train.loss=sppo",
            "-q",
        ])
        .ok();
    world.selfplay(&["resume", "sppo", "-q"]).ok();
    world.selfplay(&["report", "out", "sppo", "-o", "two.html"]).ok();
    let page = String::from_utf8(world.bytes("two.html")).unwrap();
    let keys = page
        .split("Keys in which the runs differ</caption>")
        .nth(1)
        .unwrap()
        .split("</table>")
        .next()
        .unwrap();
    assert!(keys.contains("train.loss") && keys.contains("<td>gpo</td><td>sppo</td>"), "{keys}");
    assert_eq!(keys.matches("<th scope=\"row\">").count(), 1, "{keys}");
    let names: Vec<String> = points(&page, "Loss").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["out", "sppo"], "runs of one recipe are called by their folders");
}

#[test]
fn runs_in_every_state_give_a_page_or_say_what_is_missing() {
    let world = crate::run_world();
    world.selfplay(&["report", "absent", "-o", "x.html"]).refused(&[
        "absent",
        "manifest.json",
        "metrics.jsonl",
    ]);
    world.write("notes.html", "<p>mine</p>");
    // Killed in the middle of the first training.
    world.faulty("kill:60", &["run", "recipe.toml", "-o", "out", "-q"]);
    world.selfplay(&["report", "out", "-o", "notes.html"]).refused(&["notes.html", "--force"]);
    world.selfplay(&["report", "out", "-o", "half.html"]).ok();
    let page = String::from_utf8(world.bytes("half.html")).unwrap();
    assert!(page.contains("0 of 2 iterations") && page.contains("Not on this page"), "{page}");
    world.selfplay(&["resume", "out", "-q"]).ok();
    // A report of ours is replaced without asking.
    world.selfplay(&["report", "out", "-o", "half.html"]).ok();
    assert!(String::from_utf8(world.bytes("half.html")).unwrap().contains("finished, 2 of 2 iterations"));
    // A damaged shard costs what it held.
    world.write("out/iteration_01/candidates/00001.parquet", "no parquet");
    world.selfplay(&["report", "out", "-o", "half.html"]).ok();
    let page = String::from_utf8(world.bytes("half.html")).unwrap();
    assert!(page.contains("00001.parquet") && page.contains("<b>Loss</b>"));

    let pairs = "out/iteration_01/pairs.parquet";
    world
        .selfplay(&[
            "train",
            "--model",
            "policy",
            "--pairs",
            pairs,
            "--output",
            "trained",
            "--set",
            "train.max_steps=2",
            "--set",
            "train.batch_size=2",
            "-q",
        ])
        .ok();
    world.selfplay(&["report", "trained", "-o", "trained.html"]).ok();
    let page = String::from_utf8(world.bytes("trained.html")).unwrap();
    assert_eq!(points(&page, "Loss")[0].1.len(), 2);
    assert!(page.contains("training, finished, 2 steps"));
}
