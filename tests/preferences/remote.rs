//! A reward server: rows over HTTP, failures asked again, and a run with it.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use selfplay_testing::run_results::assert_same_results;
use selfplay_testing::{StubReply, StubRequest, StubServer, World};
use serde_json::{Value, json};

use super::write_rows;

/// A reward for each response: minus its characters.
fn rewards(request: &StubRequest) -> Vec<Value> {
    let texts = request.body["responses"].as_array().unwrap();
    texts.iter().map(|text| json!(-(text.as_str().unwrap().len() as f64))).collect()
}

fn score(world: &World, server: &StubServer, output: &str, more: &[&str]) -> selfplay_testing::Outcome {
    let endpoint = format!("score.endpoint={}/score", server.address);
    let mut line = vec!["score", "--candidates", "candidates.jsonl", "--output", output, "-q"];
    for set in ["score.kind=remote", &endpoint].iter().chain(more) {
        line.extend(["--set", set]);
    }
    world.selfplay(&line)
}

#[test]
fn rows_go_out_whole_and_answers_come_back_in_their_order() {
    let world = crate::world();
    let row = |number: usize| {
        json!({"prompt_id": number.to_string(), "prompt": "a", "answer": number,
               "responses": [{"text": "c"}, {"text": "d e f"}]})
    };
    write_rows(&world, "candidates.jsonl", &(0..7).map(row).collect::<Vec<_>>());
    let server = StubServer::start(|request| {
        let id = request.body["prompt_id"].as_str().unwrap();
        assert_eq!(request.body["answer"].to_string(), id, "the row's other fields go along");
        let answer = match (id, request.time) {
            ("2", 1) => return StubReply::text(200, "not json"),
            ("3", 1) => json!({"scores": [1.0]}),
            ("4", 1) => json!({"scores": [1.0, 2.0], "prompt_id": "5"}),
            ("5", _) => json!({"table": [[0.5, 0.75], [0.25, 0.5]]}),
            ("6", _) => json!({"rewards": rewards(request)}),
            _ => json!({"scores": rewards(request), "prompt_id": id}),
        };
        // Earlier rows come later.
        StubReply::json(&answer).after(Duration::from_millis(if id == "0" { 120 } else { 0 }))
    });
    score(&world, &server, "out.jsonl", &["score.tau=2"]).ok();
    let rows = world.rows("out.jsonl");
    let scores: Vec<f64> = rows.iter().map(|row| row["scores"][0][1].as_f64().unwrap()).collect();
    let ids: Vec<&str> = rows.iter().map(|row| row["prompt_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    assert!((scores[5] - 3f64.ln()).abs() < 1e-9);
    // (−1 + 5)/2.
    assert_eq!([scores[0], scores[2], scores[3], scores[6]], [2.0; 4]);
    assert_eq!(server.requests().len(), 7 + 3);
    let refusing = StubServer::start(|_| StubReply::text(422, "responses too long"));
    score(&world, &refusing, "other.jsonl", &[]).refused(&["422", "responses too long"]);
}

#[test]
fn a_run_asks_a_server_and_goes_on_from_its_transcript() {
    let server = StubServer::start(|request| StubReply::json(&json!({"scores": rewards(request)})));
    let world = crate::run_world();
    let recipe = fs::read_to_string(world.path("recipe.toml")).unwrap();
    let root = world.path("").display().to_string();
    let model = format!("model = \"{}/preference_model\"", root.trim_end_matches('/'));
    let remote = format!("kind = \"remote\"\nendpoint = \"{}\"", server.address);
    world.write("recipe.toml", &recipe.replace(&model, &remote));
    world.selfplay(&["check", "recipe.toml"]).ok();
    world.selfplay(&["run", "recipe.toml", "-o", "whole", "-q"]).ok();
    let asked = server.requests().len();
    assert!(world.path("whole/transcript.jsonl").is_file());
    // The second iteration's preferences are gone, their answers are not.
    fs::remove_dir_all(world.path("whole/iteration_02")).unwrap();
    world.selfplay(&["resume", "whole", "-q"]).ok();
    assert_eq!(server.requests().len(), asked, "all of it was answered before");
    world.selfplay(&["run", "recipe.toml", "-o", "again", "-q"]).ok();
    assert_same_results(&world.path("whole"), &world.path("again"));
}

/// Twelve rows of two responses.
fn write_twelve(world: &World) {
    let row = |number: usize| json!({"prompt_id": number.to_string(), "prompt": "a", "responses": [{"text": "c"}, {"text": "d e"}]});
    write_rows(world, "candidates.jsonl", &(0..12).map(row).collect::<Vec<_>>());
}

/// Ids of the rows that were asked about.
fn ids(server: &StubServer) -> Vec<String> {
    server.requests().iter().map(|request| request.body["prompt_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_killed_command_asks_a_server_only_what_is_unanswered() {
    let world = crate::world();
    write_twelve(&world);
    let slowly = |request: &StubRequest| {
        StubReply::json(&json!({"scores": rewards(request)})).after(Duration::from_millis(50))
    };
    let server = StubServer::start(slowly);
    let endpoint = format!("score.endpoint={}/score", server.address);
    let mut line = vec!["score", "--candidates", "candidates.jsonl", "--output", "out.jsonl", "-q"];
    for set in ["score.kind=remote", &endpoint, "score.concurrency=2"] {
        line.extend(["--set", set]);
    }
    let mut child = world.command(&line).spawn().unwrap();
    let transcript = world.path("out.jsonl.parts/transcript.jsonl");
    let kept = || fs::read_to_string(&transcript).unwrap_or_default().matches('\n').count();
    let until = Instant::now() + Duration::from_secs(60);
    while kept() < 4 {
        assert!(Instant::now() < until, "nothing is kept");
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Answers on their way when it was killed.
    thread::sleep(Duration::from_millis(200));
    let (kept, asked) = (kept(), ids(&server).len());
    assert!(kept < 12, "it was killed too late to tell");
    world.selfplay(&line).ok();
    assert_eq!(ids(&server).len() - asked, 12 - kept, "what was answered is not asked again");
    score(&world, &server, "whole.jsonl", &[]).ok();
    assert_eq!(world.bytes("out.jsonl"), world.bytes("whole.jsonl"));
}

#[test]
fn a_server_that_dies_half_way_or_says_nothing_is_reported_and_nothing_is_lost() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let world = crate::world();
    write_twelve(&world);
    // Five answers, then none for as long as it is asked about the sixth row.
    let server = StubServer::start(|request| match ASKED.fetch_add(1, Ordering::Relaxed) {
        5..7 => StubReply::text(503, "out of memory"),
        _ => StubReply::json(&json!({"scores": rewards(request)})),
    });
    let keys = ["score.concurrency=1", "score.retries=1"];
    score(&world, &server, "out.jsonl", &keys).failed(&[
        "score.endpoint",
        "503",
        "out of memory",
        "5 of 12 answers are kept",
    ]);
    score(&world, &server, "out.jsonl", &keys).ok();
    let mut asked = ids(&server);
    assert_eq!(asked.len(), 12 + 2, "{asked:?}");
    asked.sort();
    asked.dedup();
    assert_eq!((asked.len(), world.rows("out.jsonl").len()), (12, 12));
    let silent = StubServer::start(|_| StubReply::json(&json!({})).after(Duration::from_secs(5)));
    let start = Instant::now();
    score(&world, &silent, "other.jsonl", &["score.timeout_s=0.2", "score.retries=0"])
        .failed(&["score.endpoint"]);
    assert!(start.elapsed() < Duration::from_secs(4), "it is not waited for");
    assert!(!world.path("other.jsonl").exists());
}
