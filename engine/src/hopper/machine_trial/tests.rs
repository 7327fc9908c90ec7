use std::path::Path;
use std::thread;

use selfplay_records::atomic;

use super::super::trial_cache::key_of;
use super::super::trial_process::stand_in;
use super::super::verdict::verdict_of_speeds;
use super::*;

/// A machine whose cache is in a folder and whose trial is a script, which notes in `count` that it ran.
fn machine(folder: &Path, cache: &Path, script: &str) -> MachineTrial {
    let script = format!("echo once >> {}; {script}", folder.join("count").display());
    MachineTrial {
        key: key_of("NVIDIA H200"),
        cache: TrialCache { folders: vec![cache.to_path_buf()] },
        lock: folder.join("lock"),
        patience: Duration::from_secs(60),
        process: stand_in(&script, Duration::from_secs(20)),
        device: "cuda:0".to_owned(),
        // Not the process's: other tests raise that.
        stop: || Ok(StopFlag::default()),
    }
}

/// A script that ends with a verdict by which products alone are taken.
fn products() -> String {
    let fast =
        |kernel: selfplay_model::gpu::HopperKernel| if kernel.head_dim().is_none() { 1.3 } else { 0.9 };
    format!("sleep 0.1; echo '{}'", serde_json::to_string(&verdict_of_speeds(fast)).unwrap())
}

fn trials(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("count")).unwrap_or_default().lines().count()
}

fn taken(machine: &MachineTrial) -> String {
    machine.taken(&mut || Ok(())).unwrap().to_string()
}

/// Eight ranks of one machine: one tries, the others take what it has found.
#[test]
fn of_many_processes_one_tries() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine(folder.path(), &folder.path().join("cache"), &products());
    let found: Vec<String> = thread::scope(|scope| {
        let ranks: Vec<_> = (0..8).map(|_| scope.spawn(|| taken(&machine))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(found.iter().all(|found| found == "products"), "{found:?}");
    assert_eq!(trials(folder.path()), 1);
    // Another process later on tries no more, until it is told to.
    assert_eq!((taken(&machine), trials(folder.path())), ("products".to_owned(), 1));
    assert!(matches!(machine.made_anew().unwrap(), TrialOutcome::Verdict(_)));
    assert_eq!(trials(folder.path()), 2);
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_trial_each_time_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    atomic::write_bytes(&file, b"mine").unwrap();
    let mut machine = machine(folder.path(), &file.join("cache"), &products());
    for count in 1..3 {
        assert_eq!((taken(&machine), trials(folder.path())), ("products".to_owned(), count));
    }
    // Ranks have a place of their own beside it.
    machine.cache.folders.push(folder.path().join("ranks"));
    for _ in 0..2 {
        assert_eq!((taken(&machine), trials(folder.path())), ("products".to_owned(), 3));
    }
}

/// Whatever a trial ends with but a verdict is none, and is not tried again at once.
#[test]
fn a_trial_that_fails_takes_nothing_and_is_kept() {
    for script in ["echo garbage", "exit 1", "kill -ABRT $$"] {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path(), &folder.path().join("cache"), script);
        for _ in 0..2 {
            assert_eq!((taken(&machine), trials(folder.path())), ("none".to_owned(), 1), "{script}");
        }
        assert!(matches!(machine.kept().unwrap().outcome, TrialOutcome::Failed(_)));
    }
}

#[test]
fn nobody_waits_for_ever_and_a_stop_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine(folder.path(), &folder.path().join("cache"), &products());
    machine.patience = Duration::from_millis(100);
    let held = crate::process::file_lock::FileLock::take(&machine.lock).unwrap().unwrap();
    assert_eq!(taken(&machine), "none");
    assert!(machine.kept().is_none(), "another's trial may still end well");
    drop(held);
    assert!(machine.taken(&mut || Err(EngineError::failure("stop"))).is_err());
    assert!(machine.kept().is_none());
    assert_eq!(taken(&machine), "products");
}
