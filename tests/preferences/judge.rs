//! A judge: a service that is slow, wrong, silent or dies; a model of ours by log-probs and by text.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use selfplay_testing::{Outcome, StubReply, StubRequest, StubServer, World};
use serde_json::{Value, json};

use super::{measured, write_rows};

/// Six prompts with three responses of different lengths.
fn write_candidates(world: &World) {
    let row = |number: usize| {
        let text = |words: usize| vec!["c"; words + number % 2].join(" ");
        let responses: Vec<Value> = [1, 3, 5].map(|words| json!({"text": text(words)})).to_vec();
        json!({"prompt_id": number.to_string(), "prompt": format!("a b {number}"), "responses": responses})
    };
    write_rows(world, "candidates.jsonl", &(0..6).map(row).collect::<Vec<_>>());
}

/// Ordered pairs of those.
const QUESTIONS: usize = 6 * 6;

/// The question between two marks.
fn between<'t>(text: &'t str, name: &str) -> &'t str {
    let (_, rest) = text.split_once(&format!("<{name}>\n")).unwrap();
    rest.split_once(&format!("\n</{name}>")).unwrap().0
}

/// Whether answer A is the shorter one.
fn first_is_shorter(request: &StubRequest) -> bool {
    let question = request.body["messages"][0]["content"].as_str().unwrap();
    between(question, "answer_a").len() < between(question, "answer_b").len()
}

fn chat(text: &str) -> StubReply {
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 2});
    StubReply::json(
        &json!({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}),
    )
}

fn by_text(request: &StubRequest) -> StubReply {
    chat(if first_is_shorter(request) { "Short is good. [[A]]" } else { "[[B]]" })
}

fn line<'a>(server: &str, output: &'a str, more: &[&'a str]) -> Vec<String> {
    let mut line: Vec<String> =
        ["score", "--candidates", "candidates.jsonl", "--output", output].map(str::to_owned).to_vec();
    let sets = [
        "score.kind=judge".to_owned(),
        "score.model=big".to_owned(),
        format!("score.endpoint={server}/v1"),
        "score.verdict=text".to_owned(),
    ];
    for set in sets.into_iter().chain(more.iter().map(|set| (*set).to_owned())) {
        line.extend(["--set".to_owned(), set]);
    }
    line
}

fn run(world: &World, line: &[String]) -> Outcome {
    world.selfplay(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

/// With nothing but errors on standard error.
fn quietly(world: &World, line: &[String]) -> Outcome {
    run(world, &[line, &["-q".to_owned()]].concat())
}

/// The shorter response of each pair wins, and everything adds up.
#[track_caller]
fn shorter_wins(world: &World, output: &str) {
    for row in world.rows(output) {
        let scores = &row["scores"];
        assert!(scores[0][1].as_f64().unwrap() > 1.0 && scores[1][2].as_f64().unwrap() > 1.0, "{row}");
    }
}

#[test]
fn a_service_is_asked_in_both_orders_and_what_fails_is_asked_again() {
    let world = crate::world();
    write_candidates(&world);
    let server = StubServer::start(|request| match (request.time, first_is_shorter(request)) {
        // Each question fails in some way at first.
        (1, true) => StubReply::text(500, "busy"),
        (1, false) => by_text(request).cut(20),
        _ => by_text(request),
    });
    let keys = ["score.concurrency=64", "score.price_prompt=2", "score.price_completion=8"];
    let outcome = run(&world, &line(&server.address, "out.jsonl", &keys)).ok();
    shorter_wins(&world, "out.jsonl");
    assert_eq!(server.requests().len(), 2 * QUESTIONS);
    // 36 × 100 tokens at 2 and 36 × 2 at 8, by the million.
    let told = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(told.contains("36 answers asked for") && told.contains("cost 0.0078"), "{told}");
    assert!(!world.path("out.jsonl.parts").exists());
    // eval-preference sees the orders.
    write_rows(&world, "pairs.jsonl", &[json!({"prompt": "a", "chosen": "c", "rejected": "d e f"})]);
    let sets = line(&server.address, "", &[]);
    let sets: Vec<&str> = sets[5..].iter().map(String::as_str).collect();
    let world_line = ["eval-preference", "--pairs", "pairs.jsonl", "--json", "-q"];
    let found = world.selfplay(&[&world_line[..], &sets].concat()).ok();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(
        (&found["orders"]["agreement"]["rate"], &found["accuracy"]["rate"]),
        (&json!(1.0), &json!(1.0))
    );
}

#[test]
fn a_judge_without_a_verdict_is_asked_once_more_and_then_ties() {
    let world = crate::world();
    write_candidates(&world);
    let server = StubServer::start(|request| {
        let turns = request.body["messages"].as_array().unwrap().len();
        // One order gives a verdict when it is asked again; the other never does.
        chat(if turns > 1 && first_is_shorter(request) { "[[A]]" } else { "Both have their merits." })
    });
    let outcome = run(&world, &line(&server.address, "out.jsonl", &[])).ok();
    assert_eq!(server.requests().len(), 2 * QUESTIONS);
    assert!(outcome.stderr.contains("18 of 36 questions have no verdict"), "{}", outcome.stderr);
    let row = &world.rows("out.jsonl")[0];
    // (1 + 1 − ½)/2 = ¾.
    assert!((row["probabilities"][0][1].as_f64().unwrap() - 0.75).abs() < 1e-9, "{row}");
}

#[test]
fn log_probs_make_a_verdict_and_their_absence_is_told() {
    let world = crate::world();
    write_candidates(&world);
    let server = StubServer::start(|request| {
        assert_eq!((&request.body["max_tokens"], &request.body["logprobs"]), (&json!(1), &json!(true)));
        let (a, b) = if first_is_shorter(request) { (0.8_f64, 0.2_f64) } else { (0.3, 0.6) };
        let top = json!([{"token": "A", "logprob": a.ln()}, {"token": "B", "logprob": b.ln()}]);
        let content = json!([{"token": "A", "logprob": a.ln(), "top_logprobs": top}]);
        let choice = json!({"message": {"content": "A"}, "logprobs": {"content": content}});
        StubReply::json(&json!({"choices": [choice]}))
    });
    let by_log_probs = ["score.verdict=logprobs"];
    run(&world, &line(&server.address, "out.jsonl", &by_log_probs)).ok();
    let row = &world.rows("out.jsonl")[0];
    // (0.8 + 1 − 1/3)/2.
    let wanted = (0.8 + 1.0 - 1.0 / 3.0) / 2.0;
    assert!((row["probabilities"][0][1].as_f64().unwrap() - wanted).abs() < 1e-9, "{row}");
    let silent = StubServer::start(|_| chat("A"));
    quietly(&world, &line(&silent.address, "other.jsonl", &by_log_probs))
        .failed(&["no log-probs", "verdict = \"text\""]);
}

#[test]
fn a_killed_judge_asks_only_what_is_unanswered() {
    let world = crate::world();
    write_candidates(&world);
    let server = StubServer::start(|request| by_text(request).after(Duration::from_millis(40)));
    let keys = ["score.concurrency=3"];
    let line = line(&server.address, "out.jsonl", &keys);
    let arguments: Vec<&str> = line.iter().map(String::as_str).collect();
    let mut child = world.command(&arguments).spawn().unwrap();
    let transcript = world.path("out.jsonl.parts/transcript.jsonl");
    let lines = || fs::read_to_string(&transcript).unwrap_or_default().matches('\n').count();
    let until = Instant::now() + Duration::from_secs(60);
    while lines() < 9 {
        assert!(Instant::now() < until, "nothing is kept");
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Answers on their way when it was killed.
    thread::sleep(Duration::from_millis(150));
    let (kept, asked) = (lines(), server.requests().len());
    assert!(kept < QUESTIONS, "it was killed too late to tell");
    run(&world, &line).ok();
    assert_eq!(server.requests().len() - asked, QUESTIONS - kept);
    shorter_wins(&world, "out.jsonl");
    // With a transcript of one's own a second command asks nothing at all.
    let own = ["score.concurrency=3", "score.transcript=judged.jsonl"];
    run(&world, &self::line(&server.address, "first.jsonl", &own)).ok();
    let asked = server.requests().len();
    run(&world, &self::line(&server.address, "second.jsonl", &own)).ok();
    assert_eq!(server.requests().len(), asked);
    assert_eq!(world.bytes("first.jsonl"), world.bytes("second.jsonl"));
}

#[test]
fn a_service_that_dies_half_way_is_reported_and_nothing_is_lost() {
    // It answers ten questions, refuses one, and is well again.
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let world = crate::world();
    write_candidates(&world);
    let server = StubServer::start(|request| match ASKED.fetch_add(1, Ordering::Relaxed) {
        10 => StubReply::text(401, "no such key"),
        _ => by_text(request),
    });
    let keys = ["score.concurrency=1", "score.transcript=judged.jsonl", "score.retries=0"];
    let line = line(&server.address, "out.jsonl", &keys);
    quietly(&world, &line).refused(&["score.endpoint", "401", "10 of 36 answers are kept in judged.jsonl"]);
    run(&world, &line).ok();
    shorter_wins(&world, "out.jsonl");
    assert_eq!(server.requests().len(), QUESTIONS + 1, "nothing that was answered is asked again");
    // A silent one is given up after its time.
    let silent = StubServer::start(|request| by_text(request).after(Duration::from_secs(5)));
    let keys = ["score.timeout_s=0.2", "score.retries=0"];
    quietly(&world, &self::line(&silent.address, "other.jsonl", &keys)).failed(&["score.endpoint"]);
    for (set, words) in [
        ("score.endpoint=nonsense", "score.endpoint"),
        ("score.api_key_env=sk-secret", "score.api_key_env"),
        ("score.template=absent.jinja", "score.template"),
        ("score.max_length=9", "score.max_length"),
    ] {
        quietly(&world, &self::line(&server.address, "third.jsonl", &[set])).refused(&[words]);
    }
}

/// A world whose policy can be a judge.
fn world_with_judge() -> World {
    let world = crate::world();
    write_candidates(&world);
    // Its words are few: a rubric that is one of them, and "A" and "B" among its tokens.
    world.write("rubric.jinja", "{{ response_a }} d {{ response_b }}");
    world.edit_json("policy/tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        for (from, to) in [("p", "A"), ("q", "B")] {
            let id = vocabulary.remove(from).unwrap();
            vocabulary.insert(to.to_owned(), id);
        }
    });
    world
}

/// What is kept of a shard in work: the keys of the questions, in the order of their answers.
fn kept_keys(world: &World, output: &str) -> Vec<String> {
    let path = world.path(&format!("{output}.parts/answers.jsonl"));
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let key = |line: &str| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned();
    whole.lines().map(key).collect()
}

/// Kills `score` at file operations until a part of the one shard is answered, and each time finds what was answered before.
#[track_caller]
fn kill_within_the_shard(world: &World, line: &[&str], output: &str, enough: usize) -> Vec<String> {
    let mut kept = Vec::new();
    for operation in (8..).step_by(2) {
        world.faulty(&format!("kill:{operation}"), line).killed();
        let now = kept_keys(world, output);
        assert_eq!(now[..kept.len()], kept, "what was answered stays");
        kept = now;
        if kept.len() >= enough {
            break;
        }
    }
    let unique: std::collections::HashSet<&String> = kept.iter().collect();
    assert_eq!(unique.len(), kept.len(), "nothing was answered twice");
    kept
}

#[test]
fn a_judge_of_ours_that_is_killed_answers_only_what_is_left() {
    let world = world_with_judge();
    // No two questions are the same.
    world.write("rubric.jinja", "{{ prompt }} d {{ response_a }} d {{ response_b }}");
    let line = |output: &'static str, verdict: &'static str| {
        let mut line = vec![
            "score",
            "--preference-model",
            "policy",
            "--candidates",
            "candidates.jsonl",
            "--output",
            output,
        ];
        // A pass holds a few of the questions at most.
        for set in [
            "score.kind=judge",
            "score.template=rubric.jinja",
            "score.verdict_tokens=4",
            "score.batch_tokens=24",
            verdict,
        ] {
            line.extend(["--set", set]);
        }
        line
    };
    world.selfplay(&line("whole.jsonl", "score.verdict=text")).ok();
    let text = line("killed.jsonl", "score.verdict=text");
    let kept = kill_within_the_shard(&world, &text, "killed.jsonl", 10).len();
    assert!(kept < QUESTIONS, "{kept}: killed too late to tell");
    let told = world.selfplay(&text).ok().stderr;
    let wanted = format!("{} answers written, {kept} from an earlier process", QUESTIONS - kept);
    assert!(told.contains(&wanted), "{wanted}: {told}");
    assert_eq!(world.bytes("killed.jsonl"), world.bytes("whole.jsonl"));
    assert!(!world.path("killed.jsonl.parts").exists());
    // By log-probs a pass is what is kept.
    world.selfplay(&line("whole_passes.jsonl", "score.verdict=logprobs")).ok();
    let passes = line("killed_passes.jsonl", "score.verdict=logprobs");
    assert!(kill_within_the_shard(&world, &passes, "killed_passes.jsonl", 3).len() >= 3);
    world.selfplay(&passes).ok();
    assert_eq!(world.bytes("killed_passes.jsonl"), world.bytes("whole_passes.jsonl"));
}

#[test]
fn a_model_of_ours_judges_by_log_probs_and_by_text() {
    let world = world_with_judge();
    let score = |verdict: &str, output: &str| {
        let verdict = format!("score.verdict={verdict}");
        let sets = ["score.kind=judge", "score.template=rubric.jinja", "score.verdict_tokens=4", &verdict];
        let mut line = vec![
            "score",
            "--preference-model",
            "policy",
            "--candidates",
            "candidates.jsonl",
            "--output",
            output,
        ];
        sets.iter().for_each(|set| line.extend(["--set", set]));
        world.selfplay(&line).ok()
    };
    score("logprobs", "by_log_probs.jsonl");
    for row in world.rows("by_log_probs.jsonl") {
        let p = row["probabilities"][0][1].as_f64().unwrap();
        assert!(p > 0.0 && p < 1.0 && p != 0.5, "{row}");
    }
    // Random weights give no verdict: ties, told.
    let outcome = score("text", "by_text.jsonl");
    assert!(outcome.stderr.contains("have no verdict"), "{}", outcome.stderr);
    assert_eq!(world.rows("by_text.jsonl").len(), 6);
    write_rows(&world, "pairs.jsonl", &[json!({"prompt": "a", "chosen": "c", "rejected": "d e f"})]);
    let sets = ["--set", "score.kind=judge", "--set", "score.template=rubric.jinja"];
    assert!(measured(&world, "policy", "pairs.jsonl", &sets)["orders"]["agreement"].is_object());
}
