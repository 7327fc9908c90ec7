//! `sample.backend = "vllm"` and `"openai"`: a server's responses become candidates with our log-probs, or are refused.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use selfplay_records::{Candidates, FinishReason, Response, read_rows};
use selfplay_testing::{Outcome, StubReply, StubRequest, StubServer, World};
use serde_json::{Value, json};

use crate::{run_world, world};

/// What the server does otherwise than vLLM with the policy's weights.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Log-probs of another model.
    OtherWeights,
    /// No token ids.
    TextAlone,
    /// The first try of the first request fails.
    Unsteady,
}

/// A server that draws what our own sampler drew: the responses to a prompt, one after the other.
fn server(native: &[Candidates], fault: Fault, root: Option<&Path>) -> StubServer {
    let drawn: HashMap<Vec<u32>, Vec<Response>> =
        native.iter().map(|row| (row.prompt.prompt_ids.clone().unwrap(), row.responses.clone())).collect();
    let texts: HashMap<String, Vec<Response>> =
        native.iter().filter_map(|row| Some((row.prompt.prompt.clone()?, row.responses.clone()))).collect();
    let root = root.map(|root| root.display().to_string());
    let given: Mutex<HashMap<String, usize>> = Mutex::default();
    StubServer::start(move |request: &StubRequest| {
        if request.path == "/v1/models" {
            return StubReply::json(&json!({"data": [{"id": "tiny", "root": root}]}));
        }
        let mut given = given.lock().unwrap();
        if fault == Fault::Unsteady && given.is_empty() && request.time == 1 {
            return StubReply::text(503, "loading");
        }
        let prompt: Vec<u32> = serde_json::from_value(request.body["prompt"].clone()).unwrap_or_default();
        let text = request.body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        let all = drawn.get(&prompt).or_else(|| texts.get(&text)).unwrap();
        let next = given.entry(format!("{prompt:?}{text}")).or_default();
        let response = &all[*next % all.len()];
        *next += 1;
        let finish = if response.finish_reason == Some(FinishReason::Stop) { "stop" } else { "length" };
        let shift = if fault == Fault::OtherWeights { -1.0 } else { 0.0 };
        let log_probs: Vec<f64> =
            response.logprobs.iter().flatten().map(|value| f64::from(*value) + shift).collect();
        let choice = if request.path.ends_with("chat/completions") {
            json!({"message": {"role": "assistant", "content": response.text}, "finish_reason": finish})
        } else {
            let ids = (fault != Fault::TextAlone).then_some(&response.ids);
            json!({"text": response.text, "token_ids": ids, "finish_reason": finish,
                   "logprobs": {"token_logprobs": log_probs}})
        };
        StubReply::json(&json!({"choices": [choice]}))
    })
}

fn sample(world: &World, output: &str, more: &[&str]) -> Outcome {
    world.sample("prompts.jsonl", output, &[&["--recipe", "recipe.toml"], more].concat())
}

fn by_server(world: &World, server: &StubServer, backend: &str, output: &str) -> Outcome {
    let endpoints = format!("sample.endpoints=[\"{}/v1\"]", server.address);
    let backend = format!("sample.backend={backend}");
    // One at a time: the server gives its responses in turn.
    sample(world, output, &["--set", &backend, "--set", &endpoints, "--set", "sample.concurrency=1"])
}

fn candidates(world: &World, name: &str) -> Vec<Candidates> {
    read_rows(&world.path(name)).unwrap()
}

#[test]
fn vllm_s_ids_become_candidates_with_our_log_probs() {
    let world = world();
    sample(&world, "native.jsonl", &[]).ok();
    let native = candidates(&world, "native.jsonl");
    let server_of = |fault| server(&native, fault, None);
    let steady = server_of(Fault::Unsteady);
    by_server(&world, &steady, "vllm", "drawn.jsonl").ok();
    let drawn = candidates(&world, "drawn.jsonl");
    assert_eq!(drawn.len(), native.len());
    for (ours, theirs) in native.iter().zip(&drawn) {
        assert_eq!(ours.prompt, theirs.prompt);
        for (ours, theirs) in ours.responses.iter().zip(&theirs.responses) {
            assert_eq!((&ours.ids, &ours.text), (&theirs.ids, &theirs.text));
            assert_eq!(ours.finish_reason, theirs.finish_reason);
            let (a, b) = (ours.logprobs.as_ref().unwrap(), theirs.logprobs.as_ref().unwrap());
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?} {b:?}");
        }
    }
    let asked = &steady.requests()[1].body;
    assert_eq!(asked["return_token_ids"], true);
    assert_eq!(asked["max_tokens"], 6);
    assert!(asked["stop_token_ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{asked}");
    assert!(!world.path("drawn.jsonl.parts").exists());

    by_server(&world, &server_of(Fault::OtherWeights), "vllm", "x.jsonl")
        .refused(&["is not this policy", "nats a token"]);
    by_server(&world, &server_of(Fault::TextAlone), "vllm", "y.jsonl").failed(&["no token ids"]);
    sample(&world, "z.jsonl", &["--set", "sample.backend=vllm"]).refused(&["sample.endpoints"]);
    sample(&world, "z.jsonl", &["--set", "sample.backend=llamacpp"])
        .refused(&["sample.backend", "native, vllm, sglang, mistralrs, openai"]);
}

#[test]
fn a_killed_sampling_by_a_server_asks_only_for_the_rest() {
    let world = world();
    sample(&world, "native.jsonl", &[]).ok();
    let native = candidates(&world, "native.jsonl");
    let steady = server(&native, Fault::None, None);
    let endpoints = format!("sample.endpoints=[\"{}/v1\"]", steady.address);
    let line = [
        "sample",
        "--model",
        "policy",
        "--prompts",
        "prompts.jsonl",
        "--output",
        "out.jsonl",
        "--recipe",
        "recipe.toml",
        "--set",
        "sample.backend=vllm",
        "--set",
        &endpoints,
        "--set",
        "sample.concurrency=1",
    ];
    world.faulty("kill:30", &line).killed();
    let before = steady.requests().iter().filter(|one| one.method == "POST").count();
    assert!(before > 3, "{before}");
    world.selfplay(&line).ok();
    // 12 prompts × 3 responses; the one that was on its way at the kill may be asked for again.
    let all = steady.requests().iter().filter(|one| one.method == "POST").count();
    assert!((36..=37).contains(&all), "{before} {all}");
    assert_eq!(candidates(&world, "out.jsonl").len(), 12);
}

#[test]
fn text_of_any_server_gets_our_ids_and_log_probs() {
    let world = world();
    sample(&world, "native.jsonl", &[]).ok();
    let native = candidates(&world, "native.jsonl");
    by_server(&world, &server(&native, Fault::None, None), "openai", "drawn.jsonl").ok();
    for row in candidates(&world, "drawn.jsonl") {
        assert_eq!(row.responses.len(), 3);
        for response in row.responses {
            let (ids, log_probs) = (response.ids.unwrap(), response.logprobs.unwrap());
            assert!(!ids.is_empty() && ids.len() == log_probs.len());
            assert!(log_probs.iter().all(|value| value.is_finite() && *value <= 0.0));
        }
    }
    world.score("preference_model", "drawn.jsonl", "preferences.jsonl").ok();
}

#[test]
fn a_run_through_a_server_stops_where_the_server_has_another_policy() {
    let world = run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "native"]).ok();
    let shards = ["00000", "00001", "00002", "00003"]
        .map(|shard| format!("native/iteration_01/candidates/{shard}.parquet"));
    let native: Vec<Candidates> = shards
        .iter()
        .filter(|shard| world.path(shard).is_file())
        .flat_map(|shard| candidates(&world, shard))
        .collect();
    let server = server(&native, Fault::None, Some(&world.path("policy")));
    let endpoints = format!("sample.endpoints=[\"{}/v1\"]", server.address);
    let set = ["--set", "sample.backend=vllm", "--set", &endpoints, "--set", "sample.concurrency=1"];
    let ended = world.selfplay(&[&["run", "recipe.toml", "-o", "drawn"], &set[..]].concat());
    ended.refused(&["iteration_01/policy", "the policy has been trained since"]);
    assert!(world.path("drawn/iteration_01/summary.json").exists());
    let difference: Value = world.json("drawn/iteration_01/log_prob_difference.json");
    assert!(difference["max"].as_f64().unwrap() < 1e-4, "{difference}");
    let openai = ["--set", "sample.backend=openai", "--set", &endpoints];
    world
        .selfplay(&[&["run", "recipe.toml", "-o", "text"], &openai[..]].concat())
        .refused(&["iterations = 2", "native, vllm, sglang and mistralrs can follow the policy"]);
}
