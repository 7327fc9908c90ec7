//! A chain: a recipe whose `[[chain]]` links are worked on in order, each by one command with its own sections, in a folder
//! per link. `@NAME` stands for the output of an earlier link.
//!
//! ```text
//! text        a recipe's [[chain]], --set applied         references   @NAME → a place below the chain's folder
//! recipe      text → Chain: every link's Recipe, checked  output       what a link leaves, and where
//! dir         the chain's folder and its state            manifest     chain.json: what was begun here
//! work        the links that are left, one by one         summary      what `show` tells
//! ```
//!
//! Which command does a link's work is the business of `commands/`: [`work::go_on`] is given it.

pub(crate) mod dir;
mod link;
mod manifest;
mod output;
mod recipe;
mod references;
pub(crate) mod summary;
mod text;
pub(crate) mod work;

pub(crate) use dir::ChainDir;
pub(crate) use link::Link;
pub(crate) use recipe::{Chain, ChainPurpose, training_of};
pub(crate) use summary::reported_links;
pub(crate) use text::ChainText;
