//! One commit for all files, and for all of a run; splits that are one; resuming without the hub.

use std::collections::BTreeMap;

use selfplay_testing::Outcome;
use selfplay_testing::tiny_model::word;
use selfplay_testing::world::prompts;
use serde_json::{Value, json};

use super::Site;
use super::server::Hub;

const DATASET: &str = "hf://datasets/o/d";

/// `count` prompts beginning with the given one.
fn rows(first: usize, count: usize) -> Vec<u8> {
    let lines: Vec<String> =
        prompts(first + count).lines().skip(first).map(|line| format!("{line}\n")).collect();
    lines.concat().into_bytes()
}

fn files(files: &[(&str, Vec<u8>)]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect()
}

impl Site {
    /// A site whose recipe takes its prompts from the hub.
    fn with_dataset() -> Self {
        let site = Self::new();
        site.world.write("recipe.toml", &site.world.recipe().replace("prompts.jsonl", DATASET));
        site
    }

    fn selfplay(&self, hub: &Hub, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(hub, arguments))
    }

    /// A run that is killed after it has begun.
    fn killed_run(&self, hub: &Hub, name: &str) {
        let mut command = self.command(hub, &["run", "recipe.toml", "-o", name, "-q"]);
        Outcome::of(command.env("SELFPLAY_FAULT", "kill:30")).killed();
    }

    fn json(&self, name: &str) -> Value {
        self.world.json(name)
    }
}

#[test]
fn all_files_of_a_snapshot_are_of_the_commit_that_the_hub_is_at() {
    let site = Site::new();
    let hub = Hub::new(site.policy());
    // `plan` takes config.json of commit a alone.
    site.world.write("recipe.toml", &site.world.recipe().replace("\"policy\"", "\"o/n\""));
    site.selfplay(&hub, &["plan", "recipe.toml"]).ok();
    assert!(site.cached().join("snapshots").join("a".repeat(40)).join("config.json").is_file());
    let mut other = site.policy();
    let weights = other.get_mut("model.safetensors").unwrap();
    *weights.last_mut().unwrap() ^= 1;
    let expected = weights.clone();
    hub.move_to('b', other);
    site.logprobs(&hub).ok();
    let snapshot = site.cached().join("snapshots").join("b".repeat(40));
    assert_eq!(std::fs::read(snapshot.join("model.safetensors")).unwrap(), expected);
    assert!(snapshot.join("config.json").is_file());
    assert!(hub.requests().iter().all(|request| request.lists() || !request.path.contains("/resolve/main/")));
}

#[test]
fn a_split_is_asked_for_once() {
    let site = Site::with_dataset();
    let hub = Hub::new(files(&[("train.jsonl", rows(0, 12))]));
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "run", "-q"]).ok();
    assert_eq!(hub.requests().iter().filter(|request| request.lists()).count(), 1);
    let pins = &site.json("run/manifest.json")["hub"];
    assert_eq!(*pins, json!([{"source": DATASET, "commit": "a".repeat(40), "files": ["train.jsonl"]}]));
}

#[test]
fn trainings_take_their_rows_from_a_hub_tables_of_text_too() {
    let site = Site::new();
    // As zhihu_rlhf_3k is published: one table, whose name is of no split.
    let table = "prompt\tchosen\trejected\na b\tc\t\"d \"\"e\"\"\"\nb\tc\tc\nc\t\"d\ne\"\tf\nd\te\t\n";
    let hub = Hub::new(files(&[
        ("README.md", b"# zhihu".to_vec()),
        ("zhihu_3k_rlfh.tsv", table.as_bytes().to_vec()),
    ]));
    let quick = ["--set", "train.loss=dpo", "--set", "train.warmup_ratio=0"];
    let train = ["train", "--model", "policy", "--pairs", DATASET, "--output", "dpo"];
    let said = site.selfplay(&hub, &[&train[..], &quick].concat()).ok();
    for words in
        ["zhihu_3k_rlfh.tsv: 4 rows (texts), 2 pairs", "left out 1 where", "(first row 1)", "(first row 3)"]
    {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    assert_eq!(site.json("dpo/data.json")[0]["examples"], 2);

    // A split in shards beside another of the same rows as a table, in a recipe with a weight and a bound.
    let row = |i: usize| json!({"instruction": word(5 + i), "input": "", "output": word(6 + i)});
    let shard =
        |from: usize| (from..from + 3).map(|i| format!("{}\n", row(i))).collect::<String>().into_bytes();
    let hub = Hub::new(files(&[
        ("data/train-00000-of-00002.jsonl", shard(0)),
        ("data/train-00001-of-00002.jsonl", shard(3)),
        ("data/train.csv", b"instruction,output\na,b\n".to_vec()),
        ("data/test-00000-of-00001.jsonl", shard(6)),
    ]));
    let site = Site::new();
    site.world.write(
        "sft.toml",
        "[policy]\nmodel = \"policy\"\n[sft]\nwarmup_ratio = 0\ndata = [\n\
         {path = \"hf://datasets/o/d\", layout = \"alpaca\", weight = 2},\n\
         {path = \"hf://datasets/o/d:data/train.csv\", layout = \"alpaca\", weight = 1},\n]\n",
    );
    let said = site.selfplay(&hub, &["sft", "--recipe", "sft.toml", "--output", "sft"]).ok();
    assert!(said.stderr.contains("7 examples"), "{}", said.stderr);
    let report = site.json("sft/data.json");
    let rows: Vec<&Value> = report.as_array().unwrap().iter().map(|file| &file["rows"]).collect();
    assert_eq!(rows, [3, 3, 1]);
}

#[test]
fn a_run_of_local_files_has_no_word_of_a_hub() {
    let site = Site::new();
    site.world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]).ok();
    assert!(site.json("run/manifest.json").get("hub").is_none());
}

#[test]
fn a_resume_takes_the_commit_that_the_run_began_with() {
    let site = Site::with_dataset();
    let hub = Hub::new(files(&[("train-00000.jsonl", rows(0, 12))]));
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "whole", "-q"]).ok();
    for case in ["gone", "offline", "moved", "moved and nothing cached"] {
        let run = format!("run {case}");
        site.killed_run(&hub, &run);
        let requests = hub.requests().len();
        let mut resume = site.command(&hub, &["resume", &run, "-q"]);
        match case {
            "gone" => drop(resume.env("HF_ENDPOINT", "http://127.0.0.1:1")),
            "offline" => drop(resume.env("HF_HUB_OFFLINE", "1")),
            // Another file, of which the run must see nothing.
            _ => hub.move_to(
                'b',
                files(&[("train-00000.jsonl", rows(0, 12)), ("train-00001.jsonl", rows(12, 8))]),
            ),
        }
        if case.ends_with("cached") {
            // The hub is asked for the run's own commit.
            std::fs::remove_dir_all(site.world.path("hf")).unwrap();
            hub.move_to('a', files(&[("train-00000.jsonl", rows(0, 12))]));
        }
        Outcome::of(&mut resume).ok();
        if case.ends_with("cached") {
            let asked = hub.requests()[requests].path.clone();
            assert!(asked.ends_with(&"a".repeat(40)), "{asked}");
        } else {
            assert_eq!(hub.requests().len(), requests, "{case}");
        }
        for name in ["iteration_01/pairs.parquet", "iteration_01/policy/model.safetensors"] {
            let of = |run: &str| std::fs::read(site.world.path(run).join(name)).unwrap();
            assert!(of(&run) == of("whole"), "{case}: {name}");
        }
        hub.move_to('a', files(&[("train-00000.jsonl", rows(0, 12))]));
    }
}

#[test]
fn what_no_cache_has_is_asked_of_the_hub_and_missed_by_name() {
    let site = Site::with_dataset();
    let hub = Hub::new(files(&[("train.jsonl", rows(0, 12))]));
    site.killed_run(&hub, "run");
    std::fs::remove_dir_all(site.world.path("hf")).unwrap();
    Outcome::of(site.command(&hub, &["resume", "run", "-q"]).env("HF_HUB_OFFLINE", "1"))
        .refused(&["o/d", "HF_HUB_OFFLINE"]);
}

#[test]
fn two_configurations_and_missing_shards_are_refused_before_anything_is_sampled() {
    let site = Site::with_dataset();
    let names = ["main/train-00000-of-00001.jsonl", "socratic/train-00000-of-00001.jsonl"];
    let both = files(&[(names[0], rows(0, 12)), (names[1], rows(12, 12))]);
    let hub = Hub::new(both);
    let choices = ["hf://datasets/o/d:main/train", "hf://datasets/o/d:socratic/train"];
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "run"]).refused(&choices);
    assert!(!site.world.path("run").exists());
    let split = format!("prompts.splits=[\"{}\"]", choices[1]);
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "run", "-q", "--set", &split]).ok();
    assert_eq!(site.json("run/manifest.json")["hub"][0]["files"], json!([names[1]]));
    // Of what is not read nothing was fetched.
    assert!(hub.requests().iter().all(|request| !request.path.contains("main/train")));

    let hub = Hub::new(files(&[
        ("train-00000-of-00003.jsonl", rows(0, 6)),
        ("train-00002-of-00003.jsonl", rows(6, 6)),
    ]));
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "run2"])
        .refused(&["train-00001-of-00003.jsonl is missing", "2 of 3"]);
}

#[test]
fn an_identity_stands_once_in_all_files_of_a_split() {
    let row = |id: Value, text: &str| format!("{}\n", json!({"prompt_id": id, "prompt": text})).into_bytes();
    let shard = |n: usize| format!("train-0000{n}-of-00002.jsonl");
    let (first, second) = (shard(0), shard(1));
    let site = Site::with_dataset();
    let twice = files(&[
        (&first, row(json!("a1"), "a b")),
        (&second, [row(json!("b"), "c"), row(json!("a1"), "d")].concat()),
    ]);
    let hub = Hub::new(twice);
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "run"])
        .refused(&[&first, &second, "row 1", "row 0", "\"a1\""]);
    assert!(!site.world.path("run").exists());
    // Numbers that a file has are kept as they are.
    let numbered =
        |from: usize| (from..from + 6).flat_map(|n| row(json!(n), &format!("a {}", word(n)))).collect();
    let hub = Hub::new(files(&[(&first, numbered(100)), (&second, numbered(200))]));
    let site = Site::with_dataset();
    site.selfplay(&hub, &["run", "recipe.toml", "-o", "run", "-q"]).ok();
    let pairs: Vec<selfplay_records::Candidates> =
        selfplay_records::read_rows(&first_file(&site.world.path("run/iteration_01/candidates"))).unwrap();
    assert!(pairs.iter().all(|row| row.prompt.prompt_id.len() == 3), "{:?}", pairs[0].prompt);
}

fn first_file(folder: &std::path::Path) -> std::path::PathBuf {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "parquet")).unwrap()
}

#[test]
fn tables_of_win_rates_come_from_the_hub() {
    let site = Site::new();
    let row = |n: usize| {
        json!({"instruction": format!("say {n}"), "output_1": "a b c", "output_2": "a".repeat(1 + n % 7), "generator_1": "baseline",
               "generator_2": "model", "preference": 1.0 + (n % 10) as f64 / 10.0})
    };
    site.world.write("annotations.json", &json!((0..40).map(row).collect::<Vec<_>>()).to_string());
    let numbers: String = (0..40).map(|n| format!("{n},0.{}\n", 1 + n % 9)).collect();
    let difficulty = format!(",instruction_difficulty\n{numbers}");
    let gamed: String = (0..40).map(|n| format!("0.{}5,-1.2,0.5\n", 1 + n % 8)).collect();
    let gamed = format!("preference,std_delta_len,instruction_difficulty\n{gamed}");
    site.world.write("d.csv", &difficulty);
    site.world.write("g.csv", &gamed);
    let hub = Hub::new(files(&[("t/d.csv", difficulty.into_bytes()), ("g.csv", gamed.into_bytes())]));
    let rate = |difficulty: &str, gamed: &str| {
        let line = [
            "winrate",
            "--annotations",
            "annotations.json",
            "--json",
            "--difficulty",
            difficulty,
            "--gamed",
            gamed,
        ];
        site.selfplay(&hub, &line)
    };
    let own = rate("d.csv", "g.csv").ok().stdout;
    assert!(own.contains("length_controlled_v1"), "{own}");
    assert!(hub.requests().is_empty(), "files of this machine are asked of nobody");
    assert_eq!(rate("o/d/t/d.csv", "hf://datasets/o/d/g.csv").ok().stdout, own);
    assert_eq!(rate("hf://datasets/o/d:t/d.csv", "o/d/g.csv").ok().stdout, own);
    rate("o/d/t/d.csv", "o/d/absent.csv").refused(&["hf://datasets/o/d", "absent.csv"]);
    rate("absent.csv", "g.csv").refused(&["absent.csv"]);
    rate("hf://o/d/d.csv", "g.csv").refused(&["hf://o/d/d.csv", "hf://datasets/ORG/NAME"]);
}
