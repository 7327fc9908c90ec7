//! Who may ask, and the arena.

use serde_json::json;

use super::client::Server;
use crate::world;

#[test]
fn beyond_this_machine_a_key_is_wanted() {
    let world = world();
    let refused = world.selfplay(&["serve", "--model", "policy", "--host", "0.0.0.0", "--port", "0"]);
    refused.refused(&["--host 0.0.0.0", "SELFPLAY_API_KEY"]);
    let refused = world.selfplay(&["serve", "--model", "policy", "--api-key-env", "NOT_SET", "--port", "0"]);
    refused.refused(&["NOT_SET", "is not set"]);
    let refused = world.selfplay(&["serve", "--model", "policy", "--only", "base", "--port", "0"]);
    refused.refused(&["--only base", "is no run"]);
    let refused = world.selfplay(&["serve", "--model", "not/there/at/all", "--port", "0"]);
    refused.refused(&["not/there/at/all"]);
}

#[test]
fn the_arena_judges_and_keeps_votes_that_a_training_reads() {
    let world = world();
    let arguments = ["--model", "policy", "--preference-model", "preference_model", "--votes", "votes.jsonl"];
    let server = Server::start(&world, &arguments);
    let page = server.get("/arena");
    assert!(page.status == 200 && page.body.contains("/arena/verdict"));
    let verdict = |first: &str, second: &str| {
        let reply =
            server.post("/arena/verdict", &json!({"prompt": "a b", "first": first, "second": second})).json();
        reply["probability"].as_f64().unwrap()
    };
    let forth = verdict("c d", "e f g");
    assert!((forth + verdict("e f g", "c d") - 1.0).abs() < 1e-6 && forth != 0.5);
    for (number, vote) in ["first", "second", "tie", "first"].into_iter().enumerate() {
        let row = json!({"prompt": format!("a {}", ["b", "c", "d", "e"][number]), "first": "f g", "second": "h i j", "vote": vote,
                         "first_model": "policy", "second_model": "policy", "probability": forth});
        assert_eq!(server.post("/arena/vote", &row).json()["votes"], number + 1);
    }
    let bad = json!({"prompt": "a", "first": "f", "second": "h", "vote": "left", "first_model": "x", "second_model": "y"});
    assert_eq!(server.post("/arena/vote", &bad).status, 400);
    drop(server);
    assert_eq!(world.rows("votes.jsonl").len(), 4);
    let measured = world.selfplay(&[
        "eval-preference",
        "--preference-model",
        "preference_model",
        "--pairs",
        "votes.jsonl",
        "--json",
    ]);
    measured.ok();
    let sets = ["--set", "preference.batch_size=2", "--set", "preference.warmup_ratio=0"];
    let line = ["train-preference", "--model", "policy", "--pairs", "votes.jsonl", "--output", "judge"];
    world.selfplay(&[line.as_slice(), sets.as_slice()].concat()).ok();
    assert!(world.path("judge/preference_model/config.json").is_file());
}

#[test]
fn without_a_key_a_request_must_name_this_machine_and_with_one_bring_it() {
    let world = world();
    let server = Server::start(&world, &["--model", "policy"]);
    let foreign = b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(server.raw(foreign).starts_with(b"HTTP/1.1 403"));
}
