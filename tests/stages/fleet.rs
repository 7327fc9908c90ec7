//! A run over a fleet: of three servers one dies, one is slow and one has stale weights. Every shard is answered by right weights,
//! and nothing that was answered is asked for again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use selfplay_records::{Candidates, read_rows};
use selfplay_testing::{StubServer, World};
use serde_json::Value;

use super::model_server::{Drawn, Fault, ModelServer, Protocol};
use crate::run_world;

/// Responses of an iteration: 20 prompts, four each.
const RESPONSES: usize = 80;

fn endpoints(servers: &[&StubServer], below: &str) -> String {
    let addresses: Vec<String> =
        servers.iter().map(|server| format!("\"{}{below}\"", server.address)).collect();
    format!("sample.endpoints=[{}]", addresses.join(", "))
}

/// Runs the world's recipe over these servers.
fn run(world: &World, backend: &str, endpoints: &str, more: &[&str]) {
    let backend = format!("sample.backend={backend}");
    let line = ["run", "recipe.toml", "-o", "drawn", "--set", &backend, "--set", endpoints];
    let quick = ["--set", "sample.concurrency=6", "--set", "sample.shard_prompts=7"];
    let pairs: Vec<&str> = more.iter().flat_map(|key| ["--set", key]).collect();
    world.selfplay(&[&line[..], &quick, &pairs].concat()).ok();
}

/// The candidates of an iteration.
fn candidates(world: &World, iteration: usize) -> Vec<Candidates> {
    let shards = (0..3).map(|shard| format!("drawn/iteration_{iteration:02}/candidates/{shard:05}.parquet"));
    shards.flat_map(|shard| read_rows::<Candidates>(&world.path(&shard)).unwrap()).collect()
}

/// That each candidate of an iteration was drawn by these weights; returns how often each prompt was answered, right or not.
fn check(world: &World, iteration: usize, drawn: &[Drawn], weights: &Path) -> HashMap<Vec<u32>, usize> {
    let by: HashMap<(&[u32], &[u32]), &Path> = drawn
        .iter()
        .map(|one| ((one.prompt.as_slice(), one.response.as_slice()), one.weights.as_path()))
        .collect();
    let rows = candidates(world, iteration);
    assert_eq!(rows.iter().map(|row| row.responses.len()).sum::<usize>(), RESPONSES);
    let weights = weights.canonicalize().unwrap();
    let mut answered = HashMap::new();
    for row in &rows {
        let prompt = row.prompt.prompt_ids.as_deref().unwrap();
        for response in &row.responses {
            let found = by[&(prompt, response.ids.as_deref().unwrap())];
            assert_eq!(found.canonicalize().unwrap(), weights);
            assert!(response.logprobs.as_ref().is_some_and(|values| values.len() == 10));
        }
        answered.insert(prompt.to_vec(), drawn.iter().filter(|one| one.prompt == prompt).count());
    }
    answered
}

fn all_drawn(servers: &[&Arc<ModelServer>]) -> Vec<Drawn> {
    servers.iter().flat_map(|server| server.drawn()).collect()
}

/// Three servers of an interface, one of each fault; `result` is what the second iteration's weights are loaded from.
fn dies_lags_and_is_slow(protocol: Protocol, result: &str, more: &[&str]) {
    let world = run_world();
    let policy = world.path("policy");
    let start = |number, faults: &[Fault]| ModelServer::start(protocol, number, &policy, faults);
    let (dying, of_dying) = start(0, &[Fault::DiesAfter(20)]);
    let (slow, of_slow) = start(1, &[Fault::Slow(Duration::from_millis(40))]);
    let (stale, of_stale) = start(2, &[Fault::Lags(1)]);
    let (backend, below) = match protocol {
        Protocol::Sglang => ("sglang", ""),
        Protocol::Vllm => ("vllm", "/v1"),
    };
    run(&world, backend, &endpoints(&[&dying, &slow, &stale], below), more);

    let drawn = all_drawn(&[&of_dying, &of_slow, &of_stale]);
    let trained = world.path(&format!("drawn/iteration_01/{result}"));
    let answered = [check(&world, 1, &drawn, &policy), check(&world, 2, &drawn, &trained)];
    // Four answers to each prompt: none was asked twice for what was answered.
    assert!(answered.iter().flatten().all(|(_, &count)| count == 4), "{answered:?}");
    assert_eq!(drawn.len(), 2 * RESPONSES);
    assert_eq!(of_dying.drawn().len(), 20);
    // The stale one was brought the weights before each shard until it had them, and was asked from then on.
    assert_eq!(of_stale.brought().len(), 2);
    assert!(of_stale.drawn().iter().any(|one| one.weights.ends_with(Path::new(result).file_name().unwrap())));
    let servers: Value = world.json("drawn/iteration_02/servers.json");
    assert!(servers["mean"].as_f64().unwrap() < 1e-4, "{servers}");
    let of = |endpoint: usize, field: &str| servers["endpoints"][endpoint][field].clone();
    assert!(of(0, "left_out").is_string() && of(0, "answers") == 0, "{servers}");
    assert!(of(1, "left_out").is_null() && of(1, "weights_brought") == 1, "{servers}");
    assert!(of(2, "left_out").is_null() && of(2, "weights_brought") == 2, "{servers}");
    let answers: u64 = (1..3).map(|endpoint| of(endpoint, "answers").as_u64().unwrap()).sum();
    assert_eq!(answers, RESPONSES as u64);
}

#[test]
fn of_three_sglang_servers_one_dies_one_is_slow_and_one_lags() {
    dies_lags_and_is_slow(Protocol::Sglang, "policy", &["sample.temperature=1"]);
}

#[test]
fn of_three_vllm_servers_one_dies_one_is_slow_and_one_lags() {
    let keys = ["sample.weights=adapter", "train.lora.rank=2", "train.lora.merge=always"];
    dies_lags_and_is_slow(Protocol::Vllm, "adapter", &keys);
}

#[test]
fn a_command_that_does_not_end_is_ended_with_what_it_started() {
    let world = run_world();
    let policy = world.path("policy");
    let (server, _) = ModelServer::start(Protocol::Vllm, 0, &policy, &[]);
    let command = r#"sample.weights_command=["sh", "-c", "sleep 600 & echo $! > started; wait"]"#;
    let keys = [
        "sample.backend=vllm",
        &endpoints(&[&server], "/v1"),
        "sample.weights=command",
        command,
        "sample.timeout_s=1",
    ];
    let pairs: Vec<&str> = keys.iter().flat_map(|key| ["--set", key]).collect();
    let failed = world.selfplay(&[&["run", "recipe.toml", "-o", "drawn"][..], &pairs].concat());
    assert_eq!(failed.status, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("sample.weights_command: has not ended in time"), "{}", failed.stderr);
    let started: u32 = std::fs::read_to_string(world.path("started")).unwrap().trim().parse().unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while Path::new(&format!("/proc/{started}")).exists() {
        assert!(std::time::Instant::now() < until, "what the command started is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_command_starts_a_server_anew_and_one_that_turns_back_within_a_shard_is_not_believed() {
    let world = run_world();
    let policy = world.path("policy");
    let file = |number: u32| -> PathBuf { world.path(&format!("bring-{number}")) };
    let start = |number, more: &[Fault]| {
        let faults = [&[Fault::RestartsBy(file(number), 3)], more].concat();
        ModelServer::start(Protocol::Vllm, number, &policy, &faults)
    };
    let (steady, of_steady) = start(0, &[]);
    // In the middle of the second iteration it is started anew, by whoever, with the first weights; nothing says so.
    let forgets: Vec<Fault> = (60..64).map(Fault::Forgets).collect();
    let (turns, of_turns) = start(1, &forgets[..1]);
    let numbered = [&steady, &turns].map(|server| server.address.rsplit(':').next().unwrap().to_owned());
    // What a site's script would do: have the endpoint's server load SELFPLAY_POLICY.
    let script = format!(
        "case $SELFPLAY_ENDPOINT in *:{}/*) n=0;; *) n=1;; esac; printf %s \"$SELFPLAY_POLICY\" > bring-$n.new && mv bring-$n.new bring-$n",
        numbered[0]
    );
    let command = format!("sample.weights_command={}", serde_json::json!(["sh", "-c", script]));
    run(&world, "vllm", &endpoints(&[&steady, &turns], "/v1"), &["sample.weights=command", &command]);

    let drawn = all_drawn(&[&of_steady, &of_turns]);
    let trained = world.path("drawn/iteration_01/policy");
    check(&world, 1, &drawn, &policy);
    check(&world, 2, &drawn, &trained);
    // It was brought the weights at the beginning and again when it was found to have lost them.
    assert_eq!((of_steady.brought().len(), of_turns.brought().len()), (1, 2));
    let stale = of_turns.drawn().iter().skip(59).filter(|one| one.weights == policy).count();
    assert!(stale > 0, "it answered with the first weights in the second iteration");
}
