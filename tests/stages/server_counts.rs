//! `servers.json` of a run that is killed again and again: every shard counts once.

use selfplay_testing::killed_at_operations;
use serde_json::Value;

use super::model_server::{ModelServer, Protocol};
use crate::run_world;

#[test]
fn kills_leave_the_counts_of_an_uninterrupted_run() {
    let world = run_world();
    let (server, _) = ModelServer::start(Protocol::Sglang, 0, &world.path("policy"), &[]);
    let endpoints = format!("sample.endpoints=[\"{}\"]", server.address);
    let deaths = killed_at_operations((25..600).step_by(41), || {
        if world.path("killed/manifest.json").is_file() {
            return world.command(&["resume", "killed", "-q"]);
        }
        let mut line = vec!["run", "recipe.toml", "-o", "killed", "-q"];
        let keys = ["sample.backend=sglang", &endpoints, "sample.temperature=1", "sample.shard_prompts=4"];
        line.extend(keys.iter().flat_map(|key| ["--set", key]));
        world.command(&line)
    });
    assert!(deaths >= 3, "{deaths} deaths");
    for iteration in ["iteration_01", "iteration_02"] {
        let found: Value = world.json(&format!("killed/{iteration}/servers.json"));
        // 20 prompts with four responses of ten tokens each.
        assert_eq!(found["tokens"], 20 * 4 * 10, "{found}");
        let shards = found["shards"].as_array().unwrap();
        let numbers: Vec<u64> = shards.iter().map(|shard| shard["shard"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        assert!(shards.iter().all(|shard| shard["tokens"] == 4 * 4 * 10), "{found}");
        let sum = shards.iter().fold(0.0, |sum, shard| sum + shard["sum"].as_f64().unwrap());
        assert_eq!(found["sum"].as_f64(), Some(sum));
    }
}
