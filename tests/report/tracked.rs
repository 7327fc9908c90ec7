//! TensorBoard's files, MLflow's server, W&B's offline run: what they are told, and that none of them stops a run.

use std::sync::{Arc, Mutex};

use selfplay_testing::{StubReply, StubServer, World};
use serde_json::{Value, json};

/// Steps of an event file, by the framing that TensorFlow documents; the first record is the version's.
fn steps(world: &World, folder: &str) -> Vec<u64> {
    let bytes = world.bytes(&format!("{folder}/events.out.tfevents.selfplay"));
    let (mut rest, mut steps) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let event = &rest[12..12 + length];
        // 0x09: wall time, 8 bytes; 0x10: the step, below 128 here.
        assert_eq!(event[0], 9);
        if event[9] == 0x10 {
            steps.push(u64::from(event[10]));
        }
        rest = &rest[12 + length + 4..];
    }
    steps
}

fn logged(world: &World, iteration: usize) -> Vec<u64> {
    let rows = world.rows(&format!("out/iteration_0{iteration}/train/metrics.jsonl"));
    rows.iter().map(|row| row["step"].as_u64().unwrap()).collect()
}

/// A server as MLflow answers.
fn mlflow() -> StubServer {
    StubServer::start(|request| {
        StubReply::json(&match request.path.rsplit("mlflow/").next().unwrap() {
            "experiments/search" => json!({}),
            "experiments/create" => json!({"experiment_id": "7"}),
            "runs/create" => json!({"run": {"info": {"run_id": "abc"}}}),
            _ => json!({}),
        })
    })
}

/// (key, step, value) of everything that a server was sent.
fn sent(server: &StubServer) -> Vec<(String, u64, f64)> {
    let batches = server.requests().into_iter().filter(|one| one.path.ends_with("runs/log-batch"));
    let metrics = batches.flat_map(|one| one.body["metrics"].as_array().cloned().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metrics
        .map(|one| (text(&one["key"]), one["step"].as_u64().unwrap(), one["value"].as_f64().unwrap()))
        .collect()
}

const ALL: [&str; 6] =
    ["--set", "log.tensorboard=true", "--set", "log.mlflow=true", "--set", "log.wandb=true"];

#[test]
fn a_killed_and_resumed_run_tells_every_step_once() {
    let world = crate::run_world();
    let server = mlflow();
    let run = |fault: Option<&str>, line: &[&str]| {
        let mut command = world.command(line);
        command.env("MLFLOW_TRACKING_URI", &server.address).env("MLFLOW_TRACKING_TOKEN", "token-0123456789");
        if let Some(fault) = fault {
            command.env("SELFPLAY_FAULT", fault);
        }
        command.output().unwrap()
    };
    let begun = run(Some("kill:75"), &[["run", "recipe.toml", "-o", "out"].as_slice(), &ALL].concat());
    assert!(!begun.status.success(), "the fault came too late");
    let resumed = run(None, &["resume", "out"]);
    let error = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(resumed.status.success() && !error.contains("warning: log"), "{error}");

    let mut all = 0;
    for iteration in 1..=2 {
        let wanted = logged(&world, iteration);
        assert_eq!(steps(&world, &format!("out/iteration_0{iteration}/train")), wanted);
        all += wanted.len() as u64;
    }
    assert_eq!(steps(&world, "out"), [0, 1, 2]);

    let sent = sent(&server);
    let mut losses: Vec<u64> =
        sent.iter().filter(|(key, ..)| key == "train/loss").map(|(_, step, _)| *step).collect();
    losses.sort_unstable();
    assert_eq!(losses, (1..=all).collect::<Vec<_>>(), "each step once, counted over all iterations");
    let kl: Vec<(u64, f64)> = sent
        .iter()
        .filter(|(key, ..)| key == "held_out/kl")
        .map(|(_, step, value)| (*step, *value))
        .collect();
    let wanted = world.json("out/iteration_02/summary.json")["kl"].as_f64().unwrap();
    assert_eq!(kl.last(), Some(&(2, wanted)));
    let requests = server.requests();
    assert!(requests.iter().all(|one| one.authorization.as_deref() == Some("Bearer token-0123456789")));
    assert_eq!(requests.iter().filter(|one| one.path.ends_with("runs/create")).count(), 1, "one run");
    let last = requests.last().unwrap();
    assert!(last.path.ends_with("runs/update") && last.body["status"] == "FINISHED", "{last:?}");
    let parameters = requests.iter().filter_map(|one| one.body["params"].as_array()).flatten();
    assert!(parameters.clone().any(|one| one["key"] == "train.beta" && one["value"] == "0.1"));
    // The key stands nowhere.
    for name in world.names().iter().filter(|name| name.starts_with("out/") && !name.ends_with('/')) {
        let text = String::from_utf8_lossy(&world.bytes(name)).into_owned();
        assert!(!text.contains("token-0123456789"), "{name}");
    }
    let offline = world.names().into_iter().find(|name| name.ends_with(".wandb")).unwrap();
    assert!(offline.starts_with("out/wandb/offline-run-"), "{offline}");
    assert!(world.bytes(&offline).starts_with(b":W&B"));
}

#[test]
fn a_server_that_fails_is_told_once_and_stops_nothing() {
    let world = crate::run_world();
    let set = ["--set", "log.mlflow=true", "--set", "iterations=1"];
    let line = [["run", "recipe.toml", "-o", "out"].as_slice(), &set].concat();
    world.selfplay(&line).refused(&["log.mlflow", "MLFLOW_TRACKING_URI"]);
    let wrong = world.command(&line).env("MLFLOW_TRACKING_URI", "http://me:hunter2@host").output().unwrap();
    let error = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(2) && !error.contains("hunter2"), "{error}");

    let seen = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&seen);
    let server = StubServer::start(move |_| {
        *counted.lock().unwrap() += 1;
        StubReply::text(403, r#"{"message": "token-0123456789 may not"}"#)
    });
    let done = world
        .command(&line)
        .env("MLFLOW_TRACKING_URI", &server.address)
        .env("MLFLOW_TRACKING_TOKEN", "token-0123456789")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{error}");
    assert_eq!(error.matches("warning: log.mlflow").count(), 1, "{error}");
    assert!(!error.contains("token-0123456789"), "{error}");
    assert!(*seen.lock().unwrap() >= 1);
    assert!(world.path("out/iteration_01/summary.json").is_file());
}

#[test]
fn a_training_of_its_own_has_its_event_file_beside_its_metrics() {
    let world = super::finished_run(&["--set", "iterations=1"]);
    assert!(
        !world.names().iter().any(|name| name.contains("tfevents") || name.contains("wandb")),
        "off by default"
    );
    let pairs = "out/iteration_01/pairs.parquet";
    let line = [
        "train",
        "--model",
        "policy",
        "--pairs",
        pairs,
        "--output",
        "trained",
        "--set",
        "log.tensorboard=true",
        "-q",
    ];
    let more = ["--set", "train.max_steps=3", "--set", "train.batch_size=2"];
    world.selfplay(&[line.as_slice(), &more].concat()).ok();
    assert_eq!(steps(&world, "trained"), [1, 2, 3]);
    world.selfplay(&[line.as_slice(), &more, &["--force"]].concat()).ok();
    assert_eq!(steps(&world, "trained"), [1, 2, 3]);
}
