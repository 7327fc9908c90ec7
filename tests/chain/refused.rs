//! What a chain's folder is not taken for, and what lies in it that was not written by the chain.

use std::os::unix::fs::symlink;

use super::world;

#[test]
fn a_chain_is_no_run() {
    let world = world();
    world.selfplay(&["run", "chain.toml", "-o", "chain", "-q"]).ok();
    let branch = ["branch", "chain", "--from", "iteration_01/pairs", "-o", "other"];
    world.selfplay(&branch).refused(&["is a chain", "only a run has stages to share", "chain/play"]);
    world.selfplay(&["compare", "chain", "chain/play"]).refused(&["is a chain", "chain/play"]);
    world.selfplay(&["show", "chain", "--samples", "1"]).refused(&["is a chain", "chain/play"]);
    let branch =
        ["branch", "chain/play", "--from", "iteration_01/pairs", "-o", "other", "--set", "train.beta=1"];
    world.selfplay(&branch).ok();
    world.selfplay(&["resume", "other", "-q"]).ok();
    // Neither takes the other's folder.
    world.selfplay(&["run", "recipe.toml", "-o", "chain"]).refused(&["is not empty"]);
    world.selfplay(&["run", "chain.toml", "-o", "other"]).refused(&["is not empty"]);

    // A recipe or a manifest that was changed by hand.
    let recipe = String::from_utf8(world.bytes("chain/recipe.toml")).unwrap();
    world.write("chain/recipe.toml", &recipe.replacen("batch_size = 4", "batch_size = 3", 1));
    world.selfplay(&["resume", "chain"]).refused(&[
        "recipe.toml",
        "was changed",
        "batch_size (4 here, 3 given)",
    ]);
    world.write("chain/recipe.toml", "name = \"x\"");
    world.selfplay(&["show", "chain"]).refused(&["recipe.toml", "no [[chain]]"]);
    world.write("chain/recipe.toml", &recipe);
    world.write("chain/chain.json", "{\"format\": 1}");
    world.selfplay(&["resume", "chain"]).refused(&["chain.json"]);
}

#[test]
fn a_link_s_folder_is_no_symbolic_link() {
    let world = world();
    for name in ["chain/sft", "chain/sft.parts", "chain/sft.toml"] {
        std::fs::create_dir_all(world.path("chain")).unwrap();
        std::fs::create_dir_all(world.path("mine")).unwrap();
        symlink(world.path("mine"), world.path(name)).unwrap();
        world.selfplay(&["run", "chain.toml", "-o", "chain"]).refused(&[name, "is a link"]);
        assert_eq!(std::fs::read_dir(world.path("mine")).unwrap().count(), 0);
        std::fs::remove_file(world.path(name)).unwrap();
    }
    std::fs::create_dir(world.path("chain/sft")).unwrap();
    world.selfplay(&["run", "chain.toml", "-o", "chain"]).refused(&["is not empty"]);
}
