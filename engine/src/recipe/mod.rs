//! A recipe: what a run does, in one TOML file.
//!
//! Two phases: [`RecipeFile`] is the file as written (serde, unknown keys refused, every key optional), [`Recipe`]
//! is what a run works with, immutable, every default filled in. All problems are found before any is reported.

mod file;
mod overrides;
pub(crate) mod problems;
#[allow(clippy::module_inception, reason = "one noun, one file: recipe.rs holds Recipe")]
mod recipe;
mod resolve;
mod section;
mod source;

pub use file::RecipeFile;
pub use overrides::Override;
pub use recipe::{
    EvalSection, OnBadPromptRule, PolicySection, PromptsSection, Recipe, ScoreSection, Stage, WeightDType,
    stage_of,
};
pub use resolve::{Purpose, load, load_text};
pub use source::{DataSource, ModelSource};
