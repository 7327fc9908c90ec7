//! `chain.json`: what was begun in a chain's folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use selfplay_model::template_clock as clock;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dir::ChainDir;
use super::recipe::Chain;
use crate::error::{EngineError, Result};
use crate::json_file::write_json;
use crate::run::manifest::flatten;

/// The form of the file.
const FORMAT: u32 = 1;

/// What a chain was begun with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChainManifest {
    format: u32,
    /// Names of the links, in order.
    links: Vec<String>,
    /// `chain.NAME.section.key` → value.
    recipe: BTreeMap<String, Value>,
    /// Where the chain was last worked on: files of a link in work name it.
    pub(super) folder: PathBuf,
    /// The time that chat templates read with `strftime_now`, the same for all links.
    template_clock: String,
}

impl ChainManifest {
    /// Of a chain that begins now.
    ///
    /// # Errors
    /// `SELFPLAY_CLOCK` is no time.
    pub(super) fn new(chain: &Chain) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            links: names(chain),
            recipe: flatten(&chain.to_table()),
            folder: chain.folder.clone(),
            template_clock: clock::now()?,
        })
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] when it is damaged or another program's.
    pub(super) fn read(dir: &ChainDir) -> Result<Self> {
        let path = dir.manifest_file();
        let bytes = std::fs::read(&path).map_err(|source| EngineError::io(&path, "read", source))?;
        let read: std::result::Result<Self, _> = serde_json::from_slice(&bytes);
        let problem = match read {
            Ok(manifest) if manifest.format == FORMAT => return Ok(manifest),
            Ok(other) => {
                format!("format: expected {FORMAT}, found {}; use the selfplay that wrote it", other.format)
            }
            Err(error) => format!("{error}; the file that selfplay wrote is wanted"),
        };
        Err(EngineError::BadFile { path, problem })
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, dir: &ChainDir) -> Result<()> {
        write_json(&dir.manifest_file(), self)
    }

    /// Takes up a chain with more iterations, or in another place.
    pub(super) fn update(&mut self, chain: &Chain) {
        self.recipe = flatten(&chain.to_table());
        self.folder.clone_from(&chain.folder);
    }

    /// Keys whose values differ, with both values; of a link that is not on both sides, its name. A run may go further:
    /// `iterations` counts only where it is asked for.
    pub(super) fn differing_keys(&self, chain: &Chain, with_iterations: bool) -> Vec<String> {
        let (links, given) = (names(chain), flatten(&chain.to_table()));
        let is_compared = |key: &str| {
            let link = key.strip_prefix("chain.").and_then(|rest| rest.split_once('.'));
            link.is_none_or(|(name, key)| {
                let is_in = |names: &[String]| names.iter().any(|known| known == name);
                is_in(&links) && is_in(&self.links) && (with_iterations || key != "iterations")
            })
        };
        let mut keys: Vec<&String> =
            given.keys().chain(self.recipe.keys()).filter(|key| is_compared(key)).collect();
        keys.sort();
        keys.dedup();
        let show = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
        let both = |key: &String| {
            let (here, given) = (self.recipe.get(key), given.get(key));
            (here != given).then(|| format!("{key} ({} here, {} given)", show(here), show(given)))
        };
        let order = (links != self.links)
            .then(|| format!("chain ({} here, {} given)", self.links.join(", "), links.join(", ")));
        order.into_iter().chain(keys.into_iter().filter_map(both)).collect()
    }

    /// Holds the clock of templates at the time when the chain began.
    ///
    /// # Errors
    /// What is written is no time.
    pub(super) fn hold_clock(&self) -> Result<()> {
        Ok(clock::fix(&self.template_clock)?)
    }
}

fn names(chain: &Chain) -> Vec<String> {
    chain.links.iter().map(|link| link.name.clone()).collect()
}
