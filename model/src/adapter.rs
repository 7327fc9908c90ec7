//! A folder that holds a LoRA adapter, where a whole model is wanted.

use std::path::Path;

use crate::error::ModelError;
use crate::json::read_json;

/// What is wrong with `folder` if it is an adapter's and no whole model's.
pub(crate) fn fault(folder: &Path) -> Option<ModelError> {
    let config = folder.join("adapter_config.json");
    let has_weights =
        ["adapter_model.safetensors", "adapter_model.bin"].iter().any(|name| folder.join(name).is_file());
    let is_whole =
        ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| folder.join(name).is_file());
    if is_whole || !(config.is_file() || has_weights) {
        return None;
    }
    let base = config.is_file().then(|| read_json(&config, "").ok()).flatten();
    let base = base.as_ref().and_then(|config| config["base_model_name_or_path"].as_str());
    let of = base.map(|base| format!(" of {base}")).unwrap_or_default();
    Some(ModelError::input(
        folder,
        format!("it is a LoRA adapter{of}, not a whole model"),
        "merge it into its base first: in peft, PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(…)",
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
        write("adapter_config.json", r#"{"base_model_name_or_path": "org/base"}"#);
        let told = fault(folder.path()).unwrap().to_string();
        assert!(told.contains("LoRA adapter of org/base") && told.contains("merge"), "{told}");
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
