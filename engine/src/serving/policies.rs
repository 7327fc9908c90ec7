//! Policies by name, where their files are, and their weights in memory.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use selfplay_model::gpu::memory;
use selfplay_model::{Architecture, host_memory};
use selfplay_server::ServedPolicy;

use crate::console::progress::Progress;
use crate::console::units::size;
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;
use crate::recipe::{ModelSource, Override, Purpose, Recipe, load};
use crate::run::dir::{IterationDir, RunDir};
use crate::run::{manifest::Manifest, policy_files};
use crate::stages::prepare;

/// A policy that can be served.
pub(crate) struct PolicyPlace {
    /// What requests call it.
    pub(crate) name: String,
    /// Its model, adapter and keys.
    recipe: Recipe,
    /// The iteration whose files are to be what was written.
    iteration: Option<IterationDir>,
}

/// The model of a recipe under a name, and each adapter over it under its own.
///
/// # Errors
/// Two of one name.
pub(crate) fn places_of_model(
    recipe: &Recipe,
    name: String,
    adapters: &[(String, String)],
) -> Result<Vec<PolicyPlace>> {
    let mut places = vec![PolicyPlace { name, recipe: recipe.clone(), iteration: None }];
    for (name, folder) in adapters {
        if places.iter().any(|place| place.name == *name) {
            return Err(EngineError::input(format!(
                "--adapter {name}={folder}: another model has this name"
            )));
        }
        let mut recipe = recipe.clone();
        recipe.policy.adapter = ModelSource::parse(folder, None);
        places.push(PolicyPlace { name: name.clone(), recipe, iteration: None });
    }
    Ok(places)
}

/// The policies of a run: the last finished iteration first, then the others from late to early, `base` after the last.
///
/// # Errors
/// A folder that is no run; a recipe that no longer reads.
pub(crate) fn places_of_run(folder: &Path, set: &[Override]) -> Result<Vec<PolicyPlace>> {
    let run = RunDir::new(folder);
    run.check_begun()?;
    let recipe = load(Some(&run.recipe_file()), set, Purpose::Reread)?;
    let manifest = Manifest::read(&run.manifest_file())?;
    let mut places = Vec::new();
    for number in (1..=manifest.iterations()).rev() {
        let dir = run.iteration(number);
        let mut recipe = recipe.clone();
        if dir.policy().is_dir() {
            recipe.policy.model = ModelSource::Folder(dir.policy());
            recipe.policy.adapter = ModelSource::Unset;
        } else if dir.adapter().is_dir() {
            recipe.policy.adapter = ModelSource::Folder(dir.adapter());
        } else {
            continue;
        }
        places.push(PolicyPlace { name: format!("iteration_{number:02}"), recipe, iteration: Some(dir) });
    }
    let base = PolicyPlace { name: "base".to_owned(), recipe, iteration: None };
    places.insert(places.len().min(1), base);
    Ok(places)
}

impl PolicyPlace {
    /// Loads the weights, packed for sampling.
    fn load(&self, device: &Device, others: usize) -> Result<ServedPolicy> {
        if let Some(dir) = &self.iteration {
            policy_files::check(dir)?;
        }
        let source = PolicySource::find(&self.recipe, &Hub::default())?;
        let mut decoder = source.load(&self.recipe, device, false)?;
        let mut sample = self.recipe.sample.clone();
        // A response's bytes must not depend on who else asks.
        sample.batch_invariant = true;
        prepare(&mut decoder, &sample)?;
        let capacity = ServedPolicy::capacity_of(&decoder, &sample, others)?;
        let root = source.adapter.as_deref().unwrap_or(&source.folder);
        let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf()).display().to_string();
        let PolicySource { codec, stop_ids, .. } = source;
        Ok(ServedPolicy {
            name: self.name.clone(),
            root,
            decoder,
            codec: Arc::new(codec),
            stop_ids,
            capacity,
        })
    }

    /// Bytes that its weights take: on a CPU as f32, and again in packed form.
    fn weight_bytes(&self, device: &Device) -> Result<u64> {
        let source = PolicySource::find(&self.recipe, &Hub::default())?;
        let shape = Architecture::load(&source.folder)?;
        let bytes_each = if device.is_cpu() { 8 } else { 2 };
        Ok((shape.parameter_count() as u64).saturating_mul(bytes_each))
    }
}

/// Loads policies in their order while they fit into memory, at least the first. What is left out is told.
///
/// # Errors
/// A policy that does not load.
pub(crate) fn load_policies(
    places: &[PolicyPlace],
    device: &Device,
    progress: &Progress,
) -> Result<Vec<ServedPolicy>> {
    let mut fitting = Vec::new();
    let free = match memory(device)? {
        Some(memory) => Some(memory.free as u64),
        None => host_memory::available(),
    };
    // The rest is for keys and values.
    let room = free.map(|free| free / 10 * 7);
    let mut taken = 0u64;
    for place in places {
        let bytes = place.weight_bytes(device)?;
        taken = taken.saturating_add(bytes);
        match room {
            Some(room) if taken > room && !fitting.is_empty() => {
                taken -= bytes;
                let (need, room) = (size(bytes), size(room.saturating_sub(taken)));
                progress.line(format!(
                    "{} is left out: it needs {need}, and {room} are free for it; name what to serve with --only",
                    place.name
                ));
            }
            _ => fitting.push(place),
        }
    }
    fitting.iter().map(|place| place.load(device, fitting.len() - 1)).collect()
}
