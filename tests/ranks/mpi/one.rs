//! One process under mpirun: a run as without a launcher.

use std::process::Command;

use selfplay_testing::{Outcome, World};

use super::{has_mpirun, start};

/// One process under mpirun, with these options of mpirun's.
fn one(world: &World, options: &[&str], line: &[&str]) -> Command {
    let program = world.command(line);
    let mut command = Command::new("mpirun");
    command.args(["-n", "1"]).args(options).arg(program.get_program()).args(program.get_args());
    command.current_dir(program.get_current_dir().unwrap());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env_remove("RAYON_NUM_THREADS");
    command
}

#[test]
fn it_starts_no_mpi_and_meets_nobody() {
    if !has_mpirun() {
        return;
    }
    let world = crate::world();
    let child = start(one(&world, &[], &["run", "recipe.toml", "-o", "one", "-q"]));
    super::ended(&world, child).ok();
    assert!(!world.path("one/ranks").exists());
    let mut plain = world.command(&["run", "recipe.toml", "-o", "plain", "-q"]);
    Outcome::of(plain.env_remove("RAYON_NUM_THREADS")).ok();
    for file in ["iteration_01/pairs.parquet", "iteration_01/policy/model.safetensors", "recipe.toml"] {
        assert!(world.bytes(&format!("one/{file}")) == world.bytes(&format!("plain/{file}")), "{file}");
    }
    // A thread for each core in both: `started` tells how many compute.
    let threads = |run: &str| world.rows(&format!("{run}/events.jsonl"))[0]["threads"].clone();
    assert_eq!(threads("one"), threads("plain"), "mpirun binds a process to one core");
}

#[test]
fn a_binding_that_was_asked_for_is_kept() {
    if !has_mpirun() {
        return;
    }
    let world = crate::world();
    let asked = ["--bind-to", "core"];
    super::ended(&world, start(one(&world, &asked, &["run", "recipe.toml", "-o", "bound", "-q"]))).ok();
    let mut cores = Command::new("mpirun");
    cores.args(["-n", "1"]).args(asked).arg("nproc").env_remove("OMP_NUM_THREADS");
    cores.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let cores: usize = Outcome::of(&mut cores).ok().stdout.trim().parse().unwrap();
    assert_eq!(world.rows("bound/events.jsonl")[0]["threads"], cores);
}
