//! Policies by name, where their files are, and their weights in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use selfplay_model::adapter::{AdapterConfig, stored_numbers};
use selfplay_model::gpu::memory;
use selfplay_model::{Architecture, Decoder, ModelError, host_memory};
use selfplay_sampler::SampleSettings;
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

/// A policy whose files were found.
struct FoundPolicy<'a> {
    place: &'a PolicyPlace,
    source: PolicySource,
}

/// A base under several policies, in memory once.
struct SharedBase {
    folder: PathBuf,
    /// Without an adapter; prepared.
    decoder: Decoder,
}

impl PolicyPlace {
    fn find(&self) -> Result<FoundPolicy<'_>> {
        if let Some(dir) = &self.iteration {
            policy_files::check(dir)?;
        }
        Ok(FoundPolicy { place: self, source: PolicySource::find(&self.recipe, &Hub::default())? })
    }

    /// How its responses are drawn: their bytes must not depend on who else asks.
    fn sampling(&self) -> SampleSettings {
        SampleSettings { batch_invariant: true, ..self.recipe.sample.clone().with_own_weights() }
    }
}

impl FoundPolicy<'_> {
    /// The weights, packed for sampling; over `base`, where its own are that one's.
    fn decoder(&self, base: Option<&SharedBase>, device: &Device) -> Result<Decoder> {
        let Self { place, source } = self;
        let Some(base) = base else {
            let mut decoder = source.load(&place.recipe, device, false)?;
            prepare(&mut decoder, &place.sampling())?;
            return Ok(decoder);
        };
        let mut decoder = base.decoder.beside()?;
        source.adapter.as_deref().map_or(Ok(()), |folder| decoder.load_adapter(folder))?;
        decoder.prepare_beside(&base.decoder).map_err(ModelError::from)?;
        Ok(decoder)
    }

    fn load_base(&self, device: &Device) -> Result<SharedBase> {
        let Self { place, source } = self;
        let mut decoder = source.load_under(&place.recipe, device, false, None)?;
        prepare(&mut decoder, &place.sampling())?;
        Ok(SharedBase { folder: source.folder.clone(), decoder })
    }

    fn load(self, base: Option<&SharedBase>, device: &Device, others: usize) -> Result<ServedPolicy> {
        let decoder = self.decoder(base, device)?;
        let Self { place, source } = self;
        let capacity = ServedPolicy::capacity_of(&decoder, &place.sampling(), others)?;
        let root = source.adapter.as_deref().unwrap_or(&source.folder);
        let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf()).display().to_string();
        let PolicySource { codec, stop_ids, .. } = source;
        let name = place.name.clone();
        Ok(ServedPolicy { name, root, decoder, codec: Arc::new(codec), stop_ids, capacity })
    }

    /// Bytes that its weights take: on a CPU as f32, and again in packed form. Beside its base, which `shares` says is in memory,
    /// those of its adapter alone; one with magnitudes has its maps by itself.
    fn weight_bytes(&self, device: &Device, shares: bool) -> Result<u64> {
        let Self { source, .. } = self;
        let width: u64 = if device.is_cpu() { 4 } else { 2 };
        let packs = if device.is_cpu() { 2 } else { 1 };
        let whole = Architecture::load(&source.folder)?.parameter_count() as u64;
        let own = match (&source.adapter, shares) {
            (_, false) => whole.saturating_mul(packs),
            (None, true) => 0,
            (Some(folder), true) => {
                let folded = if AdapterConfig::load(folder)?.dora { whole } else { 0 };
                folded.saturating_add(stored_numbers(folder)? as u64)
            }
        };
        Ok(own.saturating_mul(width))
    }
}

/// Loads policies in their order while they fit into memory, at least the first. What is left out is told. Policies over one base
/// share its weights.
///
/// # Errors
/// A policy that does not load.
pub(crate) fn load_policies(
    places: &[PolicyPlace],
    device: &Device,
    progress: &Progress,
) -> Result<Vec<ServedPolicy>> {
    let mut fitting: Vec<FoundPolicy<'_>> = Vec::new();
    let free = match memory(device)? {
        Some(memory) => Some(memory.free as u64),
        None => host_memory::available(),
    };
    // The rest is for keys and values.
    let room = free.map(|free| free / 10 * 7);
    let mut taken = 0u64;
    for place in places {
        let found = place.find()?;
        let shares = fitting.iter().any(|other| other.source.folder == found.source.folder);
        let bytes = found.weight_bytes(device, shares)?;
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
            _ => fitting.push(found),
        }
    }
    let folders: Vec<PathBuf> = fitting.iter().map(|found| found.source.folder.clone()).collect();
    let others = fitting.len().saturating_sub(1);
    let mut bases: Vec<SharedBase> = Vec::new();
    let mut policies = Vec::with_capacity(fitting.len());
    for found in fitting {
        let is_shared = folders.iter().filter(|&folder| *folder == found.source.folder).count() > 1;
        if is_shared && bases.iter().all(|base| base.folder != found.source.folder) {
            bases.push(found.load_base(device)?);
        }
        let base = bases.iter().find(|base| base.folder == found.source.folder);
        policies.push(found.load(base, device, others)?);
    }
    Ok(policies)
}
