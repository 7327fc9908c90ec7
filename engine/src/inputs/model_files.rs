//! The files of a model: a folder in Hugging Face layout and, where the model is a PEFT adapter or has one over it, the
//! adapter's folder.

use std::path::{Path, PathBuf};

use selfplay_model::Architecture;
use selfplay_model::adapter::{AdapterConfig, base_of, is_adapter};
use selfplay_scorer::{KindSettings, ModelFolders, ModelPlace};
use selfplay_trainer::check_fresh_adapter;

use crate::error::{EngineError, Result};
use crate::hub::{self, Hub};
use crate::inputs::conversation_check;
use crate::recipe::{ModelSource, Recipe};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// Configuration, weights and tokenizer: of the base, where there is an adapter.
    pub folder: PathBuf,
    /// The adapter over it.
    pub adapter: Option<PathBuf>,
    /// What names the base, and at which revision, for the adapters that are written.
    pub base: (String, Option<String>),
}

impl ModelFiles {
    /// Finds a model, and the adapter that goes over it; what a hub has is fetched. A model that is an adapter's folder has
    /// the base that it names.
    ///
    /// # Errors
    /// What is not to be had; an adapter over a model that is an adapter already.
    pub fn find(model: &ModelSource, adapter: &ModelSource, hub: &Hub) -> Result<Self> {
        let folder = hub.model_folder(model)?;
        let over = if adapter.is_unset() { None } else { Some(hub.model_folder(adapter)?) };
        if !is_adapter(&folder) {
            return Ok(Self { folder, adapter: over, base: named(model) });
        }
        if let Some(over) = over {
            return Err(EngineError::input(format!(
                "policy.adapter = {}: policy.model is an adapter itself ({}); name its base as the model, or merge it \
                 (selfplay merge)",
                over.display(),
                folder.display()
            )));
        }
        let source = base_source(&folder)?;
        let base = hub.model_folder(&source)?;
        if is_adapter(&base) {
            return Err(EngineError::input(format!(
                "{}: the base of this adapter, {}, is an adapter as well; merge that one first (selfplay merge)",
                folder.display(),
                base.display()
            )));
        }
        Ok(Self { folder: base, adapter: Some(folder), base: named(&source) })
    }
}

/// That a preference model's folder, or the base of an adapter's, can be used; weights are not read.
///
/// # Errors
/// What cannot.
pub fn check_preference_model(folder: &Path, kind: &KindSettings) -> Result<()> {
    if !is_adapter(folder) {
        return conversation_check::preference_model(folder.into(), kind);
    }
    AdapterConfig::load(folder)?;
    match base_source(folder)? {
        ModelSource::Folder(base) => {
            let folders = ModelFolders { base: &base, adapter: Some(folder) };
            conversation_check::preference_model(ModelPlace::Adapted(folders), kind)
        }
        _ => Ok(()),
    }
}

/// That the policy's files on this machine, its adapter and `[train.lora]` go together; weights are not read.
///
/// # Errors
/// What does not.
pub fn check_policy(recipe: &Recipe) -> Result<()> {
    let (ModelSource::Folder(folder) | ModelSource::Random(folder)) = &recipe.policy.model else {
        return Ok(());
    };
    let mut configs = Vec::new();
    let base = if is_adapter(folder) {
        configs.push(AdapterConfig::load(folder)?);
        match base_source(folder)? {
            ModelSource::Folder(base) => base,
            _ => return Ok(()),
        }
    } else {
        folder.clone()
    };
    conversation_check::policy(&base, recipe.policy.chat_template.as_deref())?;
    let architecture = Architecture::load(&base)?;
    if let ModelSource::Folder(adapter) = &recipe.policy.adapter
        && adapter.is_dir()
    {
        configs.push(AdapterConfig::load(adapter)?);
    }
    if configs.is_empty() {
        check_fresh_adapter(&recipe.train, &architecture)?;
    }
    if let Some(lora) = recipe.train.lora.as_ref().filter(|lora| lora.init().folder().is_none()) {
        configs.push(lora.config());
    }
    configs.iter().try_for_each(|config| Ok(config.trained_numbers(&architecture).map(drop)?))
}

/// A folder that holds a model's config.json, of the base where the model is an adapter; of a hub nothing else is fetched.
///
/// # Errors
/// A model that is not to be had.
pub fn config_folder(source: &ModelSource) -> Result<PathBuf> {
    let folder = hub::config_folder(source)?;
    if is_adapter(&folder)
        || folder.join("adapter_config.json").is_file() && !folder.join("config.json").is_file()
    {
        return Ok(hub::config_folder(&base_source(&folder)?)?);
    }
    Ok(folder)
}

fn named(source: &ModelSource) -> (String, Option<String>) {
    match source {
        ModelSource::Hub { id, revision } => (id.clone(), revision.clone()),
        other => (other.to_string(), None),
    }
}

/// The base that an adapter's folder names: a folder, from here or from beside the adapter, or a hub's model.
fn base_source(adapter: &Path) -> Result<ModelSource> {
    let (base, revision) = base_of(adapter)?;
    let source = ModelSource::parse(&base, Some(adapter));
    Ok(match (source, revision) {
        (ModelSource::Hub { id, revision: None }, revision) => ModelSource::Hub { id, revision },
        (ModelSource::Folder(folder), _) if !folder.is_dir() => {
            return Err(EngineError::input(format!(
                "{}: its base_model_name_or_path is {base:?}, which is not there; put the base there, or, of a \
                 policy, name it as policy.model and this folder in policy.adapter",
                adapter.display()
            )));
        }
        (source, _) => source,
    })
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    fn adapter_of(world: &Path, name: &str, base: &str) -> ModelSource {
        let folder = world.join(name);
        atomic::create_dir_all(&folder).unwrap();
        let config = format!("{{\"peft_type\": \"LORA\", \"base_model_name_or_path\": {base:?}}}");
        atomic::write_bytes(&folder.join("adapter_config.json"), config.as_bytes()).unwrap();
        ModelSource::Folder(folder)
    }

    #[test]
    fn an_adapter_s_folder_is_its_base_with_it_over() {
        let world = tempfile::tempdir().unwrap();
        let base = world.path().join("base");
        atomic::create_dir_all(&base).unwrap();
        let (hub, unset) = (Hub::default(), ModelSource::Unset);
        let plain = ModelFiles::find(&ModelSource::Folder(base.clone()), &unset, &hub).unwrap();
        assert_eq!((&plain.folder, &plain.adapter), (&base, &None));
        let one = adapter_of(world.path(), "one", base.to_str().unwrap());
        let found = ModelFiles::find(&one, &unset, &hub).unwrap();
        assert_eq!((&found.folder, found.adapter), (&base, Some(world.path().join("one"))));
        let over = ModelFiles::find(&ModelSource::Folder(base.clone()), &one, &hub).unwrap();
        assert_eq!((&over.folder, over.adapter), (&base, Some(world.path().join("one"))));
        assert_eq!(over.base, (base.display().to_string(), None));
        for (model, over, told) in [
            (&one, &one, "is an adapter itself"),
            (&adapter_of(world.path(), "two", world.path().join("one").to_str().unwrap()), &unset, "as well"),
            (&adapter_of(world.path(), "three", "/not/there"), &unset, "is not there"),
        ] {
            let error = ModelFiles::find(model, over, &hub).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains(told), "{error}");
        }
    }
}
