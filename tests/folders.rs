//! What commands delete, follow, check and print: the real binary beside files of others, in damaged folders, with logs
//! that cannot be written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use selfplay_records::atomic;

use crate::fixtures::World;
use crate::fixtures_run::{Workshop, assert_same_results, error_text};

/// `selfplay sample` with few short shards.
const SAMPLE: [&str; 9] = [
    "sample",
    "--model",
    "policy",
    "--prompts",
    "prompts.jsonl",
    "--set",
    "sample.max_new_tokens=3",
    "--set",
    "sample.shard_prompts=2",
];

fn train<'a>(model: &'a str, output: &'a str) -> Vec<&'a str> {
    let line = ["train", "--model", model, "--pairs", "pairs.jsonl", "--output", output];
    [&line[..], &["-q", "--set", "train.loss=dpo", "--set", "train.max_steps=1"]].concat()
}

/// A world with a pair to train on.
fn world_with_pairs() -> World {
    let world = World::new();
    world.write("pairs.jsonl", "{\"prompt\":\"a b\",\"chosen\":\"c\",\"rejected\":\"d\"}\n");
    world
}

#[allow(clippy::disallowed_methods)] // A user moves files about as users do.
fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = (bytes.len() / 2) | 3;
    bytes[middle] ^= 0x40;
    atomic::write_bytes(path, &bytes).unwrap();
}

#[test]
fn force_leaves_a_folder_of_others_alone() {
    let world = world_with_pairs();
    for name in ["work/notes.txt", "work/older_run/policy.bin", "work/pairs.jsonl"] {
        let path = world.path(name);
        atomic::create_dir_all(path.parent().unwrap()).unwrap();
        world.write(name, "mine");
    }
    let before = world.names();
    let command = [train("policy", "work"), vec!["--force"]].concat();
    world.selfplay(&command).refused(&["--output work", "--force"]);
    assert_eq!(world.names(), before);
    // What a training wrote is replaced.
    world.selfplay(&train("policy", "trained")).ok();
    world.selfplay(&[train("policy", "trained"), vec!["--force"]].concat()).ok();
    world.write("trained/policy/notes.txt", "mine");
    world.selfplay(&[train("policy", "trained"), vec!["--force"]].concat()).refused(&["policy/notes.txt"]);
}

#[test]
fn a_parts_folder_of_others_is_left_alone() {
    let world = World::new();
    let sample = [&SAMPLE[..], &["--output", "a.jsonl", "--force"]].concat();
    atomic::create_dir_all(&world.path("a.jsonl.parts/thesis")).unwrap();
    world.write("a.jsonl.parts/thesis/chapter1", "mine");
    let before = world.names();
    world.selfplay(&sample).refused(&["a.jsonl.parts", "is not selfplay's", "thesis"]);
    assert_eq!(world.names(), before);
    rename(&world.path("a.jsonl.parts"), &world.path("mine"));
    symlink("mine", world.path("a.jsonl.parts")).unwrap();
    world.selfplay(&sample).refused(&["a.jsonl.parts", "a link"]);
    assert!(world.path("mine/thesis/chapter1").exists());
}

#[test]
fn a_recipe_of_the_user_s_is_not_replaced_by_a_run_s() {
    let workshop = Workshop::new();
    let folder = workshop.path("mine");
    atomic::create_dir_all(&folder).unwrap();
    let before = fs::read(workshop.recipe()).unwrap();
    atomic::write_bytes(&folder.join("recipe.toml"), &before).unwrap();
    workshop.fail(&["run", "mine/recipe.toml", "-o", "mine"], 2, &["mine", "not empty"]);
    assert_eq!(fs::read(folder.join("recipe.toml")).unwrap(), before);
}

#[test]
fn temporaries_of_killed_commands_go_with_the_next() {
    let world = World::new();
    world.write("in.jsonl", &"{\"text\":\"a\"}\n".repeat(3000));
    let tokenize = ["tokenize", "--model", "policy", "--input", "in.jsonl", "--output", "o.jsonl"];
    let temporaries = || world.names().into_iter().filter(|name| name.contains(".tmp-")).count();
    for _ in 0..2 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_selfplay"));
        command.args(tokenize).current_dir(world.path(".")).env("SELFPLAY_FAULT", "kill:3");
        assert_eq!(command.output().unwrap().status.code(), None);
        assert_eq!(temporaries(), 1);
    }
    world.selfplay(&tokenize).ok();
    assert_eq!(temporaries(), 0);
}

#[test]
fn links_out_of_a_model_s_folder_are_refused() {
    let world = world_with_pairs();
    world.write("id_rsa", "private");
    for name in ["merges.txt", "chat_template.json", "special_tokens_map.json"] {
        symlink("../id_rsa", world.path("policy").join(name)).unwrap();
        world.selfplay(&train("policy", "t")).refused(&[name, "leaves the model's folder"]);
        let tokenize = ["tokenize", "--model", "policy", "--input", "pairs.jsonl", "--output", "o.jsonl"];
        world.selfplay(&tokenize).refused(&["o.jsonl"; 0]);
        fs::remove_file(world.path("policy").join(name)).unwrap();
    }
    assert!(!world.path("t").exists() && !world.path("t.parts").exists());
}

/// A run that was killed while it trained, with a checkpoint.
fn killed_in_training(workshop: &Workshop) -> PathBuf {
    let recipe = workshop.recipe().display().to_string();
    let more = ["--set", "train.checkpoint_every=1", "-q"];
    for operation in (40..400).step_by(3) {
        let run = workshop.path("killed");
        let _ = fs::remove_dir_all(&run);
        let line = [&["run", &recipe, "-o", "killed"][..], &more[..]].concat();
        let output =
            workshop.command(&line).env("SELFPLAY_FAULT", format!("kill:{operation}")).output().unwrap();
        assert_eq!(output.status.code(), None, "the run ended before it trained");
        let train = run.join("iteration_01/train");
        let checkpoint = fs::read_dir(&train).into_iter().flatten().flatten().map(|entry| entry.path());
        if checkpoint.into_iter().any(|path| path.file_name().unwrap().to_string_lossy().starts_with("step_"))
        {
            return run;
        }
    }
    panic!("no checkpoint was written");
}

fn checkpoint_file(run: &Path, name: &str) -> PathBuf {
    let steps = fs::read_dir(run.join("iteration_01/train")).unwrap().map(|entry| entry.unwrap().path());
    let step =
        steps.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("step_")).max().unwrap();
    step.join(name)
}

#[test]
fn a_flipped_bit_is_named() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    workshop.succeed(&["run", &recipe, "-o", "whole", "-q", "--set", "train.checkpoint_every=1"]);
    let run = killed_in_training(&workshop);
    for name in ["weights.safetensors", "optimizer.safetensors"] {
        let path = checkpoint_file(&run, name);
        let whole = fs::read(&path).unwrap();
        flip(&path);
        workshop.fail(&["resume", "killed", "-q"], 1, &["step_", name, "damaged", "remove this folder"]);
        atomic::write_bytes(&path, &whole).unwrap();
    }
    let pairs = run.join("iteration_01/pairs.parquet");
    let whole = fs::read(&pairs).unwrap();
    flip(&pairs);
    workshop.fail(&["resume", "killed", "-q"], 2, &["pairs.parquet", "damaged"]);
    atomic::write_bytes(&pairs, &whole).unwrap();
    workshop.succeed(&["resume", "killed", "-q"]);
    assert_same_results(&workshop.path("whole"), &run);

    // The policy that the next iteration starts from.
    workshop.succeed(&["run", &recipe, "-o", "short", "-q", "--set", "iterations=1"]);
    flip(&workshop.path("short/iteration_01/policy/model.safetensors"));
    workshop.fail(
        &["resume", "short", "-q", "--set", "iterations=2"],
        2,
        &["iteration_01/policy/model.safetensors", "damaged"],
    );
}

#[test]
fn a_run_s_own_files_are_no_links() {
    let workshop = Workshop::new();
    let run = killed_in_training(&workshop);
    let diary = workshop.path("diary.txt");
    atomic::write_bytes(&diary, b"line 1\nlast line without an end").unwrap();
    for name in
        ["events.jsonl", "iteration_01/train/metrics.jsonl", "manifest.json", "iteration_01/summary.json"]
    {
        let path = run.join(name);
        let kept = path.exists().then(|| fs::read(&path).unwrap());
        let _ = fs::remove_file(&path);
        symlink(&diary, &path).unwrap();
        workshop.fail(&["resume", "killed", "-q"], 2, &[name, "is a link"]);
        workshop.fail(
            &["branch", "killed", "--from", "iteration_01/pairs", "-o", "b"],
            2,
            &[name, "is a link"],
        );
        fs::remove_file(&path).unwrap();
        if let Some(bytes) = kept {
            atomic::write_bytes(&path, &bytes).unwrap();
        }
    }
    assert_eq!(fs::read(&diary).unwrap(), b"line 1\nlast line without an end");
    workshop.succeed(&["resume", "killed", "-q"]);
}

#[test]
fn a_resume_compares_every_input() {
    let workshop = Workshop::new();
    killed_in_training(&workshop);
    let refused = |words: &[&str]| workshop.fail(&["resume", "killed", "-q"], 2, words);
    let (one, other, aside) =
        (workshop.path("split_0.jsonl"), workshop.path("split_1.jsonl"), workshop.path("x"));
    let swap = || {
        rename(&one, &aside);
        rename(&other, &one);
        rename(&aside, &other);
    };
    swap();
    refused(&["split_0.jsonl", "has changed"]);
    swap();
    for (name, text) in [
        ("chat_template.jinja", "{{ messages[0].content }}"),
        ("generation_config.json", "{\"eos_token_id\":[3]}"),
    ] {
        let path = workshop.path("policy").join(name);
        let kept = path.exists().then(|| fs::read(&path).unwrap());
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        refused(&[name]);
        fs::remove_file(&path).unwrap();
        if let Some(bytes) = kept {
            atomic::write_bytes(&path, &bytes).unwrap();
        }
    }
    workshop.succeed(&["resume", "killed", "-q"]);
}

/// The binary with its standard streams on a full disk.
fn on_full_disk(workshop: &Workshop, line: &[&str], stdout: bool, stderr: bool) -> Output {
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = workshop.command(line);
    command.stdout(if stdout { full() } else { Stdio::piped() });
    command.stderr(if stderr { full() } else { Stdio::piped() });
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_is_not_the_work() {
    let workshop = Workshop::new();
    let recipe = workshop.recipe().display().to_string();
    let run = |name: &'static str| vec!["run".to_owned(), recipe.clone(), "-o".to_owned(), name.to_owned()];
    let words = |line: &[String]| line.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    // Full, then nobody who reads, then closed.
    let output =
        on_full_disk(&workshop, &run("a").iter().map(String::as_str).collect::<Vec<_>>(), true, true);
    assert_eq!(output.status.code(), Some(0));
    let mut child = workshop
        .command(&run("b").iter().map(String::as_str).collect::<Vec<_>>())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let shell = |line: &str| {
        let line = format!("\"$BIN\" {line}");
        std::process::Command::new("sh")
            .args(["-c", &line])
            .env("BIN", env!("CARGO_BIN_EXE_selfplay"))
            .current_dir(workshop.path("."))
            .output()
            .unwrap()
    };
    let closed = shell(&format!("{} >&- 2>&-", words(&run("c"))));
    assert_eq!(closed.status.code(), Some(0));
    for name in ["b", "c"] {
        assert_same_results(&workshop.path("a"), &workshop.path(name));
    }

    // A result that was asked for and cannot be written.
    for line in [&["show", "a", "--json"][..], &["show", "a"], &["compare", "a", "b", "--json"]] {
        let output = on_full_disk(&workshop, line, true, false);
        assert_eq!(output.status.code(), Some(1), "{line:?}: {}", error_text(&output));
        assert!(error_text(&output).contains("standard output"), "{}", error_text(&output));
    }
    let closed = shell("show a --json >&-");
    assert_eq!(closed.status.code(), Some(1), "{}", error_text(&closed));
    let text = String::from_utf8(shell("show a").stdout).unwrap()
        + &String::from_utf8(shell("compare a b").stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn control_characters_of_files_are_shown() {
    let world = World::new();
    world.write("in.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n");
    let refuses = "{{ raise_exception('\u{1b}]0;owned\u{7}\u{1b}[2J and\\nselfplay: all good') }}";
    world.write("t.jinja", refuses);
    let tokenize = ["tokenize", "--model", "policy", "--input", "in.jsonl", "--output", "o.jsonl"];
    let with_template = [&tokenize[..], &["--chat-template", "t.jinja"]].concat();
    let told = world.selfplay(&with_template).refused(&["t.jinja", "\\u001b]0;owned\\u0007"]);
    assert!(!told.stderr.contains('\u{1b}') && told.stderr.lines().count() == 1, "{}", told.stderr);
    world.write("t.jinja", "{{ raise_exception('a' * 6000000) }}");
    let told = world.selfplay(&with_template).refused(&["t.jinja"]);
    assert!(told.stderr.len() < 2000, "{}", told.stderr.len());
    let recipe = world.recipe();
    let named = recipe
        .lines()
        .map(|line| if line.starts_with("name") { "name = \"x\\u001b]0;owned\\u0007\\ny\"" } else { line })
        .collect::<Vec<_>>()
        .join("\n");
    world.write("named.toml", &named);
    let told = world.selfplay(&["check", "named.toml"]).refused(&["name", "control characters"]);
    assert!(!told.stderr.contains('\u{1b}'), "{}", told.stderr);
}

#[test]
fn messages_say_what_is_there_and_what_would_be_right() {
    let world = world_with_pairs();
    let sample = |prompts: &str, words: &[&str]| {
        let line = ["sample", "--model", "policy", "--prompts", prompts, "--output", "o.jsonl"];
        world.selfplay(&line).refused(words);
    };
    world.write("pretty.json", "{\n  \"data\": [\n    {\"prompt\": \"a\"}\n  ]\n}\n");
    sample("pretty.json", &["one JSON object", "\"data\" holds an array"]);
    world.write("half.jsonl", "{\"prompt\":\"x \\ud83d y\"}\n");
    sample("half.jsonl", &["row 0", "half of a character"]);
    world.write("real.jsonl", "{\"prompt_ids\":[1,2.0]}\n");
    sample("real.jsonl", &["prompt_ids[1]", "found 2.0"]);
    world.write("ids.jsonl", "{\"prompt\":\"a\"}\n{\"prompt_id\":0,\"prompt\":\"b\"}\n");
    sample("ids.jsonl", &["row 1", "row 0 has no prompt_id"]);
    world.write("null.jsonl", "{\"prompt\":null,\"chosen\":\"a\",\"rejected\":\"b\"}\n");
    let nulls = ["train", "--model", "policy", "--pairs", "null.jsonl", "--output", "o"];
    world.selfplay(&nulls).refused(&["prompt (null)", "chosen (a string)"]);
    atomic::create_dir_all(&world.path("real")).unwrap();
    symlink("real", world.path("link")).unwrap();
    world
        .selfplay(&[train("policy", "link"), vec!["--force"]].concat())
        .refused(&["--output link", "is a link"]);
    rename(&world.path("policy/model.safetensors"), &world.path("policy/adapter_model.safetensors"));
    sample("prompts.jsonl", &["LoRA adapter", "merge"]);
}
