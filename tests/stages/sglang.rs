//! `sample.backend = "sglang"` over servers that are dead, die, are slow, have other weights, or forget those that they were brought: a tiny
//! model behind SGLang's interface.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use selfplay_model::{Decoder, LoadOptions};
use selfplay_records::{Candidates, read_rows};
use selfplay_testing::{Outcome, StubReply, StubRequest, StubServer, TinyModel, World};
use selfplay_trainer::{PromptResponse, log_probs};
use serde_json::{Value, json};

use crate::{run_world, world};

/// What is wrong with a server.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// No connection outlives so many answers.
    DiesAfter(usize),
    /// Each answer takes this long.
    Slow(Duration),
    /// It says that it has loaded what it was brought, and has not.
    Stubborn,
    /// After so many answers it is started anew, with the weights that it began with.
    Forgets(usize),
}

/// A model behind SGLang's interface.
struct Sglang {
    fault: Fault,
    begun_with: PathBuf,
    loaded: Mutex<LoadedWeights>,
    /// Responses that it has drawn, and from which weights.
    drawn: Mutex<Vec<String>>,
    /// Folders that it was brought.
    brought: Mutex<Vec<String>>,
    answers: AtomicUsize,
}

struct LoadedWeights {
    decoder: Decoder,
    version: String,
}

impl LoadedWeights {
    fn of(folder: &Path, version: &str) -> Self {
        Self { decoder: Decoder::load(folder, &LoadOptions::default()).unwrap(), version: version.to_owned() }
    }

    fn log_probs(&self, prompt: &[u32], response: &[u32]) -> Vec<f32> {
        let row = PromptResponse { name: "x".into(), prompt: prompt.to_vec(), response: response.to_vec() };
        log_probs(&self.decoder, &[row], 256).unwrap().remove(0).tokens
    }
}

impl Sglang {
    fn start(folder: &Path, fault: Fault) -> (StubServer, Arc<Self>) {
        let server = Arc::new(Self {
            fault,
            begun_with: folder.to_path_buf(),
            loaded: Mutex::new(LoadedWeights::of(folder, "default")),
            drawn: Mutex::default(),
            brought: Mutex::default(),
            answers: AtomicUsize::new(0),
        });
        let of_stub = Arc::clone(&server);
        (StubServer::start(move |request| of_stub.reply(request)), server)
    }

    fn reply(&self, request: &StubRequest) -> StubReply {
        let body = &request.body;
        if request.path == "/update_weights_from_disk" {
            let folder = body["model_path"].as_str().unwrap();
            self.brought.lock().unwrap().push(folder.to_owned());
            if self.fault != Fault::Stubborn {
                let version = body["weight_version"].as_str().unwrap();
                *self.loaded.lock().unwrap() = LoadedWeights::of(Path::new(folder), version);
            }
            return StubReply::json(
                &json!({"success": true, "message": "Succeeded to update model weights."}),
            );
        }
        assert_eq!(request.path, "/generate");
        let ids: Vec<u32> = serde_json::from_value(body["input_ids"].clone()).unwrap();
        let count = body["sampling_params"]["max_new_tokens"].as_u64().unwrap() as usize;
        let is_probe = count == 0;
        let answered = if is_probe { 0 } else { self.answers.fetch_add(1, Ordering::SeqCst) + 1 };
        match self.fault {
            Fault::DiesAfter(most) => {
                let so_far = if is_probe { self.answers.load(Ordering::SeqCst) } else { answered };
                if so_far > most {
                    return StubReply::text(200, "x").cut(0);
                }
            }
            Fault::Forgets(most) if answered == most => {
                *self.loaded.lock().unwrap() = LoadedWeights::of(&self.begun_with, "default");
            }
            _ => {}
        }
        let loaded = self.loaded.lock().unwrap();
        let mut about = json!({"weight_version": loaded.version});
        let pairs = |ids: &[u32], values: &[f32]| -> Vec<Value> {
            ids.iter().zip(values).map(|(id, value)| json!([value, id, null])).collect()
        };
        if is_probe {
            let mut tokens = vec![json!([null, ids[0], null])];
            tokens.extend(pairs(&ids[1..], &loaded.log_probs(&ids[..1], &ids[1..])));
            about["input_token_logprobs"] = tokens.into();
            return StubReply::json(&json!({"text": "", "output_ids": [], "meta_info": about}));
        }
        // Any words do: whether they are likely shows in their log-probs alone.
        let response: Vec<u32> = (0..count).map(|place| 8 + ((answered + 3 * place) % 16) as u32).collect();
        about["output_token_logprobs"] = pairs(&response, &loaded.log_probs(&ids, &response)).into();
        about["finish_reason"] = json!({"type": "length", "length": count});
        self.drawn.lock().unwrap().push(loaded.version.clone());
        let reply = StubReply::json(&json!({"text": "?", "output_ids": response, "meta_info": about}));
        match self.fault {
            Fault::Slow(time) => reply.after(time),
            _ => reply,
        }
    }

    fn drawn(&self) -> usize {
        self.drawn.lock().unwrap().len()
    }
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
    let (dying, of_dying) = Sglang::start(&policy, Fault::DiesAfter(4));
    let (slow, of_slow) = Sglang::start(&policy, Fault::Slow(Duration::from_millis(150)));
    TinyModel { seed: 5, ..TinyModel::POLICY }.write(&world.path("other_policy"));
    let (stale, of_stale) = Sglang::start(&world.path("other_policy"), Fault::Stubborn);
    let tolerance = ["--set", "sample.log_prob_tolerance=1e-3"];
    let out = sample(&world, "out.jsonl", &[&dying, &slow, &stale], &tolerance).ok();
    check(&world, "out.jsonl");
    assert!(out.stderr.contains("sample.endpoints[2]") && out.stderr.contains("left out"), "{}", out.stderr);
    assert_eq!(of_stale.drawn(), 0);
    assert!(!of_stale.brought.lock().unwrap().is_empty());
    assert_eq!(of_dying.drawn(), 4);
    // The other one did the rest, and nothing twice.
    assert_eq!(of_slow.drawn(), 36 - 4);
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
    let (quick, of_quick) = Sglang::start(&policy, Fault::None);
    let (slow, of_slow) = Sglang::start(&policy, Fault::Slow(Duration::from_millis(500)));
    sample(&world, "out.jsonl", &[&slow, &quick], &["--set", "sample.shard_prompts=12"]).ok();
    check(&world, "out.jsonl");
    let (quick, slow) = (of_quick.drawn(), of_slow.drawn());
    assert!(quick + slow == 36 && quick > 2 * slow, "{quick} {slow}");
}

#[test]
fn a_run_brings_each_policy_to_the_servers_and_one_that_forgets_it_is_not_believed() {
    let world = run_world();
    let policy = world.path("policy");
    let (steady, of_steady) = Sglang::start(&policy, Fault::None);
    // 80 responses an iteration: it is started anew in the middle of the second one, with the first weights.
    let (forgets, of_forgets) = Sglang::start(&policy, Fault::Forgets(50));
    let endpoints = endpoints(&[&steady, &forgets]);
    let line = ["run", "recipe.toml", "-o", "drawn", "--set", "sample.backend=sglang", "--set", &endpoints];
    world.selfplay(&line).ok();
    let brought = of_steady.brought.lock().unwrap().clone();
    let wanted = world.path("drawn/iteration_01/policy").canonicalize().unwrap();
    assert!(brought.len() == 1 && Path::new(&brought[0]).canonicalize().unwrap() == wanted, "{brought:?}");
    let brought = of_forgets.brought.lock().unwrap().len();
    assert!((1..=2).contains(&brought), "{brought}");
    let difference: Value = world.json("drawn/iteration_02/servers.json");
    assert!(difference["mean"].as_f64().unwrap() < 1e-4, "{difference}");
    assert_eq!(difference["tokens"], 80 * 10);
    assert_eq!(difference["endpoints"][0]["weights_brought"], 1);
    let ours: Value = world.json("drawn/iteration_02/log_prob_difference.json");
    assert!(ours["max"].as_f64().unwrap() < 1e-4, "{ours}");
    assert!(world.path("drawn/iteration_02/probe.json").is_file());
}
