//! What several ranks make is what one makes.

use super::{LONGER, Launch, ON_FIRST, reference, same_as, shards_of};

#[test]
fn ranks_share_the_shards_and_make_the_bytes_of_one() {
    let world = crate::run_world();
    let whole = reference(&world, &LONGER);
    let line = [&["run", "recipe.toml", "-o", "three"], &LONGER[..], &ON_FIRST].concat();
    let outcomes = Launch::of(&world, 3, &line).all_well();
    let run = world.path("three");
    same_as(&whole, &run);
    assert!(outcomes[0].stdout.contains("iteration") && outcomes[0].stderr.contains("by 3 ranks"));
    let [by_first, by_second, by_third] = [None, Some(1), Some(2)].map(|rank| shards_of(&run, rank));
    assert_eq!(by_first + by_second + by_third, 20);
    assert!(by_first > 0 && by_second + by_third > 0, "{by_first} {by_second} {by_third}");

    // What is done is done, for all of them.
    let outcomes = Launch::of(&world, 2, &["resume", "three"]).wait();
    assert_eq!(outcomes[0].status, Some(0), "{}", outcomes[0].stderr);
    assert!(outcomes[0].stderr.contains("nothing is left to do"), "{}", outcomes[0].stderr);
    assert_eq!(outcomes[1].status, Some(0), "{}", outcomes[1].stderr);
    assert!(!run.join("ranks").exists());
}

#[test]
fn one_rank_of_a_launcher_is_a_process_by_itself() {
    let world = crate::world();
    Launch::of(&world, 1, &["run", "recipe.toml", "-o", "one", "-q"]).all_well();
    world.selfplay(&["run", "recipe.toml", "-o", "plain", "-q"]).ok();
    for file in ["iteration_01/pairs.parquet", "iteration_01/policy/model.safetensors", "recipe.toml"] {
        assert!(world.bytes(&format!("one/{file}")) == world.bytes(&format!("plain/{file}")), "{file}");
    }
}
