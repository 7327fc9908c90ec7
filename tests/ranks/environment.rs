//! What a launcher says that cannot be, and what cannot be done by several processes.

use selfplay_testing::{Outcome, World};

use super::{Launch, MORE, ON_FIRST};

fn with(world: &World, line: &[&str], variables: &[(&str, &str)]) -> Outcome {
    Outcome::of(world.command(line).envs(variables.iter().copied()))
}

#[test]
fn contradictions_are_refused_with_variable_and_value() {
    let world = crate::world();
    let run = ["run", "recipe.toml", "-o", "out"];
    with(&world, &run, &[("RANK", "2"), ("WORLD_SIZE", "2")]).refused(&["RANK=2", "WORLD_SIZE=2"]);
    with(&world, &run, &[("RANK", "one"), ("WORLD_SIZE", "2")]).refused(&["RANK=one", "whole number"]);
    with(&world, &run, &[("RANK", "0")]).refused(&["RANK=0", "WORLD_SIZE"]);
    let both = [("RANK", "0"), ("WORLD_SIZE", "2"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")];
    with(&world, &run, &both).refused(&["RANK=0", "PMI_RANK=1"]);
    assert!(!world.path("out").exists());
    // What only reads asks no launcher.
    with(&world, &["check", "recipe.toml"], &[("RANK", "one"), ("WORLD_SIZE", "2")]).ok();
}

#[test]
fn what_several_processes_would_write_at_once_is_refused() {
    let world = crate::world();
    let sample = selfplay_testing::world::sample("prompts.jsonl", "out.jsonl");
    let second = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
    let outcome = with(&world, &sample, &second);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    let said = ["selfplay: rank 1 (", "mpirun has started this command 2 times", "SELFPLAY_LAUNCHER=none"];
    assert!(said.iter().all(|words| outcome.stderr.contains(words)), "{}", outcome.stderr);
    let alone = [&second[..], &[("SELFPLAY_LAUNCHER", "none")]].concat();
    with(&world, &sample, &alone).ok();
    assert!(world.path("out.jsonl").is_file());
}

#[cfg(not(feature = "mpi"))]
#[test]
fn a_binary_without_mpi_says_so_before_any_work() {
    let world = crate::world();
    let outcomes = Launch::of(&world, 2, &["run", "recipe.toml", "-o", "out"]).wait();
    for outcome in &outcomes {
        assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
        for words in ["cargo build --release --features mpi", "ranks.train_on=first"] {
            assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
        }
    }
    assert!(!world.path("out").exists());
}

#[test]
fn a_folder_that_is_not_shared_is_told_with_host_names_and_leaves_nothing() {
    let world = crate::world();
    let line = [&["run", "recipe.toml", "--set", "ranks.timeout=1"], &ON_FIRST[..]].concat();
    let outcomes = Launch::start(&world, 2, &line, |rank, command| {
        command.args(["-o", ["here/out", "there/out"][rank]]);
    })
    .wait();
    assert_eq!(outcomes[0].status, Some(1), "{}", outcomes[0].stderr);
    assert_eq!(outcomes[1].status, Some(2), "{}", outcomes[1].stderr);
    assert!(outcomes[0].stderr.contains("1 did not come within 1 s"), "{}", outcomes[0].stderr);
    assert!(outcomes[1].stderr.contains("saw no token of rank 0"), "{}", outcomes[1].stderr);
    for outcome in &outcomes {
        assert!(
            outcome.stderr.contains("share") && outcome.stderr.contains("out/ranks"),
            "{}",
            outcome.stderr
        );
    }
    assert!(!world.path("here/out").exists() && !world.path("there").exists());
}

#[test]
fn a_rank_with_another_recipe_ends_the_launch_and_is_named() {
    let world = crate::run_world();
    let line = [&["run", "recipe.toml", "-o", "out", "-q"], &MORE[..], &ON_FIRST].concat();
    let outcomes = Launch::start(&world, 3, &line, |rank, command| {
        if rank == 1 {
            command.args(["--set", "train.beta=0.5"]);
        }
    })
    .wait();
    let statuses: Vec<Option<i32>> = outcomes.iter().map(|outcome| outcome.status).collect();
    assert_eq!(statuses, [Some(2); 3], "{outcomes:?}");
    assert!(outcomes[1].stderr.contains("train.beta (0.1 here, 0.5 given)"), "{}", outcomes[1].stderr);
    assert!(outcomes[0].stderr.contains("rank 1 (") && outcomes[0].stderr.contains("train.beta"));
    assert_eq!(outcomes[2].stderr, "", "rank 0 has said it");
}

#[test]
fn a_chain_is_one_process_s_work() {
    let world = crate::world();
    world.write(
        "chain.toml",
        "name = \"c\"\n[[chain]]\nname = \"s\"\ncommand = \"sft\"\npolicy.model = \"policy\"\nsft.data = \"prompts.jsonl\"\n",
    );
    let outcomes = Launch::of(&world, 2, &["run", "chain.toml", "-o", "out"]).wait();
    for outcome in outcomes {
        assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("a chain is one process's work"), "{}", outcome.stderr);
    }
}

/// The ranks meet in a folder of the run's, and empty it first.
#[test]
fn a_user_s_folder_of_the_meeting_place_s_name_is_left_as_it_is() {
    let world = crate::run_world();
    std::fs::create_dir_all(world.path("mine/ranks/sub")).unwrap();
    world.write("mine/ranks/data.csv", "mine");
    world.write("mine/ranks/sub/data.csv", "mine");
    for rank in ["0", "1"] {
        let line = ["run", "recipe.toml", "-o", "mine", "--set", "ranks.train_on=first"];
        with(&world, &line, &[("RANK", rank), ("WORLD_SIZE", "2")]).refused(&["mine/ranks", "no launch"]);
    }
    for name in ["ranks/data.csv", "ranks/sub/data.csv"] {
        assert_eq!(world.bytes(&format!("mine/{name}")), b"mine");
    }
}
