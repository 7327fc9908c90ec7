//! Adapters in PEFT's layout: a few trained factors beside a model's frozen weights, in a folder of their own.
//!
//! ```text
//! folder    what tells an adapter's folder from a model's, and the base that it names
//! config    adapter_config.json, read and written; options that are not known are refused by name
//! module_names   what names modules: "all-linear", names, a regular expression
//! targets   which modules of a model get factors; rank and α of each
//! names     what tensors are called in adapter_model.safetensors
//! start     what fresh factors begin with: default, gaussian, pissa      svd: singular values for the last
//! install   an adapter over a decoder, from settings or from a folder; what of it is trained
//! read, write   adapter_model.safetensors         heads   the preference heads among its tensors
//! ```
//!
//! The products are in [`crate::linear`]; whoever computes with a decoder knows nothing of this folder. Layout and rules are
//! those of PEFT 0.21: LoRA, rsLoRA (`use_rslora`), DoRA (`use_dora`), `rank_pattern` and `alpha_pattern`, `modules_to_save`,
//! `bias`.

mod config;
mod folder;
mod fresh;
mod head_names;
mod heads;
mod install;
mod module_names;
mod names;
mod read;
mod start;
mod svd;
mod targets;
mod write;

pub use config::{AdapterConfig, BiasTraining, CONFIG_FILE, WEIGHTS_FILE};
pub(crate) use folder::fault;
pub use folder::{base_of, is_adapter};
pub use heads::{heads, stored_numbers};
pub use install::InstalledAdapter;
pub use module_names::TargetModules;
pub use start::AdapterStart;
