//! Wrong input of every kind, given to the real binary: status 2, one message that names the place and the remedy,
//! nothing half-written, within seconds.
//!
//! Past 400 lines because the cases are one list, read side by side.

use std::fs::{self, OpenOptions};

use selfplay_records::atomic;
use serde_json::json;

use crate::fixtures::{
    CONTEXT, Heads, Outcome, WORDS, Weights, World, prompts, safetensors_of, tensors, write_model,
};

/// `selfplay sample` over the world's policy and prompts.
fn sample(world: &World, more: &[&str]) -> Outcome {
    let line = ["sample", "--model", "policy", "--prompts", "prompts.jsonl", "--output", "out.jsonl"];
    let settings = ["--set", "sample.num_samples=2", "--set", "sample.max_new_tokens=4"];
    world.selfplay(&[&line[..], &settings[..], more].concat())
}

/// A wrong recipe, model or file leaves what was there and nothing else.
#[track_caller]
fn unchanged(world: &World, before: &[String]) {
    assert_eq!(world.names(), before);
}

#[test]
fn the_fixture_itself_is_right() {
    let world = World::new();
    world.selfplay(&["check", "recipe.toml"]).ok();
    sample(&world, &[]).ok();
    let rows = fs::read_to_string(world.path("out.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 12);
    // Fields that are not ours go along, and the folder of parts is gone.
    assert!(rows.lines().all(|row| row.contains("\"answer\"")), "{rows}");
    assert!(!world.path("out.jsonl.parts").exists());
}

#[test]
fn a_cause_is_said_once() {
    let world = World::new();
    for line in [
        &["plan", "recipe.toml", "--rates", "absent.json"][..],
        &["score", "--recipe", "recipe.toml", "--candidates", "absent.jsonl", "--output", "out.jsonl"],
        &["check", "absent.toml"],
    ] {
        let refused = world.selfplay(line).refused(&["absent."]);
        assert_eq!(refused.stderr.matches("os error 2").count(), 1, "{}", refused.stderr);
    }
}

#[test]
fn a_misspelt_key_is_told_its_nearest() {
    let world = World::new();
    for (wrong, right) in [
        ("[train]\nlearning_rat = 1e-6", "train.learning_rate"),
        ("[sample]\ntemprature = 1", "sample.temperature"),
        ("[trian]\nbeta = 1", "train"),
        ("iteration = 2", "iterations"),
        ("[train]\nlora.rnk = 2", "train.lora.rank"),
    ] {
        world.write("bad.toml", wrong);
        let before = world.names();
        world.selfplay(&["run", "bad.toml"]).refused(&["bad.toml", "did you mean", right]);
        unchanged(&world, &before);
    }
    let before = world.names();
    world.selfplay(&["run", "recipe.toml", "--set", "train.betta=1"]).refused(&["train.betta", "train.beta"]);
    unchanged(&world, &before);
}

#[test]
fn several_errors_are_reported_at_once() {
    let world = World::new();
    let text = world
        .recipe()
        .replace("num_samples = 3", "num_samples = 0")
        .replace("iterations = 1", "iterations = 9")
        + "colour = 1\n[pair]\nmargin = \"wide\"\n";
    world.write("bad.toml", &text);
    world.selfplay(&["run", "bad.toml"]).refused(&[
        "4 problems",
        "sample.num_samples = 0",
        "iterations = 9",
        "eval.colour",
        "pair.margin",
        "expected a number",
    ]);
    world.selfplay(&["check", "bad.toml", "recipe.toml"]).refused(&["sample.num_samples"]);
}

#[test]
fn settings_out_of_range_name_key_and_value() {
    let world = World::new();
    let before = world.names();
    for (set, words) in [
        ("sample.num_samples=0", ["sample.num_samples = 0", "1"]),
        ("sample.top_p=0", ["sample.top_p = 0", "above 0"]),
        ("sample.temperature=-1", ["sample.temperature = -1", "0 or more"]),
        ("train.loss=gpoo", ["train.loss", "did you mean gpo?"]),
        ("train.loss=\"\"", ["train.loss", "kto-pair"]),
        ("seed=-1", ["seed = -1", "whole number"]),
        ("iterations=2", ["iterations = 2", "at most 1"]),
        ("policy.dtype=f17", ["policy.dtype", "bf16"]),
        ("prompts.splits=[\"absent.jsonl\"]", ["absent.jsonl", "no such file"]),
        ("policy.model=./absent", ["policy.model", "no such folder"]),
    ] {
        world.selfplay(&["run", "recipe.toml", "--set", set]).refused(&words);
    }
    sample(&world, &["--set", "sample.top_p=0"]).refused(&["sample.top_p = 0"]);
    sample(&world, &["--set", "sample.num_samples=0"]).refused(&["sample.num_samples = 0"]);
    unchanged(&world, &before);
}

#[test]
fn a_recipe_that_is_no_toml_names_its_line() {
    let world = World::new();
    world.write("bad.toml", "name = \"x\"\n[train\nbeta = 1\n");
    world.selfplay(&["check", "bad.toml"]).refused(&["bad.toml", "line 2"]);
    world.write_bytes("bad.toml", b"name = \"x\"\n# \xff\n");
    world.selfplay(&["check", "bad.toml"]).refused(&["bad.toml", "line 2", "UTF-8"]);
    world.selfplay(&["check", "absent.toml"]).refused(&["absent.toml"]);
}

#[test]
fn a_model_folder_without_its_files_names_the_file() {
    let world = World::new();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let kept = fs::read(world.path("policy").join(file)).unwrap();
        fs::remove_file(world.path("policy").join(file)).unwrap();
        let before = world.names();
        sample(&world, &[]).refused(&["policy", file.trim_start_matches("model")]);
        world.selfplay(&["run", "recipe.toml"]).refused(&["policy"]);
        unchanged(&world, &before);
        atomic::write_bytes(&world.path("policy").join(file), &kept).unwrap();
    }
    let before = world.names();
    world
        .selfplay(&["sample", "--model", "nowhere", "--prompts", "prompts.jsonl", "--output", "out.jsonl"])
        .refused(&["nowhere"]);
    world
        .selfplay(&[
            "sample",
            "--model",
            "no-such/model",
            "--prompts",
            "prompts.jsonl",
            "--output",
            "out.jsonl",
        ])
        .refused(&["no-such/model", "HF_HUB_OFFLINE"]);
    unchanged(&world, &before);
}

#[test]
fn damaged_weights_are_named() {
    let world = World::new();
    let whole = safetensors_of(&tensors(None));
    let truncated = whole[..whole.len() - 100].to_vec();
    let mut absurd = whole.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut corrupt = whole.clone();
    corrupt[8..40].fill(b'?');
    let long_header = [&(1_u64 << 40).to_le_bytes()[..], &whole[8..]].concat();
    for (case, bytes) in [
        ("truncated", truncated),
        ("absurd header length", absurd),
        ("corrupt header", corrupt),
        ("header longer than the file", long_header),
        ("three bytes", b"abc".to_vec()),
        ("empty", Vec::new()),
    ] {
        world.write_bytes("policy/model.safetensors", &bytes);
        let before = world.names();
        let outcome = sample(&world, &[]);
        assert_eq!(outcome.status, Some(2), "{case}: {}", outcome.stderr);
        outcome.refused(&["model.safetensors"]);
        unchanged(&world, &before);
    }
}

#[test]
fn wrong_tensors_are_named() {
    let world = World::new();
    let name = "model.layers.1.mlp.up_proj.weight";
    let with = |change: &dyn Fn(&mut Vec<Weights>)| {
        let mut all = tensors(None);
        change(&mut all);
        world.write_bytes("policy/model.safetensors", &safetensors_of(&all));
    };
    let place = |all: &[Weights]| all.iter().position(|tensor| tensor.name == name).unwrap();
    with(&|all| {
        let at = place(all);
        all[at].shape = vec![all[at].shape[1], all[at].shape[0]];
    });
    sample(&world, &[]).refused(&[name, "24"]);
    with(&|all| {
        let at = place(all);
        all.remove(at);
    });
    sample(&world, &[]).refused(&[name]);
    with(&|all| {
        let at = place(all);
        all[at].values[7] = f32::NAN;
    });
    sample(&world, &[]).refused(&[name]);
    assert!(!world.path("out.jsonl").exists() && !world.path("out.jsonl.parts").exists());
}

#[test]
fn a_missing_shard_is_named() {
    let world = World::new();
    let all = tensors(None);
    let (first, second) = all.split_at(all.len() / 2);
    fs::remove_file(world.path("policy/model.safetensors")).unwrap();
    world.write_bytes("policy/model-00001-of-00002.safetensors", &safetensors_of(first));
    let map: serde_json::Map<String, serde_json::Value> = first
        .iter()
        .map(|tensor| (tensor.name.clone(), json!("model-00001-of-00002.safetensors")))
        .chain(second.iter().map(|tensor| (tensor.name.clone(), json!("model-00002-of-00002.safetensors"))))
        .collect();
    world.write(
        "policy/model.safetensors.index.json",
        &json!({"metadata": {}, "weight_map": map}).to_string(),
    );
    sample(&world, &[]).refused(&["model-00002-of-00002.safetensors"]);
    world.write_bytes("policy/model-00002-of-00002.safetensors", &safetensors_of(second));
    sample(&world, &[]).ok();
}

#[test]
fn a_damaged_tokenizer_is_named() {
    let world = World::new();
    for text in ["", "{", "{\"model\": {\"type\": \"Nothing\"}}", "[1, 2]"] {
        world.write("policy/tokenizer.json", text);
        let before = world.names();
        sample(&world, &[]).refused(&["tokenizer.json"]);
        unchanged(&world, &before);
    }
}

#[test]
fn a_template_that_fails_is_named() {
    let world = World::new();
    for (template, words) in [
        ("{% for m in messages %}{{ m.content }}", vec!["template.jinja"]),
        ("{{ raise_exception('roles must alternate') }}", vec!["roles must alternate"]),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
            vec![],
        ),
        ("{{ messages[7].content.strip() }}", vec![]),
    ] {
        world.write("template.jinja", template);
        let before = world.names();
        sample(&world, &["--set", "policy.chat_template=template.jinja"]).refused(&words);
        unchanged(&world, &before);
    }
    let before = world.names();
    sample(&world, &["--set", "policy.chat_template=absent.jinja"])
        .refused(&["policy.chat_template", "absent.jinja"]);
    world.write("rows.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
    world
        .selfplay(&[
            "tokenize",
            "--model",
            "policy",
            "--input",
            "rows.jsonl",
            "--output",
            "ids.jsonl",
            "--chat-template",
            "absent",
        ])
        .refused(&["--chat-template absent"]);
    assert!(!before.contains(&"ids.jsonl".to_owned()) && !world.path("ids.jsonl").exists());
}

#[test]
fn a_prompt_file_that_is_wrong_names_file_and_row() {
    let world = World::new();
    let row = "{\"prompt\": \"a b\"}\n";
    for (bytes, words) in [
        (b"".to_vec(), vec!["prompts.jsonl"]),
        (b"\n\n".to_vec(), vec!["prompts.jsonl"]),
        ([row.as_bytes(), b"{\"prompt\": \"\xff\xfe\"}\n"].concat(), vec!["prompts.jsonl", "row 1", "UTF-8"]),
        (format!("{row}{row}{{\"prompt\": \n").into_bytes(), vec!["prompts.jsonl", "row 2"]),
        (format!("{row}{{\"prompt\": 7}}\n").into_bytes(), vec!["row 1", "prompt"]),
        (b"{\"question\": \"a\"}\n".to_vec(), vec!["row 0", "prompt"]),
        (
            b"{\"prompt\": \"a\", \"prompt_id\": \"x\"}\n{\"prompt\": \"b\", \"prompt_id\": \"x\"}\n"
                .to_vec(),
            vec!["row 1", "x"],
        ),
        (b"{\"prompt_ids\": []}\n".to_vec(), vec!["row 0", "prompt_ids"]),
        // The preference model of a run reads texts: ids alone would be refused for that.
        (b"{\"prompt\": \"a\", \"prompt_ids\": [5, 9999]}\n".to_vec(), vec!["9999"]),
        (format!("{row}{}\n", json!({"prompt": vec!["a"; CONTEXT].join(" ")})).into_bytes(), vec!["64"]),
    ] {
        world.write_bytes("prompts.jsonl", &bytes);
        let before = world.names();
        sample(&world, &[]).refused(&words);
        world.selfplay(&["run", "recipe.toml"]).refused(&words);
        unchanged(&world, &before);
    }
    fs::remove_file(world.path("prompts.jsonl")).unwrap();
    sample(&world, &[]).refused(&["prompts.jsonl"]);
    world.write_bytes("prompts.parquet", b"PAR1 is how it begins");
    world
        .selfplay(&["sample", "--model", "policy", "--prompts", "prompts.parquet", "--output", "out.jsonl"])
        .refused(&["prompts.parquet"]);
}

#[test]
fn an_output_that_is_there_is_kept() {
    let world = World::new();
    world.write("out.jsonl", "mine\n");
    sample(&world, &[]).refused(&["out.jsonl", "--force"]);
    assert_eq!(fs::read_to_string(world.path("out.jsonl")).unwrap(), "mine\n");
    sample(&world, &["--force"]).ok();
    world
        .selfplay(&[
            "sample",
            "--model",
            "policy",
            "--prompts",
            "prompts.jsonl",
            "--output",
            "none/out.jsonl",
        ])
        .refused(&["none"]);
    world
        .selfplay(&["sample", "--model", "policy", "--prompts", "prompts.jsonl", "--output", "out.text"])
        .refused(&["out.text", ".jsonl"]);
}

#[test]
fn parts_of_another_command_are_refused() {
    let world = World::new();
    fs::create_dir(world.path("out.jsonl.parts")).unwrap();
    world.write("out.jsonl.parts/settings.json", "{\"sample.top_p\": 0.5}");
    sample(&world, &[]).refused(&["out.jsonl.parts", "sample.top_p", "--force"]);
    sample(&world, &["--force"]).ok();
}

#[test]
fn a_model_of_the_wrong_kind_is_refused() {
    let world = World::new();
    sample(&world, &[]).ok();
    let score = |model: &str| {
        let line =
            ["score", "--preference-model", model, "--candidates", "out.jsonl", "--output", "scores.jsonl"];
        world.selfplay(&line)
    };
    let before = world.names();
    score("policy").refused(&["policy", "value_head.weight", "preference model"]);
    world.selfplay(&["run", "recipe.toml", "--set", "score.model=policy"]).refused(&["value_head.weight"]);
    unchanged(&world, &before);
    write_model(&world.path("odd"), Some(Heads { value: 3, prompt: None }));
    score("odd").refused(&["odd", "3"]);
    write_model(&world.path("gate"), Some(Heads { value: 4, prompt: Some(3) }));
    score("gate").refused(&["prompt_head.weight"]);
    assert!(!world.path("scores.jsonl").exists() && !world.path("scores.jsonl.parts").exists());
    score("judge").ok();
}

#[test]
fn a_pairs_file_of_the_wrong_kind_is_refused() {
    let world = World::new();
    let train = |more: &[&str]| {
        let line = ["train", "--model", "policy", "--pairs", "pairs.jsonl", "--output", "trained"];
        world.selfplay(&[&line[..], more].concat())
    };
    world.write("pairs.jsonl", &prompts(3));
    let before = world.names();
    train(&[]).refused(&["pairs.jsonl"]);
    world.write("pairs.jsonl", "{\"prompt_ids\": [5], \"chosen_ids\": [6, 2], \"rejected_ids\": [7, 2]}\n");
    // Ids without targets are enough for dpo, not for gpo.
    train(&[]).refused(&["chosen_score", "gpo"]);
    let outside = WORDS.len();
    world.write(
        "pairs.jsonl",
        &format!("{{\"prompt_ids\": [5], \"chosen_ids\": [{outside}], \"rejected_ids\": [7, 2]}}\n"),
    );
    train(&["--set", "train.loss=dpo"]).refused(&[&outside.to_string()]);
    train(&["--set", "train.loss=dopo"]).refused(&["train.loss", "did you mean dpo?"]);
    unchanged(&world, &before);
    world.write("pairs.jsonl", "{\"prompt_ids\": [5], \"chosen_ids\": [6, 2], \"rejected_ids\": [7, 2]}\n");
    train(&["--set", "train.loss=dpo"]).ok();
    assert!(
        world.path("trained/metrics.jsonl").is_file() && world.path("trained/policy/config.json").is_file()
    );
    assert!(!world.path("trained.parts").exists());
    train(&["--set", "train.loss=dpo"]).refused(&["trained", "--force"]);
}

#[test]
fn rows_that_do_not_belong_together_are_refused() {
    let world = World::new();
    world.write(
        "candidates.jsonl",
        "{\"prompt_id\": \"p\", \"prompt\": \"a\", \"responses\": [{\"text\": \"b\"}, {\"text\": \"c\"}]}\n",
    );
    world.write("preferences.jsonl", "{\"prompt_id\": \"q\", \"scores\": [[0]], \"probabilities\": [[0.5]], \"mean_scores\": [0], \"mean_probabilities\": [0.5]}\n");
    let line = [
        "pair",
        "--candidates",
        "candidates.jsonl",
        "--preferences",
        "preferences.jsonl",
        "--output",
        "pairs.jsonl",
    ];
    world.selfplay(&line).refused(&["\"p\""]);
    world.write("preferences.jsonl", "{\"prompt_id\": \"p\"}\n");
    world.selfplay(&line).refused(&["preferences.jsonl", "row 0"]);
    assert!(!world.path("pairs.jsonl").exists());
}

#[test]
fn a_run_folder_that_is_taken_is_left_alone() {
    let world = World::new();
    fs::create_dir_all(world.path("runs/tiny")).unwrap();
    let lock = OpenOptions::new().create(true).append(true).open(world.path("runs/tiny/run.lock")).unwrap();
    lock.try_lock().unwrap();
    let before = world.names();
    world.selfplay(&["run", "recipe.toml"]).refused(&["runs/tiny", "another selfplay process"]);
    unchanged(&world, &before);
    drop(lock);

    world.selfplay(&["run", "recipe.toml"]).ok();
    let before = world.names();
    world.selfplay(&["run", "recipe.toml"]).refused(&["finished", "selfplay show"]);
    world
        .selfplay(&["run", "recipe.toml", "--set", "train.beta=0.5"])
        .refused(&["another recipe", "train.beta"]);
    world.selfplay(&["resume", "runs/tiny", "--set", "train.beta=0.5"]).refused(&["iterations"]);
    world.selfplay(&["resume", "policy"]).refused(&["policy", "not a run folder"]);
    world.selfplay(&["run", "recipe.toml", "-o", "policy"]).refused(&["policy"]);
    world.selfplay(&["show", "nowhere"]).refused(&["nowhere"]);
    unchanged(&world, &before);
}

#[test]
fn flags_that_are_wrong_leave_with_2() {
    let world = World::new();
    for line in [
        &["sample"][..],
        &["frobnicate"],
        &["run", "recipe.toml", "--set", "nonsense"],
        &["run", "recipe.toml", "--device", "tpu"],
        &["branch", "runs/x", "-o", "y"],
    ] {
        let outcome = world.selfplay(line);
        assert_eq!(outcome.status, Some(2), "{line:?}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    }
    if !cfg!(feature = "cuda") {
        sample(&world, &["--device", "cuda:0"]).refused(&["cargo build --release --features cuda"]);
    }
    sample(&world, &["--iteration", "0"]).refused(&["--iteration 0"]);
    let version = world.selfplay(&["--version"]).ok();
    assert!(version.stdout.contains("features: cpu"), "{}", version.stdout);
    assert!(world.selfplay(&["completions", "bash"]).ok().stdout.contains("train-preference"));
}
