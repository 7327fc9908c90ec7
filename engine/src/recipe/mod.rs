//! A recipe: what a run does, in one TOML file.
//!
//! [`Recipe`] is one type for the contents of a file and for the settings of a run. Its `Default` has the defaults, its doc
//! comments are the keys' documentation, and its JSON schema ([`keys`]) has their names, types and ranges: the reader's
//! messages, `selfplay schema` and the table of keys in `docs/commands.md` come from there. All problems are found before
//! any is reported.
//!
//! ```text
//! resolve      text → table → Recipe: models, files and folders looked up, every value checked
//!   read         each key alone, so that every wrong one is reported   overrides    --set
//! no_secrets   what looks like a token is refused
//! recipe       Recipe and its validation      sections, values, source   what it is made of
//! checker      how an answer is held against the right one
//! schema       the keys, from the types       json_schema, key_table     for editors, for the docs
//! link         what a link of a chain has beside sections; chains themselves are in `chain/`
//! ```

mod algorithm;
mod checker;
mod endpoint;
mod json_schema;
mod key_table;
mod link;
mod log;
mod no_secrets;
mod overrides;
pub(crate) mod problems;
mod ranks;
pub(crate) mod read;
#[allow(clippy::module_inception, reason = "one noun, one file: recipe.rs holds Recipe")]
mod recipe;
mod resolve;
mod schema;
mod sections;
mod source;
mod stage;
mod synthesize;
mod values;

pub use checker::CheckerKind;
pub use endpoint::sample_client;
pub use json_schema::json_schema;
pub use key_table::key_table;
pub use link::{LinkCommand, LinkKeys};
pub use log::LogSection;
pub use overrides::Override;
pub use ranks::{RanksSection, TrainOn};
pub use recipe::Recipe;
pub use resolve::{Purpose, load, load_text};
pub(crate) use resolve::{RecipePlaces, resolve_table};
pub use schema::{KeyType, RecipeKey, Word, keys, link_keys};
pub use sections::{EvalSection, PolicySection, PromptsSection, ScoreSection};
pub use source::{DataSource, ModelSource, is_model};
pub use stage::{Stage, stage_of};
pub use synthesize::{
    GeneratorBackend, GeneratorSection, JudgeSection, SynthesisFilter, SynthesisMethod, SynthesizeSection,
};
pub use values::{OnBadPromptRule, WeightDType};
