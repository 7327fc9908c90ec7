//! A chain from its first link to its last, and what `show`, `check` and `plan` tell of it.

use serde_json::Value;

use super::{CHAIN, world};

#[test]
fn each_link_works_on_what_earlier_links_have_made() {
    let world = world();
    let outcome = world.selfplay(&["run", "chain.toml"]).ok();
    // One table at the end, of all links.
    assert!(outcome.stdout.starts_with("tiny-chain (runs/tiny-chain): finished\n"), "{}", outcome.stdout);
    for link in ["sft", "judge", "dpo", "whole", "play"] {
        assert!(outcome.stdout.lines().any(|line| line.starts_with(link)), "{}", outcome.stdout);
    }
    for place in [
        "sft/policy",
        "judge/preference_model",
        "dpo/adapter",
        "whole/config.json",
        "play/iteration_01/policy",
    ] {
        assert!(world.path("runs/tiny-chain").join(place).exists(), "{place}");
    }
    assert!(!world.names().iter().any(|name| name.contains(".parts")), "{:?}", world.names());
    assert!(!world.path("runs/tiny-chain/dpo/policy").exists(), "merge = \"never\"");

    // The same, each link by its own command, as its recipe in the chain's folder says.
    let parts = |link: &str| format!("runs/tiny-chain/{link}.toml");
    world.selfplay(&["sft", "--recipe", &parts("sft"), "--output", "sft"]).ok();
    let train = ["train", "--recipe", &parts("dpo"), "--output", "dpo"];
    world.selfplay(&train).ok();
    for file in ["sft/policy/model.safetensors", "dpo/adapter/adapter_model.safetensors"] {
        assert_eq!(world.bytes(file), world.bytes(&format!("runs/tiny-chain/{file}")), "{file}");
    }

    let shown: Value =
        serde_json::from_str(&world.selfplay(&["show", "runs/tiny-chain", "--json"]).ok().stdout).unwrap();
    assert_eq!((&shown["name"], &shown["finished"]), (&"tiny-chain".into(), &true.into()));
    let links = shown["links"].as_array().unwrap();
    let names: Vec<&str> = links.iter().map(|link| link["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["sft", "judge", "dpo", "whole", "play"]);
    assert_eq!(links[0]["steps"], 3);
    assert!(links[0]["loss_first"].as_f64().unwrap() > 0.0 && links[0]["output"].is_string());
    assert!(links[1]["accuracy"].is_number() && links[3]["steps"].is_null());
    assert_eq!(links[4]["run"]["iterations"].as_array().unwrap().len(), 1);
    // A run's own folder is a run's like any other.
    world.selfplay(&["show", "runs/tiny-chain/play"]).ok();

    // What is finished is not begun again.
    world.selfplay(&["run", "chain.toml"]).refused(&["is finished", "selfplay show runs/tiny-chain"]);
    let again = world.selfplay(&["resume", "runs/tiny-chain"]).ok();
    assert!(again.stderr.contains("nothing is left to do"), "{}", again.stderr);
    world
        .selfplay(&["run", "chain.toml", "--set", "chain.sft.sft.batch_size=5"])
        .refused(&["another chain", "chain.sft.sft.batch_size (4 here, 5 given)"]);

    // The recipe as kept is the recipe: every default written out, and @NAME as it was.
    let kept = String::from_utf8(world.bytes("runs/tiny-chain/recipe.toml")).unwrap();
    assert!(kept.contains("model = \"@sft\"") && kept.contains("rmsprop_alpha"), "{kept}");
    world
        .selfplay(&["run", "runs/tiny-chain/recipe.toml", "-o", "runs/tiny-chain"])
        .refused(&["is finished"]);
}

#[test]
fn a_run_at_the_end_goes_further() {
    let world = world();
    world.write(
        "chain.toml",
        &CHAIN.replace("splits = [\"prompts.jsonl\"]", "splits = [\"prompts.jsonl\", \"prompts.jsonl\"]"),
    );
    world.selfplay(&["run", "chain.toml", "-o", "chain", "-q"]).ok();
    world
        .selfplay(&["resume", "chain", "--set", "chain.sft.seed=8"])
        .refused(&["chain.NAME.iterations", "chain.sft.seed"]);
    world.selfplay(&["resume", "chain", "-q", "--set", "chain.play.iterations=2"]).ok();
    assert!(world.path("chain/play/iteration_02/policy").is_dir());
    // The place of the folder is not part of it.
    crate::files::rename(&world.path("chain"), &world.path("moved"));
    let again = world.selfplay(&["resume", "moved"]).ok();
    assert!(again.stderr.contains("nothing is left"), "{}", again.stderr);
    // But a link in work has files that name it.
    std::fs::remove_dir_all(world.path("moved/whole")).unwrap();
    std::fs::create_dir(world.path("moved/whole.parts")).unwrap();
    crate::files::rename(&world.path("moved"), &world.path("again"));
    world.selfplay(&["resume", "again"]).refused(&[
        "was moved from",
        "moved while its link whole was in work",
        "remove again/whole.parts",
    ]);
}

#[test]
fn what_a_run_has_written_is_a_later_link_s_data() {
    let world = world();
    let (_, run) = CHAIN.split_once("[[chain]]\nname = \"play\"").unwrap();
    let run = run
        .replace("@whole", "policy")
        .replace("@judge", "preference_model")
        .replace("splits = [\"prompts.jsonl\"]", "splits = [\"prompts.jsonl\", \"prompts.jsonl\"]");
    let train = "[[chain]]\nname = \"dpo\"\ncommand = \"train\"\n[chain.policy]\nmodel = \"@play\"\n\
                 [chain.train]\ndata = [\"@play/iteration_01/pairs.parquet\"]\nloss = \"dpo\"\nmax_length = 48\n\
                 max_prompt_length = 24\n";
    world.write("chain.toml", &format!("[[chain]]\nname = \"play\"{run}{train}"));
    world.selfplay(&["check", "chain.toml"]).ok();
    // The name is the file's.
    world.selfplay(&["run", "chain.toml", "-q"]).ok();
    let data = world.json("runs/chain/dpo/data.json");
    assert!(data[0]["examples"].as_u64().unwrap() > 0, "{data}");
    // What has begun on one iteration's policy would not go with two.
    world
        .selfplay(&["resume", "runs/chain", "--set", "chain.play.iterations=2"])
        .refused(&["chain.play.iterations = 2", "the later link dpo has begun"]);
}

#[test]
fn check_and_plan_read_every_link() {
    let world = world();
    let outcome = world.selfplay(&["check", "chain.toml"]).ok();
    assert!(outcome.stdout.contains("ok, a chain of 5 links"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("dpo: train on @sft"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("not there yet"), "{}", outcome.stdout);
    let plan = world.selfplay(&["plan", "chain.toml"]).ok();
    for link in ["sft", "judge", "dpo", "play"] {
        assert!(plan.stdout.contains(&format!("link {link} (")), "{link}: {}", plan.stdout);
    }
    assert_eq!(plan.stdout.matches("memory while training").count(), 4, "{}", plan.stdout);
    world.selfplay(&["plan", "chain.toml", "--memory", "1MB"]).refused(&["link ", "of --memory"]);
    let before = world.names();
    crate::files::unchanged(&world, &before);
}
