//! `selfplay report`, and where a run's numbers go beside its folder (`[log]`).

mod page;
mod served;
mod tracked;

use selfplay_testing::World;

/// A world with a finished run of two iterations in `out`.
fn finished_run(more: &[&str]) -> World {
    let world = crate::run_world();
    world.selfplay(&[&["run", "recipe.toml", "-o", "out", "-q"], more].concat()).ok();
    world
}
