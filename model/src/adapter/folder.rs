//! A folder that holds an adapter: how it is told from a whole model's, and the base that it names.

use std::path::Path;

use super::config::{CONFIG_FILE, WEIGHTS_FILE};
use crate::error::ModelError;
use crate::json::read_json;

/// Whether `folder` holds an adapter and no whole model.
pub fn is_adapter(folder: &Path) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| folder.join(name).is_file());
    let is_whole = has(&["model.safetensors", "model.safetensors.index.json"]);
    !is_whole && has(&[CONFIG_FILE, WEIGHTS_FILE, "adapter_model.bin"])
}

/// The base that the adapter in `folder` names: a folder or a hub id, as it stands there, with its revision.
///
/// # Errors
/// No configuration, or one that names no base.
pub fn base_of(folder: &Path) -> Result<(String, Option<String>), ModelError> {
    let path = folder.join(CONFIG_FILE);
    if !path.is_file() {
        return Err(ModelError::input(
            folder,
            format!("it holds a LoRA adapter's weights and no {CONFIG_FILE}"),
            "copy the whole folder, or take a merged model: selfplay merge",
        ));
    }
    let config = read_json(&path, "an adapter's folder holds it")?;
    let text = |key: &str| config[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match text("base_model_name_or_path") {
        Some(base) => Ok((base, text("revision"))),
        None => Err(ModelError::input(
            path,
            "it names no base_model_name_or_path",
            "name the base as the model, and this folder in policy.adapter",
        )),
    }
}

/// What is wrong with `folder` if it is an adapter's, where a whole model's files are read.
pub(crate) fn fault(folder: &Path) -> Option<ModelError> {
    if !is_adapter(folder) {
        return None;
    }
    let base = base_of(folder).ok().map(|(base, _)| format!(" of {base}")).unwrap_or_default();
    Some(ModelError::input(
        folder,
        format!("it is a LoRA adapter{base}, not a whole model"),
        "name its base as the model and this folder in policy.adapter, or merge it into its base: selfplay merge",
    ))
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn an_adapter_is_named_with_its_base() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            atomic::write_bytes(&folder.path().join(name), text.as_bytes()).unwrap();
        };
        assert!(fault(folder.path()).is_none());
        write("adapter_model.safetensors", "");
        write("adapter_config.json", r#"{"base_model_name_or_path": "org/base", "revision": null}"#);
        let told = fault(folder.path()).unwrap().to_string();
        assert!(told.contains("LoRA adapter of org/base") && told.contains("merge"), "{told}");
        assert_eq!(base_of(folder.path()).unwrap(), ("org/base".to_owned(), None));
        for error in [
            crate::Architecture::load(folder.path()).err(),
            crate::Tokenizer::load(folder.path()).err(),
            crate::weights::WeightFiles::open(folder.path()).err(),
        ] {
            assert_eq!(error.unwrap().to_string(), told);
        }
        write("model.safetensors", "");
        assert!(fault(folder.path()).is_none());
    }
}
