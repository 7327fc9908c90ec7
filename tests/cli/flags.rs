//! Flags that are wrong, and what is printed without any work.

use crate::stages::sample;

#[test]
fn flags_that_are_wrong_leave_with_2() {
    let world = crate::world();
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
    // Where no recipe is read, a key would change nothing.
    for line in [&["bench", "train"][..], &["show", "out"], &["schema"]] {
        world.selfplay(&[line, &["--set", "train.recompute=true"]].concat()).refused(&["--set", "no recipe"]);
    }
    sample(&world, &["--iteration", "0"]).refused(&["--iteration 0"]);
    let version = world.selfplay(&["--version"]).ok();
    assert!(version.stdout.contains("features: cpu"), "{}", version.stdout);
}
