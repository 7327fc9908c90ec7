use std::error::Error;

use super::*;

fn stopped(signal: StopSignal) -> EngineError {
    EngineError::Stopped { signal, kept: String::new() }
}

fn full_disk() -> EngineError {
    let full = io::Error::from(io::ErrorKind::StorageFull);
    TrainError::from(WriteError::at(Path::new("runs/x/policy"), "write")(full)).into()
}

#[test]
fn statuses_are_the_contract_s() {
    let directory = PathBuf::from("runs/x");
    assert_eq!(EngineError::input("x").exit_status(), 2);
    assert_eq!(EngineError::failure("x").exit_status(), 1);
    assert_eq!(stopped(StopSignal::Interrupt).exit_status(), 130);
    assert_eq!(stopped(StopSignal::Terminate).in_run(&directory).exit_status(), 143);
    assert_eq!(EngineError::named(Path::new("a"), io::ErrorKind::NotFound.into()).exit_status(), 2);
    assert_eq!(EngineError::io(Path::new("a"), "read", io::ErrorKind::NotFound.into()).exit_status(), 1);
    assert_eq!(EngineError::InUse { directory }.exit_status(), 2);
    assert_eq!(EngineError::at_row(Path::new("a"), 3, EngineError::input("x")).exit_status(), 2);
    assert_eq!(full_disk().exit_status(), 1);
    let ended = EngineError::TrainingStopped {
        title: "iteration 1: training".into(),
        step: 3,
        kept: "go on with: selfplay resume runs/x".into(),
    }
    .in_run(Path::new("runs/x"));
    assert_eq!(ended.exit_status(), 1);
    assert!(ended.to_string().contains("resume runs/x") && !ended.to_string().contains("thread"), "{ended}");
}

#[test]
fn a_failure_in_a_run_says_how_to_go_on_and_keeps_its_sources() {
    let directory = PathBuf::from("runs/x");
    let error = EngineError::in_file(Path::new("a.jsonl"), full_disk()).in_run(&directory).in_run(&directory);
    let text = error.to_string();
    assert!(text.contains("free some space") && text.contains("selfplay resume runs/x"), "{text}");
    for once in ["resume", "cannot write", "no storage space"] {
        assert_eq!(text.matches(once).count(), 1, "{text}");
    }
    let mut source = error.source();
    while let Some(inner) = source.and_then(Error::source) {
        source = Some(inner);
    }
    let last = source.and_then(|last| last.downcast_ref::<io::Error>()).map(io::Error::kind);
    assert_eq!(last, Some(io::ErrorKind::StorageFull));
}

#[test]
fn several_problems_of_a_recipe_stand_one_a_line() {
    let mut problems = Problems::default();
    problems.value("sample.top_p", 0, "a number above 0, at most 1");
    let recipe = |problems: &Problems| {
        EngineError::Recipe { place: "a.toml".to_owned(), problems: problems.clone() }.to_string()
    };
    assert_eq!(recipe(&problems), "a.toml: sample.top_p = 0: a number above 0, at most 1");
    problems.key("train.betta", "unknown key; did you mean train.beta?");
    assert_eq!(
        recipe(&problems),
        "a.toml: 2 problems\n  sample.top_p = 0: a number above 0, at most 1\n  train.betta: unknown key; did you mean train.beta?"
    );
}
