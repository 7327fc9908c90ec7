//! An adapter's folder as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`, in f32 with all digits.

use std::path::Path;

use candle_core::{Result, Tensor};
use selfplay_records::atomic;

use super::config::{CONFIG_FILE, WEIGHTS_FILE};
use super::head_names::{CLASSIFIERS, VALUE};
use super::names;
use crate::architecture::StoredDtype;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::linear::lora::{Lora, Term};
use crate::weights::safetensors;

impl Decoder {
    /// Writes the adapter into `folder`, which exists. Factors that began as a part of W are written as an adapter of twice
    /// their rank, which belongs on W as it is.
    ///
    /// # Errors
    /// No adapter; a failed write.
    pub fn save_adapter(&self, folder: &Path) -> std::result::Result<(), ModelError> {
        let Some(installed) = self.adapter() else {
            return Err(ModelError::value("the model has no adapter", "one that was loaded or trained"));
        };
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for linear in self.maps() {
            for adapter in linear.adapters() {
                tensors.extend(self.of_module(&linear.modules()[adapter.module].name, adapter)?);
            }
        }
        let architecture: Vec<String> =
            self.architecture().tensors().into_iter().map(|tensor| tensor.name).collect();
        let mut saved = installed.config.modules_to_save.clone();
        if self.parameters().find(VALUE).is_some() {
            // The value head has one name here, whatever an earlier program called it.
            saved.retain(|name| !CLASSIFIERS.contains(&name.as_str()));
        }
        for (_, parameter) in self.parameters().iter() {
            let is_of_base = architecture.contains(&parameter.name);
            let is_factor = parameter.name.starts_with("base_model.");
            let module = parameter.name.rsplit_once('.').map_or("", |(module, _)| module);
            let is_head = !is_of_base && !is_factor;
            if is_head && !saved.iter().any(|name| name == module) {
                saved.push(module.to_owned());
            }
            if is_head || (is_of_base && installed.trains(parameter)) {
                let is_adapted = installed.targets.iter().any(|target| target == module);
                tensors.push((names::base(&parameter.name, is_adapted), parameter.full().clone()));
            }
        }
        let pairs: Vec<(&str, &Tensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        safetensors::write(&folder.join(WEIGHTS_FILE), &pairs, StoredDtype::F32)?;
        let config = match installed.has_taken {
            true => installed.config.doubled(),
            false => installed.config.clone(),
        };
        let is_policy = saved.iter().all(|name| !name.ends_with("value_head"));
        let mut text = format!("{:#}", config.to_json(&installed.targets, &saved, is_policy));
        text.push('\n');
        Ok(atomic::write_bytes(&folder.join(CONFIG_FILE), text.as_bytes())?)
    }

    fn of_module(&self, path: &str, adapter: &Lora) -> Result<Vec<(String, Tensor)>> {
        let full = |id| self.parameters().get(id).full().clone();
        let joined = |of: fn(&Term) -> _, dim: usize| -> Result<Tensor> {
            let parts: Vec<Tensor> = adapter.terms.iter().map(|term| full(of(term))).collect();
            match parts.as_slice() {
                [one] => Ok(one.clone()),
                several => Tensor::cat(several, dim)?.contiguous(),
            }
        };
        let mut tensors =
            vec![(names::a(path), joined(|term| term.a, 0)?), (names::b(path), joined(|term| term.b, 1)?)];
        tensors.extend(adapter.magnitude.map(|id| (names::magnitude(path), full(id))));
        Ok(tensors)
    }
}
