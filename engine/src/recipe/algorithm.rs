//! What a loss asks of the sections before it: keys of a run that are right each by itself and do not go together.

use selfplay_records::{ExampleKind, Problems};
use selfplay_scorer::Advantages;
use selfplay_trainer::LossKind;

use super::recipe::Recipe;

/// Every problem of a run's recipe, under full names. Stage commands read rows that are made already.
pub(super) fn problems(recipe: &Recipe) -> Problems {
    let mut problems = Problems::default();
    let loss = recipe.train.loss;
    let advantages = recipe.score.keys.advantages.unwrap_or_default();
    if loss == LossKind::Gprl && advantages != Advantages::PerAxis {
        let want = "\"per-axis\", with a gpm: train.loss = \"gprl\" learns from its axes (grpo does from the mean scores of any kind)";
        problems.value("score.advantages", "\"off\"", want);
    }
    if let Some(opponents) = recipe.pair.opponents.filter(|_| loss.examples() == ExampleKind::Groups) {
        let want = format!(
            "left out with train.loss = \"{loss}\": the ratios of its tokens are to the policy that sampled them, and opponents are of others"
        );
        problems.value("pair.opponents", opponents, want);
    }
    problems
}
