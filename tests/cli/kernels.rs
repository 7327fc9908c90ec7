//! Kernels for Hopper, where there is no GPU: nothing is tried and nothing is kept.

use selfplay_testing::Outcome;

/// Neither a cache nor a lock nor a word in the manifest, whatever the variable says.
#[test]
fn a_run_on_a_processor_tries_no_kernels() {
    let world = crate::world();
    for folder in ["cache", "temporary"] {
        selfplay_records::atomic::create_dir_all(&world.path(folder)).unwrap();
    }
    for (name, says) in [("plain", ""), ("named", "nonsense")] {
        let mut command = world.command(&["run", "recipe.toml", "-o", name]);
        command.env("XDG_CACHE_HOME", world.path("cache")).env("TMPDIR", world.path("temporary"));
        let outcome = Outcome::of(command.env("SELFPLAY_HOPPER", says)).ok();
        assert!(!outcome.stderr.contains("Hopper"), "{}", outcome.stderr);
        let manifest = world.json(&format!("{name}/manifest.json"));
        assert!(manifest.get("hopper_kernels").is_none(), "{manifest}");
    }
    for folder in ["cache", "temporary"] {
        assert_eq!(std::fs::read_dir(world.path(folder)).unwrap().count(), 0, "{folder}");
    }
}

/// The process that tries is this program with a flag that its help does not name.
#[test]
fn a_processor_has_none_to_try() {
    let world = crate::world();
    world.selfplay(&["doctor", "--kernel-trial"]).refused(&["--kernel-trial", "--device cuda:N"]);
    let help = world.selfplay(&["doctor", "--help"]).ok().stdout;
    assert!(help.contains("--try-kernels") && !help.contains("--kernel-trial"), "{help}");
    if !cfg!(feature = "cuda") {
        let line = ["--device", "cuda:0", "doctor", "--kernel-trial"];
        world.selfplay(&line).refused(&["without CUDA"]);
        let report = world.selfplay(&["doctor", "--json"]).ok().stdout;
        assert!(!report.contains("\"kernels\""), "{report}");
        let asked = world.selfplay(&["doctor", "--try-kernels"]).ok().stdout;
        assert!(asked.contains("none for compute capability 9.0 to try"), "{asked}");
    }
}
