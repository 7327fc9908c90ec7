//! `sample.backend = "sglang"` over servers that are dead, die, are slow, have other weights, or forget those that they were brought: a tiny
//! model behind SGLang's interface.

use std::path::Path;
use std::time::Duration;

use selfplay_records::{Candidates, read_rows};
use selfplay_testing::{Outcome, StubServer, TinyModel, World};
use serde_json::Value;

use super::model_server::{Fault, LoadedWeights, ModelServer, Protocol};
use crate::{run_world, world};

/// It says that it has loaded what it was brought, and never has.
const STUBBORN: Fault = Fault::Lags(usize::MAX);

fn start(folder: &Path, fault: Fault) -> (StubServer, std::sync::Arc<ModelServer>) {
    ModelServer::start(Protocol::Sglang, 0, folder, &[fault])
}

fn endpoints(servers: &[&StubServer]) -> String {
    let addresses: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address)).collect();
    format!("sample.endpoints=[{}]", addresses.join(", "))
}

fn sample(world: &World, output: &str, servers: &[&StubServer], more: &[&str]) -> Outcome {
    let endpoints = endpoints(servers);
    let set = ["--recipe", "recipe.toml", "--set", "sample.backend=sglang", "--set", &endpoints];
    let quick = ["--set", "sample.concurrency=6", "--set", "sample.shard_prompts=3"];
    world.sample("prompts.jsonl", output, &[&set[..], &quick, more].concat())
}

/// That `output` has 12 prompts with 3 responses each, with log-probs of the world's policy.
fn check(world: &World, output: &str) {
    let rows: Vec<Candidates> = read_rows(&world.path(output)).unwrap();
    assert_eq!(rows.len(), 12);
    let policy = LoadedWeights::of(&world.path("policy"), "");
    for row in rows {
        assert_eq!(row.responses.len(), 3);
        for response in row.responses {
            let (ids, found) = (response.ids.unwrap(), response.logprobs.unwrap());
            let wanted = policy.log_probs(row.prompt.prompt_ids.as_ref().unwrap(), &ids);
            assert!(wanted.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-4), "{wanted:?} {found:?}");
        }
    }
}

#[test]
fn of_three_servers_one_dies_one_is_slow_and_one_keeps_other_weights() {
    let world = world();
    let policy = world.path("policy");
    let (dying, of_dying) = start(&policy, Fault::DiesAfter(4));
    let (slow, of_slow) = start(&policy, Fault::Slow(Duration::from_millis(150)));
    TinyModel { seed: 5, ..TinyModel::POLICY }.write(&world.path("other_policy"));
    let (stale, of_stale) = start(&world.path("other_policy"), STUBBORN);
    let tolerance = ["--set", "sample.log_prob_tolerance=1e-3"];
    let out = sample(&world, "out.jsonl", &[&dying, &slow, &stale], &tolerance).ok();
    check(&world, "out.jsonl");
    assert!(out.stderr.contains("sample.endpoints[2]") && out.stderr.contains("left out"), "{}", out.stderr);
    assert_eq!(of_stale.drawn().len(), 0);
    assert!(!of_stale.brought().is_empty());
    assert_eq!(of_dying.drawn().len(), 4);
    // The other one did the rest, and nothing twice.
    assert_eq!(of_slow.drawn().len(), 36 - 4);
    sample(&world, "x.jsonl", &[&stale], &tolerance)
        .refused(&["is not this policy", "after the policy was brought to it"]);
    let served = ["--set", "sample.weights=served"];
    sample(&world, "y.jsonl", &[&stale], &[&tolerance[..], &served].concat()).refused(&[
        "is not this policy",
        "serve",
        "there and go on",
    ]);
    sample(&world, "z.jsonl", &[&stale], &["--set", "sample.endpoint_model=tiny"])
        .refused(&["sample.endpoint_model"]);
}

#[test]
fn requests_go_to_the_least_busy_server() {
    let world = world();
    let policy = world.path("policy");
    let (quick, of_quick) = start(&policy, Fault::None);
    let (slow, of_slow) = start(&policy, Fault::Slow(Duration::from_millis(500)));
    sample(&world, "out.jsonl", &[&slow, &quick], &["--set", "sample.shard_prompts=12"]).ok();
    check(&world, "out.jsonl");
    let (quick, slow) = (of_quick.drawn().len(), of_slow.drawn().len());
    assert!(quick + slow == 36 && quick > 2 * slow, "{quick} {slow}");
}

#[test]
fn a_run_brings_each_policy_to_the_servers_and_one_that_forgets_it_is_not_believed() {
    let world = run_world();
    let policy = world.path("policy");
    let (steady, of_steady) = start(&policy, Fault::None);
    // 80 responses an iteration: it is started anew in the middle of the second one, with the first weights.
    let (forgets, of_forgets) = start(&policy, Fault::Forgets(50));
    let endpoints = endpoints(&[&steady, &forgets]);
    let line = ["run", "recipe.toml", "-o", "drawn", "--set", "sample.backend=sglang", "--set", &endpoints];
    world.selfplay(&line).ok();
    let brought = of_steady.brought();
    let wanted = world.path("drawn/iteration_01/policy").canonicalize().unwrap();
    assert!(brought.len() == 1 && Path::new(&brought[0]).canonicalize().unwrap() == wanted, "{brought:?}");
    let brought = of_forgets.brought().len();
    assert!((1..=2).contains(&brought), "{brought}");
    let difference: Value = world.json("drawn/iteration_02/servers.json");
    assert!(difference["mean"].as_f64().unwrap() < 1e-4, "{difference}");
    assert_eq!(difference["tokens"], 80 * 10);
    assert_eq!(difference["endpoints"][0]["weights_brought"], 1);
    let ours: Value = world.json("drawn/iteration_02/log_prob_difference.json");
    assert!(ours["max"].as_f64().unwrap() < 1e-4, "{ours}");
    assert!(world.path("drawn/iteration_02/probe.json").is_file());
}
