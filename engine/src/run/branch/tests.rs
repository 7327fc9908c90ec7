//! Branching a synthetic run folder: what is shared, what is the branch's own, what is refused.

use std::os::unix::fs::MetadataExt;

use selfplay_records::ExampleKind;

use super::*;
use crate::recipe::{Override, Purpose, load_text};
use crate::run::dir::shard_name;
use crate::run::manifest::Environment;

fn recipe(sets: &[&str]) -> Recipe {
    let text = "name = \"x\"\niterations = 2\n[policy]\nmodel = \"/p\"\n[prompts]\nsplits = [\"/a.jsonl\", \"/b.jsonl\"]\n\
                [score]\nmodel = \"/s\"\n";
    let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
    load_text(text, "test", None, "x", &overrides, Purpose::Reread).unwrap()
}

/// Iteration 1 finished, iteration 2 scored but for its last shard's preferences.
fn source(folder: &Path) -> (RunDir, Manifest) {
    let run = RunDir::new(folder);
    let write = |path: &Path| {
        make_folder(path.parent().unwrap()).unwrap();
        atomic::write_bytes(path, path.to_string_lossy().as_bytes()).unwrap();
    };
    write(&run.start().samples_file());
    write(&run.start().result_file());
    for number in [1, 2] {
        let iteration = run.iteration(number);
        (0..2).for_each(|shard| write(&iteration.candidates_shard(shard)));
        write(&iteration.preferences().join(shard_name(0)));
        write(&iteration.candidates().join(".00009.parquet.tmp-1"));
    }
    let first = run.iteration(1);
    for path in [
        first.preferences().join(shard_name(1)),
        first.rows_file(ExampleKind::Pairs),
        first.train().join("metrics.jsonl"),
        first.policy().join("config.json"),
        first.evaluation().samples_file(),
        first.evaluation().result_file(),
        first.summary_file(),
    ] {
        write(&path);
    }
    let events = events::Events::open(&run.events_file()).unwrap();
    for iteration in [1, 2] {
        events.record(Event::Sampled { iteration, shard: 0, prompts: 1, tokens: 1, seconds: 2.0 }).unwrap();
        events.record(Event::Evaluated { iteration, seconds: 3.0 }).unwrap();
    }
    let mut manifest = Manifest::new(&recipe(&[]).to_table(), 42, Environment::here("cpu"));
    manifest.prompts = vec![8, 8];
    manifest.skipped_prompts = vec![0, 0];
    manifest.shard_prompts = 4;
    manifest.finish(1);
    manifest.write(&run.manifest_file()).unwrap();
    (run, manifest)
}

fn point(text: &str) -> BranchPoint {
    text.parse().unwrap()
}

fn same_file(a: &Path, b: &Path) -> bool {
    a.metadata().unwrap().ino() == b.metadata().unwrap().ino()
}

#[test]
fn candidates_are_linked_and_the_rest_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (run, manifest) = source(&folder.path().join("a"));
    let from = point("iteration_02/candidates");
    check_finished(&run, &manifest, from).unwrap();
    let target = folder.path().join("deep/b");
    let changed = vec!["score.model".to_owned()];
    let sharing = make(&run, &manifest, &recipe(&["score.model=/other"]), from, &changed, &target).unwrap();
    assert_eq!(sharing.copied, 0);
    assert!(sharing.linked >= 12, "{sharing:?}");
    let branch = RunDir::new(&target);
    let (there, here) = (run.iteration(2), branch.iteration(2));
    assert!(same_file(&there.candidates_shard(1), &here.candidates_shard(1)));
    assert!(same_file(
        &run.iteration(1).policy().join("config.json"),
        &branch.iteration(1).policy().join("config.json")
    ));
    assert!(!here.preferences().join(shard_name(0)).exists());
    assert!(!here.candidates().join(".00009.parquet.tmp-1").exists());
    let written = Manifest::read(&branch.manifest_file()).unwrap();
    assert_eq!(written.finished, [1]);
    assert_eq!(written.branched_from.unwrap().from, from);
    assert_eq!(written.recipe["score.model"], "/other");
    let lines = events::read(&branch.events_file());
    assert_eq!(events::seconds_of(&lines, 1), 5.0);
    assert_eq!(events::seconds_of(&lines, 2), 2.0);
    // The branch's log is its own.
    assert!(!same_file(&run.events_file(), &branch.events_file()));
}

#[test]
fn an_unfinished_stage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (run, manifest) = source(&folder.path().join("a"));
    for (text, what) in [
        ("iteration_02/preferences", "iteration_02/preferences"),
        ("iteration_02/pairs", "iteration_02/preferences"),
        ("iteration_03/candidates", "iteration_03"),
    ] {
        let error = check_finished(&run, &manifest, point(text)).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains(what), "{error}");
    }
    check_finished(&run, &manifest, point("iteration_01/pairs")).unwrap();
}

#[test]
fn keys_of_shared_stages_are_named() {
    let keys = [
        "score.model",
        "pair.margin",
        "train.beta",
        "sample.top_p",
        "seed",
        "eval.temperature",
        "iterations",
        "name",
    ]
    .map(str::to_owned);
    assert_eq!(shared_keys(&keys, point("iteration_01/candidates")), ["sample.top_p", "seed"]);
    assert_eq!(
        shared_keys(&keys, point("iteration_01/preferences")),
        ["score.model", "sample.top_p", "seed"]
    );
    let all = shared_keys(&keys, point("iteration_01/pairs"));
    assert_eq!(all, ["score.model", "pair.margin", "sample.top_p", "seed"]);
}

#[test]
fn other_eval_keys_measure_the_shared_policies_again() {
    let folder = tempfile::tempdir().unwrap();
    let (run, manifest) = source(&folder.path().join("a"));
    let target = folder.path().join("b");
    let changed = vec!["eval.temperature".to_owned()];
    make(
        &run,
        &manifest,
        &recipe(&["eval.temperature=1"]),
        point("iteration_02/candidates"),
        &changed,
        &target,
    )
    .unwrap();
    let branch = RunDir::new(&target);
    assert!(branch.iteration(1).policy().is_dir());
    assert!(!branch.iteration(1).summary_file().exists() && !branch.start().is_done());
    assert!(Manifest::read(&branch.manifest_file()).unwrap().finished.is_empty());
}

#[test]
fn a_target_that_is_there_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (run, manifest) = source(&folder.path().join("a"));
    let target = folder.path().join("b");
    make_folder(&target).unwrap();
    let error = make(&run, &manifest, &recipe(&[]), point("iteration_01/pairs"), &[], &target).unwrap_err();
    assert!(error.to_string().contains("b"), "{error}");
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
}
