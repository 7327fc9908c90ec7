//! `selfplay evaluate`: suites over a model and over a run, interrupted, judged, wrong.

use selfplay_testing::tiny_model::word;
use selfplay_testing::{StubReply, StubRequest, StubServer, World};
use serde_json::{Value, json};

fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

/// Small files of every layout.
fn write_data(world: &World) {
    let choice = |n: usize| word(n + 3);
    let arc = |n: usize| {
        let texts: Vec<&str> = (0..4).map(|place| choice(n + place)).collect();
        json!({"id": format!("q{n}"), "question": word(n), "choices": {"text": texts, "label": ["A", "B", "C", "D"]},
               "answerKey": (["A", "B", "C", "D"][n % 4])})
    };
    world.write("arc.jsonl", &lines((0..20).map(arc)));
    world.write(
        "gsm8k.jsonl",
        &lines((0..20).map(|n| json!({"question": word(n), "answer": format!("#### {n}")}))),
    );
    let ifeval = |n: usize| {
        json!({"key": n, "prompt": word(n), "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
               "kwargs": [{}, {"num_words": 4, "relation": "at least"}]})
    };
    world.write("ifeval.jsonl", &lines((0..3).map(ifeval)));
    let mmlu = |n: usize| json!({"question": word(n), "choices": ["a", "b", "c", "d"], "answer": n % 4, "subject": (["x", "y"][n % 2])});
    world.write("mmlu.jsonl", &lines((0..6).map(mmlu)));
    let pair = |n: usize| json!({"prompt": word(n), "pos_resp": "a b", "neg_resp": "c", "domain": "work"});
    world.write("cvalues.jsonl", &lines((0..3).map(pair)));
    let question = |n: usize| json!({"question_id": 80 + n, "category": (["writing", "math"][n % 2]), "turns": [word(n), word(n + 1)]});
    world.write("mt.jsonl", &lines((0..3).map(question)));
    let answer = |n: usize| json!({"question_id": 80 + n, "answer_id": "x", "model_id": "base", "choices": [{"index": 0, "turns": ["a b", "c d"]}]});
    world.write("mt_answers.jsonl", &lines((0..3).map(answer)));
    let alpaca: Vec<Value> = (0..8)
        .map(|n| json!({"instruction": word(n), "output": "a b c", "generator": "base", "dataset": "tiny"}))
        .collect();
    world.write("alpaca.json", &Value::from(alpaca).to_string());
}

const MODEL: [&str; 4] = ["evaluate", "--model", "policy", "-q"];

fn evaluate<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&MODEL[..], more].concat()
}

#[test]
fn a_model_is_evaluated_by_several_suites_and_only_once() {
    let world = crate::world();
    write_data(&world);
    let suites = [
        "--suite",
        "arc_easy",
        "gsm8k",
        "ifeval",
        "mmlu",
        "cvalues",
        "--max-new-tokens",
        "6",
        "--num-fewshot",
        "1",
    ];
    let data = [
        "--data",
        "arc_easy=arc.jsonl",
        "gsm8k=gsm8k.jsonl",
        "ifeval=ifeval.jsonl",
        "mmlu=mmlu.jsonl",
        "cvalues=cvalues.jsonl",
    ];
    let line = evaluate(&[&suites[..], &data].concat());
    let told = world.selfplay(&line).ok().stdout;
    for figure in ["acc_norm", "flexible-extract", "inst_level_loose_acc", "acc_both"] {
        assert!(told.contains(figure), "{told}");
    }
    let results = world.json("policy/evaluation/arc_easy/results.json");
    assert_eq!((&results["rows"], &results["metrics"]["acc"]["n"]), (&json!(20), &json!(20)));
    let samples = world.rows("policy/evaluation/arc_easy/samples.jsonl");
    let right = samples.iter().filter(|row| row["figures"]["acc"] == 1.0).count();
    assert_eq!(results["metrics"]["acc"]["value"], json!(right as f64 / 20.0));
    // The choice with the largest log-likelihood is what counts.
    for row in &samples {
        let scores: Vec<f64> =
            row["log_likelihoods"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
        let best = (0..4).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        assert_eq!(row["figures"]["acc"] == 1.0, row["correct"] == json!(best), "{row}");
    }
    let mmlu = world.json("policy/evaluation/mmlu/results.json");
    assert_eq!(mmlu["categories"].as_object().unwrap().keys().collect::<Vec<_>>(), ["x", "y"]);
    assert!(!world.names().iter().any(|name| name.contains("/parts")));
    let before = world.bytes("policy/evaluation/gsm8k/results.json");
    let again = world.selfplay(&[&line[..3], &line[4..]].concat()).ok();
    assert_eq!(again.stderr.matches("evaluated already").count(), 5, "{}", again.stderr);
    assert_eq!((again.stdout, world.bytes("policy/evaluation/gsm8k/results.json")), (told, before));
    // Other settings are refused, and replaced on demand.
    let other = evaluate(&[
        "--suite",
        "gsm8k",
        "--data",
        "gsm8k=gsm8k.jsonl",
        "--limit",
        "2",
        "--max-new-tokens",
        "2",
    ]);
    world.selfplay(&other).refused(&["results of other settings (settings.", "--force"]);
    world.selfplay(&[&other[..], &["--force"]].concat()).ok();
    assert_eq!(world.json("policy/evaluation/gsm8k/results.json")["rows"], 2);
    // Against itself there is no difference.
    let against =
        world.selfplay(&[&line[..], &["--force", "--json", "--against", "policy"]].concat()).ok().stdout;
    let against: Value = serde_json::from_str(&against).unwrap();
    assert_eq!(against["against"][0]["figures"]["acc"]["p"], 1.0, "{against}");
}

#[test]
fn what_was_answered_before_a_kill_is_not_asked_again() {
    let world = crate::world();
    write_data(&world);
    let line = |output: &'static str| {
        evaluate(&[
            "--suite",
            "gsm8k",
            "arc_easy",
            "--data",
            "gsm8k=gsm8k.jsonl",
            "arc_easy=arc.jsonl",
            "--max-new-tokens",
            "8",
            "-o",
            output,
        ])
    };
    world.selfplay(&line("whole")).ok();
    let files =
        ["gsm8k/results.json", "gsm8k/samples.jsonl", "arc_easy/results.json", "arc_easy/samples.jsonl"];
    // Each kill leaves more than the one before.
    for fault in ["kill:6", "kill:10", "kill:16", "kill:24", "kill:34"] {
        let outcome = world.faulty(fault, &line("killed"));
        if outcome.status.is_some() {
            break;
        }
    }
    let shard = "killed/gsm8k/parts/answers-00000.jsonl";
    if world.path(shard).is_file() {
        // An answer that is there is taken as it is, not asked for again.
        assert!(world.rows(shard).len() == 16);
    }
    world.selfplay(&line("killed")).ok();
    for file in files {
        let [whole, killed] = ["whole", "killed"].map(|folder| world.bytes(&format!("{folder}/{file}")));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(killed), text(whole), "{file}");
    }
    assert!(!world.path("killed/gsm8k/parts").exists());
}

fn rated(request: &StubRequest) -> StubReply {
    let turns = request.body["messages"].as_array().unwrap();
    assert_eq!(turns[0]["role"], "system");
    let text =
        if turns[1]["content"].as_str().unwrap().contains("Reference") { "[[4]]" } else { "Good: [[8]]" };
    StubReply::json(&json!({"choices": [{"message": {"role": "assistant", "content": text}}]}))
}

#[test]
fn a_judge_rates_both_turns_and_compares_with_a_baseline() {
    let world = crate::world();
    write_data(&world);
    let server = StubServer::start(rated);
    let endpoint = format!("score.endpoint={}/v1", server.address);
    let judge = [
        "--set",
        "score.kind=judge",
        "--set",
        "score.model=big",
        "--set",
        &endpoint,
        "--max-new-tokens",
        "5",
    ];
    let data = ["--suite", "mt_bench", "--data", "mt_bench=mt.jsonl", "mt_bench.references=mt_answers.jsonl"];
    let line = evaluate(&[&data[..], &judge].concat());
    world.selfplay(&line).ok();
    assert_eq!(server.requests().len(), 6);
    let results = world.json("policy/evaluation/mt_bench/results.json");
    // Two questions of writing at 8, one of math at 4, each of two turns.
    assert!(
        (results["metrics"]["average"]["value"].as_f64().unwrap() - 20.0 / 3.0).abs() < 1e-9,
        "{results}"
    );
    assert_eq!(results["categories"]["math"]["average"]["value"], 4.0);
    let judgment = &world.rows("policy/evaluation/mt_bench/model_judgment_single.jsonl")[0];
    assert_eq!((&judgment["judge"], &judgment["score"]), (&json!(["big", "single-v1"]), &json!(8.0)));
    assert_eq!(
        world.rows("policy/evaluation/mt_bench/model_answer.jsonl")[1]["choices"][0]["turns"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // A verdict without "[[A]]", "[[B]]" or "[[C]]" is none.
    let pair = [&line[..], &["-o", "pairs", "--data", "mt_bench.baseline=mt_answers.jsonl"]].concat();
    world.selfplay(&pair).ok();
    let results = world.json("pairs/mt_bench/results.json");
    assert!(results["notes"][0].as_str().unwrap().contains("6 of 6 turns without a verdict"), "{results}");
    assert_eq!(world.rows("pairs/mt_bench/model_judgment_pair.jsonl")[0]["g1_winner"], "error");
}

#[test]
fn a_preference_model_annotates_in_alpaca_evals_form() {
    let world = crate::world();
    write_data(&world);
    let line = evaluate(&[
        "--suite",
        "alpaca_eval",
        "--data",
        "alpaca_eval=alpaca.json",
        "--preference-model",
        "preference_model",
        "--max-new-tokens",
        "5",
    ]);
    world.selfplay(&line).ok();
    let folder = "policy/evaluation/alpaca_eval";
    let results = world.json(&format!("{folder}/results.json"));
    let annotations = format!("{folder}/annotations.json");
    let found = world.selfplay(&["winrate", "--annotations", &annotations, "--json"]).ok().stdout;
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(results["metrics"]["win_rate"]["value"], found["win_rate"]);
    assert_eq!(results["details"], found);
    let rows = world.json(&annotations);
    assert_eq!((&rows[0]["generator_1"], &rows[0]["generator_2"]), (&json!("base"), &json!("policy")));
    assert_eq!(world.json(&format!("{folder}/model_outputs.json"))[7]["dataset"], "tiny");
}

#[test]
fn a_run_is_evaluated_policy_by_policy_and_shows_it() {
    let world = crate::world();
    write_data(&world);
    world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]).ok();
    let shown = world.selfplay(&["show", "run", "--json"]).ok().stdout;
    assert!(!shown.contains("evaluations"));
    let line = ["evaluate", "--model", "run", "--suite", "arc_easy", "--data", "arc_easy=arc.jsonl", "-q"];
    let told = world.selfplay(&line).ok().stdout;
    assert!(told.contains("start") && told.contains("iteration 1"), "{told}");
    assert!(world.path("run/start/evaluation/arc_easy/results.json").is_file());
    assert!(world.path("run/iteration_01/evaluation/arc_easy/samples.jsonl").is_file());
    let shown = world.selfplay(&["show", "run", "--json"]).ok().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let evaluations = shown["evaluations"].as_array().unwrap();
    assert_eq!(evaluations.iter().map(|one| &one["iteration"]).collect::<Vec<_>>(), [&json!(0), &json!(1)]);
    assert!(world.selfplay(&["show", "run"]).ok().stdout.contains("arc_easy"));
    assert!(world.selfplay(&["compare", "run", "run"]).ok().stdout.contains("arc_easy"));
    // The run itself is as it was.
    world.selfplay(&["resume", "run", "-q"]).ok();
}

#[test]
fn what_is_wrong_is_told_before_a_model_is_loaded() {
    let world = crate::world();
    write_data(&world);
    world.write("bad.jsonl", "{\"question\": \"a\", \"answer\": \"#### 1\"}\n{\"question\": \"b\"}\n");
    let refused = |more: &[&str], words: &[&str]| {
        world.selfplay(&evaluate(more)).refused(words);
    };
    refused(&["--suite", "gsm9k"], &["--suite gsm9k: no such suite", "gsm8k, arc_easy"]);
    refused(&["--suite", "gsm8k"], &["--data gsm8k=PATH"]);
    refused(&["--suite", "gsm8k", "--data", "gsm8k=nowhere.jsonl"], &["nowhere.jsonl"]);
    refused(&["--suite", "gsm8k", "--data", "gsm8k=bad.jsonl"], &["bad.jsonl: row 1: field \"answer\""]);
    refused(&["--suite", "hellaswag", "--data", "hellaswag=bad.jsonl"], &["row 0: field \"activity_label\""]);
    refused(
        &["--suite", "alpaca_eval", "--data", "alpaca_eval=alpaca.json"],
        &["no judge", "--preference-model"],
    );
    refused(
        &["--suite", "mt_bench", "--data", "mt_bench=mt.jsonl"],
        &["question_id 81", "mt_bench.references"],
    );
    let references =
        ["--suite", "mt_bench", "--data", "mt_bench=mt.jsonl", "mt_bench.references=mt_answers.jsonl"];
    refused(&references, &["no judge that writes", "score.kind=judge"]);
    refused(&["--suite", "gsm8k", "--data", "gsm8k=gsm8k.jsonl", "--temperature", "-1"], &["--temperature"]);
    let missing = ["evaluate", "--model", "nowhere", "--suite", "gsm8k", "--data", "gsm8k=gsm8k.jsonl"];
    world.selfplay(&missing).refused(&["nowhere"]);
    assert!(!world.path("policy/evaluation").exists());
    world
        .selfplay(&evaluate(&[
            "--suite",
            "arc_easy",
            "--data",
            "arc_easy=arc.jsonl",
            "--against",
            "preference_model",
        ]))
        .refused(&["--against preference_model: no results of arc_easy"]);
}
