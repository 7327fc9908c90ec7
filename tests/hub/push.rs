//! `selfplay push` against a hub of the test's own: the repository, the files by Git LFS, the commit, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use selfplay_testing::{Outcome, StubReply, StubRequest, StubServer, World};
use serde_json::{Value, json};

use super::server::sha256;

/// What no server but the hub may see, and no message.
const TOKEN: &str = "hf_secretsecretsecretsecret";

/// What a hub keeps.
#[derive(Default)]
struct Kept {
    repositories: BTreeSet<String>,
    branches: BTreeSet<String>,
    objects: BTreeMap<String, Vec<u8>>,
    /// Parts of a file, by its hash and the part's number.
    parts: BTreeMap<(String, usize), Vec<u8>>,
    /// Lines of each commit.
    commits: Vec<Vec<Value>>,
}

/// A hub, and the other server that it sends large files to.
struct Site {
    world: World,
    hub: StubServer,
    store: StubServer,
    kept: Arc<Mutex<Kept>>,
}

/// Answers a request in the place of a hub that works, or not.
type Trouble = fn(&StubRequest) -> Option<StubReply>;

impl Site {
    /// A hub that takes files in parts of `chunk` bytes, else whole.
    fn new(chunk: Option<usize>, trouble: Trouble) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let of_store = Arc::clone(&kept);
        let store = StubServer::start(move |request| {
            trouble(request).unwrap_or_else(|| store_answer(&mut of_store.lock().unwrap(), request))
        });
        let (of_hub, store_address) = (Arc::clone(&kept), store.address.clone());
        let hub = StubServer::start(move |request| {
            trouble(request)
                .unwrap_or_else(|| hub_answer(&mut of_hub.lock().unwrap(), request, &store_address, chunk))
        });
        Self { world: crate::world(), hub, store, kept }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(&[&["push"], arguments].concat());
        for name in [
            "HF_HUB_OFFLINE",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.hub.address).env("HF_TOKEN", TOKEN);
        command
    }

    fn push(&self, more: &[&str]) -> Outcome {
        let outcome = Outcome::of(&mut self.command(&[&["policy", "--to", "o/n"], more].concat()));
        assert!(!outcome.stdout.contains(TOKEN) && !outcome.stderr.contains(TOKEN), "{}", outcome.stderr);
        outcome
    }

    /// Files of the last commit, by name: their content, or their hash.
    fn committed(&self) -> BTreeMap<String, Value> {
        let kept = self.kept.lock().unwrap();
        let lines = kept.commits.last().unwrap();
        let files = lines.iter().filter(|line| line["key"] != "header");
        files
            .map(|line| (line["value"]["path"].as_str().unwrap().to_owned(), line["value"].clone()))
            .collect()
    }
}

fn hub_answer(kept: &mut Kept, request: &StubRequest, store: &str, chunk: Option<usize>) -> StubReply {
    if request.authorization.as_deref() != Some(&format!("Bearer {TOKEN}")) {
        return StubReply::text(401, "{\"error\": \"Invalid credentials\"}");
    }
    let body = &request.body;
    match request.path.as_str() {
        "/api/repos/create" => {
            let id = format!("{}/{}", body["organization"].as_str().unwrap(), body["name"].as_str().unwrap());
            let private = format!("{id} private={}", body["private"]);
            match kept.repositories.iter().any(|other| other.starts_with(&format!("{id} "))) {
                true => StubReply::text(409, "{\"error\": \"You already created this model repo\"}"),
                false => {
                    kept.repositories.insert(private);
                    StubReply::json(&json!({"url": "x"}))
                }
            }
        }
        "/api/models/o/n/branch/v%2F1" => match kept.branches.insert("v/1".to_owned()) {
            true => StubReply::json(&json!({})),
            false => StubReply::text(409, "{}"),
        },
        path if path.starts_with("/api/models/o/n/preupload/") => {
            let mode = |file: &Value| {
                let large = file["path"].as_str().unwrap().ends_with(".safetensors");
                json!({"path": file["path"], "uploadMode": if large { "lfs" } else { "regular" }})
            };
            let files: Vec<Value> = body["files"].as_array().unwrap().iter().map(mode).collect();
            StubReply::json(&json!({"files": files}))
        }
        "/o/n.git/info/lfs/objects/batch" => {
            let object = &body["objects"][0];
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap() as usize);
            if kept.objects.contains_key(oid) {
                return StubReply::json(&json!({"objects": [object]}));
            }
            let mut upload = json!({"href": format!("{store}/whole/{oid}")});
            if let Some(chunk) = chunk {
                let mut header = json!({"chunk_size": chunk.to_string()});
                for part in 1..=size.div_ceil(chunk) {
                    header[format!("{part:05}")] = format!("{store}/part/{oid}/{part}").into();
                }
                upload = json!({"href": format!("{store}/complete/{oid}"), "header": header});
            }
            let actions = json!({"upload": upload, "verify": {"href": format!("{store}/verify/{oid}")}});
            StubReply::json(&json!({"objects": [{"oid": oid, "size": size, "actions": actions}]}))
        }
        path if path.starts_with("/api/models/o/n/commit/") => {
            let text = String::from_utf8(request.bytes.clone()).unwrap();
            kept.commits.push(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
            StubReply::json(&json!({"commitOid": "c".repeat(40), "commitUrl": "x"}))
        }
        path => StubReply::text(404, format!("{{\"error\": \"no {path}\"}}")),
    }
}

fn store_answer(kept: &mut Kept, request: &StubRequest) -> StubReply {
    assert_eq!(request.authorization, None, "the token went to another server");
    let words: Vec<&str> = request.path.split('/').skip(1).collect();
    match (request.method.as_str(), words.as_slice()) {
        ("PUT", ["whole", oid]) => {
            kept.objects.insert((*oid).to_owned(), request.bytes.clone());
            StubReply::text(200, "")
        }
        ("PUT", ["part", oid, number]) => {
            kept.parts.insert(((*oid).to_owned(), number.parse().unwrap()), request.bytes.clone());
            StubReply::text(200, "").header("ETag", &format!("\"tag{number}\""))
        }
        ("POST", ["complete", oid]) => {
            let parts = request.body["parts"].as_array().unwrap();
            let whole: Vec<u8> = parts
                .iter()
                .flat_map(|part| {
                    let number = part["partNumber"].as_u64().unwrap() as usize;
                    assert_eq!(part["etag"], format!("\"tag{number}\""));
                    kept.parts[&((*oid).to_owned(), number)].clone()
                })
                .collect();
            kept.objects.insert((*oid).to_owned(), whole);
            StubReply::json(&json!({}))
        }
        ("POST", ["verify", oid]) if kept.objects.get(*oid).is_some_and(|bytes| sha256(bytes) == *oid) => {
            StubReply::json(&json!({}))
        }
        _ => StubReply::text(404, ""),
    }
}

#[test]
fn a_model_is_pushed_once_and_what_is_there_is_not_sent_again() {
    let site = Site::new(None, |_| None);
    site.world.write("policy/notes.txt", "some words\n");
    site.world.edit_json("policy/config.json", |config| config["_name_or_path"] = "/home/me/model".into());
    let outcome = site.push(&["--private"]).ok();
    assert!(outcome.stdout.contains("o/n: made and pushed as cccc"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("_name_or_path was a path of this machine"), "{}", outcome.stderr);
    assert!(site.kept.lock().unwrap().repositories.contains("o/n private=true"));
    let weights = site.world.bytes("policy/model.safetensors");
    let committed = site.committed();
    assert_eq!(committed["model.safetensors"]["oid"], sha256(&weights));
    assert_eq!(site.kept.lock().unwrap().objects[&sha256(&weights)], weights);
    // base64, from coreutils.
    assert_eq!(committed["notes.txt"]["content"], "c29tZSB3b3Jkcwo=");
    assert!(committed.contains_key("config.json") && committed.contains_key("tokenizer.json"));

    let sent = site.store.requests().len();
    let outcome = site.push(&[]).ok();
    assert!(
        outcome.stdout.contains("o/n: pushed") && outcome.stdout.contains("0 large ones sent, 1 were there"),
        "{}",
        outcome.stdout
    );
    assert_eq!(site.store.requests().len(), sent, "nothing was sent again");
}

#[test]
fn a_large_file_goes_in_parts_and_a_part_that_is_cut_is_sent_again_alone() {
    let site = Site::new(Some(4096), |request| {
        let second = request.path.starts_with("/part/") && request.path.ends_with("/2");
        (second && request.time == 1).then(StubReply::hang_up)
    });
    let weights = site.world.bytes("policy/model.safetensors");
    let parts = weights.len().div_ceil(4096);
    assert!(parts >= 3, "{}", weights.len());
    site.push(&[]).ok();
    assert_eq!(site.kept.lock().unwrap().objects[&sha256(&weights)], weights);
    let puts = site.store.requests().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(puts, parts + 1);
}

#[test]
fn an_address_that_has_expired_is_asked_for_anew() {
    let site = Site::new(None, |request| {
        (request.path.starts_with("/whole/") && request.time == 1).then(|| StubReply::text(403, "expired"))
    });
    site.push(&[]).ok();
    assert_eq!(site.kept.lock().unwrap().objects.len(), 1);
}

#[test]
fn a_branch_is_made_and_pushed_to() {
    let site = Site::new(None, |_| None);
    for _ in 0..2 {
        site.push(&["--revision", "v/1", "--message", "the first"]).ok();
    }
    let paths: Vec<String> = site.hub.requests().iter().map(|request| request.path.clone()).collect();
    assert!(paths.contains(&"/api/models/o/n/commit/v%2F1".to_owned()), "{paths:?}");
    assert_eq!(site.kept.lock().unwrap().commits[0][0]["value"]["summary"], "the first");
}

#[test]
fn what_the_hub_refuses_is_told_with_what_would_be_right() {
    let refused = |trouble: Trouble, status: i32, words: &[&str]| {
        let outcome = Site::new(None, trouble).push(&[]);
        assert_eq!(outcome.status, Some(status), "{}", outcome.stderr);
        for word in words {
            assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
        }
    };
    refused(
        |_| Some(StubReply::text(401, "{\"error\": \"Bad\\ntoken\"}")),
        2,
        &["401", "HF_TOKEN", "Bad\\ntoken"],
    );
    refused(
        |request| (request.path == "/api/repos/create").then(|| StubReply::text(403, "{}")),
        2,
        &["403", "404", "may not make repositories"],
    );
    refused(
        |request| {
            request.path.contains("/commit/").then(|| StubReply::text(403, "{\"error\": \"read token\"}"))
        },
        2,
        &["403", "may not write there", "read token"],
    );
    refused(
        |request| request.path.contains("/commit/").then(|| StubReply::text(412, "{\"error\": \"moved\"}")),
        1,
        &["412", "moved", "same command again"],
    );
    refused(
        |request| {
            request.path.contains("/commit/").then(|| StubReply::text(429, "{}").header("Retry-After", "0"))
        },
        1,
        &["is busy (429)", "try again later"],
    );
    refused(
        |request| {
            request.path.contains("/batch").then(|| StubReply::json(&json!({"objects": [{"oid": "x"}]})))
        },
        1,
        &["without the file that was asked about"],
    );
    refused(
        |request| request.path.contains("/preupload/").then(|| StubReply::text(200, "<html>")),
        1,
        &["no list of files"],
    );
}

#[test]
fn troubles_that_pass_are_waited_for() {
    let site = Site::new(None, |request| match (request.path.as_str(), request.time) {
        ("/api/repos/create", 1) => Some(StubReply::text(500, "")),
        ("/api/models/o/n/preupload/main", 1) => Some(StubReply::hang_up()),
        (path, 1) if path.contains("/commit/") => Some(StubReply::text(429, "").header("Retry-After", "0")),
        _ => None,
    });
    site.push(&[]).ok();
    assert_eq!(site.kept.lock().unwrap().commits.len(), 1);
}

#[test]
fn a_dry_run_lists_and_asks_nothing() {
    let site = Site::new(None, |_| None);
    let outcome = site.push(&["--dry-run"]).ok();
    for word in ["model.safetensors", "config.json", "together", "nothing was sent"] {
        assert!(outcome.stdout.contains(word), "{word}: {}", outcome.stdout);
    }
    assert!(site.hub.requests().is_empty() && site.store.requests().is_empty());
}

#[test]
fn what_must_not_leave_this_machine_does_not() {
    let site = Site::new(None, |_| None);
    Outcome::of(&mut site.command(&["policy", "--to", "o"])).refused(&["ORG/NAME"]);
    site.push(&["--revision", "a..b"]).refused(&["--revision"]);
    site.push(&["--iteration", "1"]).refused(&["no run's folder"]);
    Outcome::of(site.command(&["policy", "--to", "o/n"]).env("HF_TOKEN", ""))
        .refused(&["no token", "HF_TOKEN"]);
    Outcome::of(site.command(&["policy", "--to", "o/n"]).env("HF_HUB_OFFLINE", "1"))
        .refused(&["HF_HUB_OFFLINE"]);
    Outcome::of(&mut site.command(&["absent", "--to", "o/n"])).refused(&["absent"]);
    Outcome::of(&mut site.command(&[".", "--to", "o/n", "--adapter"])).refused(&["no model is here"]);
    site.world.write("policy/notes.txt", "key: hf_abcdefghijklmnopqrstuv\n");
    let outcome = site.push(&[]).refused(&["notes.txt", "secret", "hf_"]);
    assert!(!outcome.stderr.contains("abcdefghij"), "{}", outcome.stderr);
    std::fs::remove_file(site.world.path("policy/notes.txt")).unwrap();
    // Whatever a text file is called.
    for name in ["train.py", "NOTES", "log.csv"] {
        site.world.write(&format!("policy/{name}"), "key = \"hf_abcdefghijklmnopqrstuv\"\n");
        site.push(&["--dry-run"]).refused(&[name, "secret"]);
        std::fs::remove_file(site.world.path(&format!("policy/{name}"))).unwrap();
    }
    // What a link leads to is seen by nobody who looks at the folder.
    site.world.write("diary", "mine");
    std::os::unix::fs::symlink(site.world.path("diary"), site.world.path("policy/notes.txt")).unwrap();
    site.push(&["--dry-run"]).refused(&["policy/notes.txt", "link that leaves the folder", "diary"]);
    assert!(site.hub.requests().is_empty());
}

/// What `selfplay evaluate` leaves of a suite.
const GSM8K: &str = "{\"suite\": \"gsm8k\", \"model\": \"iteration 1\", \"rows\": 4, \"depends_on\": {}, \
    \"metrics\": {\"exact_match\": {\"value\": 0.25, \"n\": 4}}}";

#[test]
fn a_run_s_policy_goes_with_its_card() {
    let site = Site::new(None, |_| None);
    let world = &site.world;
    world.selfplay(&["run", "recipe.toml", "-o", "run"]).ok();
    let card = String::from_utf8(world.bytes("run/iteration_01/policy/README.md")).unwrap();
    for part in [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- selfplay\n- alignment\n- gpo\n---\n",
        "# policy, GPO, iteration 1",
        "seed = 7",
        "train.max_length = 48",
        "| loss of the first step |",
        "Data: prompts.jsonl.",
        "2410.02197",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let folder = world.path("").display().to_string();
    assert!(!card.contains(folder.trim_end_matches('/')), "{card}");
    std::fs::create_dir_all(world.path("run/iteration_01/evaluation/gsm8k")).unwrap();
    world.write("run/iteration_01/evaluation/gsm8k/results.json", GSM8K);
    Outcome::of(&mut site.command(&["run", "--to", "o/n"])).ok();
    let pushed = site.committed()["README.md"]["content"].as_str().unwrap().to_owned();
    let pushed = String::from_utf8(BASE64_STANDARD.decode(pushed).unwrap()).unwrap();
    assert!(
        pushed.contains("| gsm8k: exact_match | 0.2500 (4 rows) |") && pushed.contains("model = \"o/n\""),
        "{pushed}"
    );
    // One flipped bit is not published.
    let mut weights = world.bytes("run/iteration_01/policy/model.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    world.write_bytes("run/iteration_01/policy/model.safetensors", &weights);
    Outcome::of(&mut site.command(&["run", "--to", "o/n"])).refused(&["model.safetensors", "is damaged"]);
    Outcome::of(&mut site.command(&["run", "--to", "o/n", "--iteration", "2"])).refused(&["iteration_02"]);
}
