//! The model card: `README.md` beside the weights, in the form that the hub's cards have.
//!
//! ```text
//! model_card    the facts → the text         front_matter  its YAML                usage   how to load it
//! settings      what differs from defaults   papers        whose methods they are  parent  what the base's card says
//! results       what was measured
//! ```
//!
//! **A card is a function of recipe and results**: no date, no machine, no path of it, no number of iterations to come, so
//! that a resume writes the same bytes. It is no part of the model: `policy_files.json` and the hashes of inputs leave it
//! out, and a folder without one is as good.

mod form;
mod front_matter;
mod model_card;
mod papers;
mod parent;
mod results;
mod settings;
mod usage;

pub(crate) use form::ModelForm;
pub(crate) use model_card::{CardBase, MadeBy, ModelCard};
pub(crate) use parent::ParentCard;
pub(crate) use results::{CardResult, of_summary, of_training, with_evaluations};
pub(crate) use usage::named;

/// The card's file.
pub(crate) const CARD: &str = "README.md";

/// Where the results of evaluations go, which are run after the card was written.
pub(crate) const EVALUATIONS: &str = "<!-- evaluations -->\n";
