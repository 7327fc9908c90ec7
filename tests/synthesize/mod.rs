//! `selfplay synthesize`: pairs and instructions by our own sampler and by a server, killed and gone on with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use selfplay_testing::{StubReply, StubRequest, StubServer, World};
use serde_json::{Value, json};

use crate::{SELFPLAY, root, world};

/// What a synthesis leaves that does not depend on when it was made.
const RESULTS: [&str; 5] =
    ["pairs.jsonl", "instructions.jsonl", "prompts.jsonl", "left_out.jsonl", "counts.json"];

fn results(folder: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    let read = |name: &&'static str| Some((*name, fs::read(folder.join(name)).ok()?));
    RESULTS.iter().filter_map(read).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// That every row that was made is kept or left out with a reason.
fn check_counts(folder: &Path) -> Value {
    let counts: Value = serde_json::from_slice(&fs::read(folder.join("counts.json")).unwrap()).unwrap();
    let left_out: u64 =
        counts["left_out"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(counts["made"].as_u64().unwrap(), counts["kept"].as_u64().unwrap() + left_out, "{counts}");
    let rows = ["pairs.jsonl", "instructions.jsonl"].map(|name| folder.join(name));
    let rows = rows.iter().find(|path| path.is_file()).unwrap();
    assert_eq!(lines(rows).len() as u64, counts["kept"].as_u64().unwrap());
    assert_eq!(lines(&folder.join("prompts.jsonl")).len() as u64, counts["kept"].as_u64().unwrap());
    assert_eq!(lines(&folder.join("left_out.jsonl")).len() as u64, left_out);
    counts
}

#[test]
fn the_quickstart_s_policy_is_corrected_by_right_answers_and_a_kill_changes_nothing() {
    let world = tempfile::tempdir().unwrap();
    let recipe = root().join("recipes/quickstart-synthesize.toml");
    let recipe = recipe.to_str().unwrap();
    let planned = SELFPLAY.run(world.path(), &["plan", recipe]).ok();
    assert!(
        planned.stdout.contains("at most 200 questions, 3200 tokens written (16 each)"),
        "{}",
        planned.stdout
    );
    let arguments = |output: &'static str| {
        ["synthesize", "--recipe", recipe, "-o", output, "--set", "synthesize.max_seeds=150"]
    };
    SELFPLAY.run(world.path(), &arguments("whole")).ok();
    let whole = world.path().join("whole");
    let counts = check_counts(&whole);
    // The policy is right about some tasks and wrong about others.
    assert!(counts["left_out"]["same_answers"].as_u64().unwrap() >= 10, "{counts}");
    assert!(counts["kept"].as_u64().unwrap() >= 30, "{counts}");
    let answers: BTreeMap<String, String> = lines(&root().join("recipes/quickstart/prompts/held_out.jsonl"))
        .iter()
        .map(|row| (row["prompt"].as_str().unwrap().to_owned(), row["answer"].as_str().unwrap().to_owned()))
        .collect();
    for pair in lines(&whole.join("pairs.jsonl")) {
        let prompt = pair["prompt"][0]["content"].as_str().unwrap();
        assert_eq!(pair["chosen"][1]["content"], answers[prompt].as_str());
        assert_ne!(pair["rejected"][1]["content"], pair["chosen"][1]["content"]);
    }

    // Killed in the middle of its shards, and once more.
    for fault in ["kill:14", "kill:9"] {
        let killed =
            SELFPLAY.command(world.path(), &arguments("killed")).env("SELFPLAY_FAULT", fault).output();
        assert!(!killed.unwrap().status.success(), "{fault}");
        assert!(!world.path().join("killed/counts.json").exists(), "{fault}");
    }
    assert!(fs::read_dir(world.path().join("killed/steps")).unwrap().count() > 0);
    SELFPLAY.run(world.path(), &arguments("killed")).ok();
    assert_eq!(results(&world.path().join("killed")), results(&whole));

    let policy = root().join("recipes/quickstart/policy");
    let train = [
        "train",
        "--model",
        policy.to_str().unwrap(),
        "--pairs",
        "whole/pairs.jsonl",
        "--output",
        "corrected",
        "--set",
        "train.loss=dpo",
        "--set",
        "train.max_steps=1",
    ];
    SELFPLAY.run(world.path(), &train).ok();
    SELFPLAY.run(world.path(), &arguments("whole")).refused(&["is finished"]);
}

/// A recipe of the world's models with this `[synthesize]`.
fn recipe(world: &World, synthesize: &str) {
    world.write("s.toml", &format!("name = \"s\"\nseed = 3\n[policy]\nmodel = \"policy\"\n{synthesize}"));
}

#[test]
fn a_strong_model_is_set_against_a_weak_one() {
    let world = world();
    recipe(
        &world,
        "[synthesize]\nmethod = \"strong-weak\"\nseeds = \"prompts.jsonl\"\n\
         [synthesize.generator]\nmax_new_tokens = 6\n\
         [synthesize.weak]\nmodel = \"random:policy\"\nmax_new_tokens = 4\n\
         [synthesize.filter]\nduplicate_similarity = 1.0\n",
    );
    let out = world.selfplay(&["synthesize", "--recipe", "s.toml", "-o", "out"]);
    // Random weights seldom stop before their limit: most answers are cut, and each is accounted for.
    if out.status == Some(0) {
        check_counts(&world.path("out"));
    } else {
        assert!(out.stderr.contains("nothing of what was made is kept"), "{}", out.stderr);
        assert_eq!(world.rows("out/left_out.jsonl").len(), 12);
    }
    let steps: Vec<String> =
        world.names().into_iter().filter(|name| name.starts_with("out/steps/")).collect();
    assert_eq!(steps, ["out/steps/", "out/steps/strong-00000.jsonl", "out/steps/weak-00000.jsonl"]);
    let (strong, weak) =
        (world.rows("out/steps/strong-00000.jsonl"), world.rows("out/steps/weak-00000.jsonl"));
    assert_eq!((strong.len(), weak.len()), (12, 12));
    assert!(strong.iter().zip(&weak).any(|(strong, weak)| strong["text"] != weak["text"]));
}

/// A server that writes requests, answers them, and judges answers.
fn server() -> StubServer {
    StubServer::start(|request: &StubRequest| {
        let question = request.body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        let number = question.bytes().map(usize::from).sum::<usize>();
        let text = if question.contains("<answer>") {
            format!("Score: {}\nReason: because of {number}", 1 + number % 10)
        } else if question.contains("about this topic: rivers") {
            format!(
                "<request>Which river flows through the town of number {number}?</request>\n<request>Which river has {number} mouths and why?</request>"
            )
        } else if question.contains("about this topic: lakes") {
            "<request>How deep is the deepest lake of them all?</request><request>How deep is the deepest lake of them all?!</request>".to_owned()
        } else {
            format!("Answer {number}.")
        };
        if request.time == 1 && number % 5 == 0 {
            return StubReply::text(500, "not yet");
        }
        StubReply::json(&json!({
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5},
        }))
    })
}

#[test]
fn a_server_s_requests_are_answered_judged_and_never_asked_twice() {
    let world = world();
    let server = server();
    let model = |section: &str, more: &str| {
        format!(
            "[synthesize.{section}]\nbackend = \"openai\"\nmodel = \"m\"\nendpoints = [\"{}/v1\"]\n\
             api_key_env = \"STUB_KEY\"\nretries = 1\nconcurrency = 2\n{more}",
            server.address
        )
    };
    recipe(
        &world,
        &format!(
            "[synthesize]\nmethod = \"examples\"\nseeds = \"prompts.jsonl\"\ncount = 24\nper_question = 2\n\
             topics = [\"rivers\", \"lakes\"]\n{}{}",
            model("generator", "price_prompt = 1.0\nprice_completion = 2.0\n"),
            model("judge", "min_score = 4\n")
        ),
    );
    let run = |output: &str, fault: Option<&str>| {
        let mut command = world.command(&["synthesize", "--recipe", "s.toml", "-o", output]);
        command.env("STUB_KEY", "sk-very-secret-0123");
        if let Some(fault) = fault {
            command.env("SELFPLAY_FAULT", fault);
        }
        command.output().unwrap()
    };
    let done = run("whole", None);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let counts = check_counts(&world.path("whole"));
    // All twelve requests about lakes are one text: eleven go. Of the six about a town's river, nine words each, two share six of
    // eight runs of three words (0.75): five go. The six about mouths share two of eight.
    assert_eq!(counts["made"], 24);
    assert_eq!(counts["left_out"]["near_duplicate"], 11 + 5, "{counts}");
    assert!(counts["left_out"]["low_score"].as_u64().unwrap() >= 1, "{counts}");
    assert_eq!(counts["asked"]["generator"]["questions"], 12 + 24);
    // 36 × (20 × 1 + 5 × 2) / 1e6
    assert_eq!(counts["asked"]["generator"]["cost"], 0.00108);
    for row in world.rows("whole/instructions.jsonl") {
        assert!(row["judge_score"].as_f64().unwrap() >= 4.0, "{row}");
        assert!(row["judge_reason"].as_str().unwrap().starts_with("because of"), "{row}");
        assert_eq!(row["messages"][1]["role"], "assistant");
    }
    for row in world.rows("whole/left_out.jsonl") {
        assert!(row["left_out"].is_string(), "{row}");
    }

    let asked = server.requests().len();
    for fault in ["kill:30", "kill:40"] {
        assert!(!run("killed", Some(fault)).status.success(), "{fault}");
    }
    assert!(run("killed", None).status.success());
    assert_eq!(results(&world.path("killed")), results(&world.path("whole")));
    // What the transcripts of the killed run have was answered once: no more was asked than in one piece, but for what was on its
    // way at the two kills.
    let again = server.requests().len() - asked;
    assert!(again <= asked + 2 * 2, "{again} after {asked}");
    let key_anywhere = world
        .names()
        .iter()
        .filter(|name| !name.ends_with('/'))
        .any(|name| String::from_utf8_lossy(&world.bytes(name)).contains("sk-very-secret"));
    assert!(!key_anywhere);
    assert!(
        server
            .requests()
            .iter()
            .all(|one| one.authorization.as_deref() == Some("Bearer sk-very-secret-0123"))
    );

    world
        .selfplay(&[
            "sft",
            "--model",
            "policy",
            "--data",
            "whole/instructions.jsonl",
            "--output",
            "taught",
            "--set",
            "sft.max_steps=1",
        ])
        .ok();
}

/// A server that rewrites requests, and answers others.
fn rewriter() -> StubServer {
    StubServer::start(|request: &StubRequest| {
        let turns = request.body["messages"].as_array().cloned().unwrap_or_default();
        let last = turns.last().and_then(|turn| turn["content"].as_str()).unwrap_or_default().to_owned();
        let text = match last.rsplit_once("Request:\n") {
            Some((_, original)) => {
                // Numbers of its own, so that no two requests are near duplicates.
                let n = last.bytes().map(usize::from).sum::<usize>();
                let more = format!("town {n} hill {} lake {} and lane {}", n + 1, 2 * n, 3 * n);
                format!("Rewritten request: {original} and also compare it with {more}")
            }
            None if turns.len() == 2 => format!("As I was told: {}", turns[0]["content"]),
            None => "An answer.".to_owned(),
        };
        let choice = json!({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
        StubReply::json(&json!({"choices": [choice]}))
    })
}

#[test]
fn seeds_are_rewritten_round_by_round_or_explained() {
    let world = world();
    let server = rewriter();
    let with = |keys: &str| {
        let model = format!("backend = \"openai\"\nmodel = \"m\"\nendpoints = [\"{}/v1\"]\n", server.address);
        recipe(
            &world,
            &format!("[synthesize]\nseeds = \"prompts.jsonl\"\n{keys}\n[synthesize.generator]\n{model}"),
        );
    };
    with("method = \"evol-instruct\"\nrounds = 2");
    world.selfplay(&["synthesize", "--recipe", "s.toml", "-o", "evolved"]).ok();
    let counts = check_counts(&world.path("evolved"));
    // Twelve seeds, rewritten twice and answered each time.
    assert_eq!((&counts["made"], &counts["asked"]["generator"]["questions"]), (&json!(24), &json!(24 + 24)));
    assert!(counts["kept"].as_u64().unwrap() >= 20, "{counts}");
    let rows = world.rows("evolved/instructions.jsonl");
    for row in &rows {
        let request = row["messages"][0]["content"].as_str().unwrap();
        assert!(request.contains("compare it with") && !request.contains("Rewritten request"), "{row}");
        assert_eq!(row["messages"][1], json!({"role": "assistant", "content": "An answer."}));
    }
    // The second round rewrites what the first one made.
    let of = |id: &str| {
        let row = rows.iter().find(|row| row["prompt_id"] == id).unwrap();
        row["messages"][0]["content"].as_str().unwrap().to_owned()
    };
    assert!(of("0/2").starts_with(&of("0/1")), "{} {}", of("0/1"), of("0/2"));

    with("method = \"explanations\"");
    world.selfplay(&["synthesize", "--recipe", "s.toml", "-o", "explained"]).ok();
    assert_eq!(check_counts(&world.path("explained"))["kept"], 12);
    let rows = world.rows("explained/instructions.jsonl");
    for row in &rows {
        let turns = row["messages"].as_array().unwrap();
        let system = turns[0]["content"].as_str().unwrap();
        assert_eq!((&turns[0]["role"], turns.len()), (&json!("system"), 3));
        assert!(turns[2]["content"].as_str().unwrap().contains(system), "{row}");
    }
    let systems: std::collections::BTreeSet<&str> =
        rows.iter().map(|row| row["messages"][0]["content"].as_str().unwrap()).collect();
    assert!(systems.len() > 1, "{systems:?}");
}

#[test]
fn a_question_that_the_server_refuses_is_one_row_and_a_wrong_key_ends_the_work() {
    let world = world();
    let server = StubServer::start(|request: &StubRequest| {
        if request.authorization.as_deref() != Some("Bearer right") {
            return StubReply::text(401, r#"{"error": {"message": "wrong key"}}"#);
        }
        let turns = request.body["messages"].as_array().cloned().unwrap_or_default();
        let question = turns.last().and_then(|turn| turn["content"].as_str()).unwrap_or_default();
        let number = question.bytes().map(usize::from).sum::<usize>();
        let (text, finish_reason) = match request.body["model"].as_str() {
            Some("judge") if question.contains("answer of row 3") => {
                return StubReply::text(400, r#"{"error": {"message": "flagged by the filter"}}"#);
            }
            Some("judge") => ("Score: 9\nReason: right".to_owned(), "stop"),
            _ if question == "row 1" => {
                let words = "maximum context length is 8 tokens";
                return StubReply::text(400, json!({"error": {"message": words}}).to_string());
            }
            _ if question == "row 2" => (String::new(), "content_filter"),
            _ => (format!("answer of {question}, {number}"), "stop"),
        };
        let choice =
            json!({"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason});
        StubReply::json(&json!({"choices": [choice]}))
    });
    let seeds: String = (0..6).map(|row| format!("{}\n", json!({"prompt": format!("row {row}")}))).collect();
    world.write("seeds.jsonl", &seeds);
    let model = |role: &str, name: &str| {
        format!(
            "[synthesize.{role}]\nbackend = \"openai\"\nmodel = \"{name}\"\nendpoints = [\"{}/v1\"]\n\
             api_key_env = \"STUB_KEY\"\nretries = 0\n",
            server.address
        )
    };
    recipe(
        &world,
        &format!(
            "[synthesize]\nmethod = \"explanations\"\nseeds = \"seeds.jsonl\"\n{}{}[synthesize.filter]\nduplicate_similarity = 1.0\n",
            model("generator", "writer"),
            model("judge", "judge")
        ),
    );
    let run = |output: &str, key: &str| {
        let mut command = world.command(&["synthesize", "--recipe", "s.toml", "-o", output]);
        command.env("STUB_KEY", key).output().unwrap()
    };
    let done = run("out", "right");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let counts = check_counts(&world.path("out"));
    assert_eq!(counts["left_out"], json!({"unanswerable": 2, "no_verdict": 1}), "{counts}");
    let details: BTreeMap<String, String> = world
        .rows("out/left_out.jsonl")
        .iter()
        .map(|row| {
            (row["prompt_id"].as_str().unwrap().to_owned(), row["detail"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(details["1"], "refused (400): maximum context length is 8 tokens");
    assert!(details["2"].contains("content_filter"), "{details:?}");
    assert_eq!(details["3"], "refused (400): flagged by the filter");
    // A key, or a model that is not there, concerns every question.
    let refused = run("other", "wrong");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("wrong key") && text.contains("api_key_env"), "{text}");
}

#[test]
fn wrong_sections_are_refused_with_their_keys() {
    let world = world();
    for (section, words) in [
        ("", "synthesize: absent"),
        ("[synthesize]\nmethod = \"evol\"\n", "synthesize.method"),
        ("[synthesize]\nseeds = \"prompts.jsonl\"\n", "synthesize.weak.model"),
        ("[synthesize]\nmethod = \"reference-answers\"\nseeds = \"none.jsonl\"\n", "none.jsonl"),
        (
            "[synthesize]\nmethod = \"explanations\"\nseeds = \"prompts.jsonl\"\n[synthesize.generator]\nbackend = \"openai\"\n\
             model = \"m\"\nendpoints = [\"http://127.0.0.1:1/v1\"]\napi_key_env = \"sk-123\"\n",
            "never the key itself",
        ),
        (
            "[synthesize]\nmethod = \"explanations\"\nseeds = \"prompts.jsonl\"\n[synthesize.generator]\nbackend = \"openai\"\n\
             model = \"m\"\nendpoints = [\"http://127.0.0.1:1/v1\"]\napi_key_env = \"SELFPLAY_NO_SUCH_KEY\"\n",
            "SELFPLAY_NO_SUCH_KEY is not set",
        ),
    ] {
        recipe(&world, section);
        let refused = world.selfplay(&["synthesize", "--recipe", "s.toml", "-o", "out"]);
        let refused = refused.refused(&[words]);
        assert!(!refused.stderr.contains("sk-123"), "{section}: {}", refused.stderr);
        assert!(!world.path("out").exists(), "{section}");
    }
}
