//! Where a run may put its folder.

use std::fs::{self, OpenOptions};

use selfplay_records::atomic;

use crate::files::unchanged;

#[test]
fn wrong_input_leaves_no_folder_behind() {
    let world = crate::run_world();
    world
        .selfplay(&["run", "recipe.toml", "-o", "a", "--set", "score.model=policy"])
        .refused(&["value_head"]);
    world.selfplay(&["run", "recipe.toml", "-o", "a", "--set", "iterations=3"]).refused(&["iterations"]);
    world.selfplay(&["run", "recipe.toml", "-o", "a", "--set", "prompts.column=none"]).refused(&["none"]);
    assert!(!world.path("a").exists());
    fs::create_dir_all(world.path("full/of")).unwrap();
    world.selfplay(&["run", "recipe.toml", "-o", "full"]).refused(&["not empty"]);
    world.selfplay(&["resume", "full"]).refused(&["manifest.json"]);
    world.selfplay(&["show", "absent"]).refused(&["not a run folder"]);
}

#[test]
fn a_run_folder_that_is_taken_is_left_alone() {
    let world = crate::world();
    fs::create_dir_all(world.path("runs/tiny")).unwrap();
    let lock = OpenOptions::new().create(true).append(true).open(world.path("runs/tiny/run.lock")).unwrap();
    lock.try_lock().unwrap();
    let before = world.names();
    world.selfplay(&["run", "recipe.toml"]).refused(&["runs/tiny", "another selfplay process"]);
    unchanged(&world, &before);
    drop(lock);

    world.selfplay(&["run", "recipe.toml"]).ok();
    let before = world.names();
    world.selfplay(&["run", "recipe.toml"]).refused(&["finished", "selfplay show"]);
    world
        .selfplay(&["run", "recipe.toml", "--set", "train.beta=0.5"])
        .refused(&["another recipe", "train.beta"]);
    world.selfplay(&["resume", "runs/tiny", "--set", "train.beta=0.5"]).refused(&["iterations"]);
    world.selfplay(&["resume", "policy"]).refused(&["policy", "not a run folder"]);
    world.selfplay(&["run", "recipe.toml", "-o", "policy"]).refused(&["policy"]);
    world.selfplay(&["show", "nowhere"]).refused(&["nowhere"]);
    unchanged(&world, &before);
}

#[test]
fn a_recipe_of_the_user_s_is_not_replaced_by_a_run_s() {
    let world = crate::run_world();
    let folder = world.path("mine");
    atomic::create_dir_all(&folder).unwrap();
    let before = world.bytes("recipe.toml");
    atomic::write_bytes(&folder.join("recipe.toml"), &before).unwrap();
    world.selfplay(&["run", "mine/recipe.toml", "-o", "mine"]).refused(&["mine", "not empty"]);
    assert_eq!(fs::read(folder.join("recipe.toml")).unwrap(), before);
}
