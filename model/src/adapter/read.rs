//! `adapter_model.safetensors` → tensors, held against the model that they are to go over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::config::{AdapterConfig, CONFIG_FILE, WEIGHTS_FILE};
use super::head_names::{CLASSIFIERS, PROMPT, VALUE, is_head, plain_name};
use super::module_names::is_end_of;
use super::names::{self, HeldTensor};
use super::targets::Target;
use crate::architecture::{ParameterKind, TensorSpec};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::weights::WeightFiles;

/// What PEFT writes beside factors for an output head or a vocabulary that was resized.
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

/// The file, open, every name in it known.
pub(super) struct AdapterFile {
    path: PathBuf,
    files: WeightFiles,
    /// What each tensor is, by its name in the file.
    held: BTreeMap<String, HeldTensor>,
}

/// The tensors of one module, in f32 on the CPU.
pub(super) struct ModuleTensors {
    pub a: Tensor,
    pub b: Tensor,
    pub magnitude: Option<Tensor>,
}

impl AdapterFile {
    /// Opens the adapter's weights in `folder`.
    ///
    /// # Errors
    /// No such file, or only one that Python alone can read; a damaged one; a name that is none of an adapter's.
    pub(super) fn open(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(WEIGHTS_FILE);
        if !path.is_file() && folder.join("adapter_model.bin").is_file() {
            return Err(ModelError::input(
                folder,
                "its weights are in adapter_model.bin, which only Python can read",
                "convert them: in PEFT, PeftModel.from_pretrained(…).save_pretrained(…) writes safetensors",
            ));
        }
        let files = WeightFiles::open_file(&path)?;
        let mut held = BTreeMap::new();
        for name in files.names() {
            let Some(what) = HeldTensor::of(name) else {
                return Err(ModelError::input(
                    &path,
                    format!("tensor {name} is none of a LoRA adapter's over linear modules"),
                    "names are as PEFT writes them: base_model.model.<module>.lora_A.weight",
                ));
            };
            held.insert(name.to_owned(), what);
        }
        Ok(Self { path, files, held })
    }

    /// The shape of a tensor of the base, by its name in the base.
    pub(super) fn base_shape(&self, name: &str) -> Option<&[usize]> {
        let is_it = |held: &HeldTensor| matches!(held, HeldTensor::Base(base) if base == name);
        let (stored, _) = self.held.iter().find(|(_, held)| is_it(held))?;
        self.files.shape_of(stored)
    }

    /// How many numbers all tensors have.
    pub(super) fn numbers(&self) -> usize {
        let shapes = self.held.keys().filter_map(|name| self.files.shape_of(name));
        shapes.map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Whether a tensor of the base is in the file, by its name in the base.
    pub(super) fn holds_base(&self, name: &str) -> bool {
        self.held.values().any(|held| *held == HeldTensor::Base(name.to_owned()))
    }

    /// The tensors of each target, and of no other module.
    ///
    /// # Errors
    /// One of another shape, one that is absent, one of a module that is no target.
    pub(super) fn tensors(&self, targets: &[Target], dora: bool) -> Result<Vec<ModuleTensors>, ModelError> {
        let is_target = |path: &str| targets.iter().any(|target| target.path == path);
        for (name, held) in &self.held {
            let (path, is_wanted) = match held {
                HeldTensor::A(path) | HeldTensor::B(path) => (path, true),
                HeldTensor::Magnitude(path) => (path, dora),
                HeldTensor::Base(_) => continue,
            };
            if !is_wanted || !is_target(path) {
                let what = format!(
                    "tensor {name} is of a module that {CONFIG_FILE} or the base has no such factor for"
                );
                let want = "target_modules, use_dora, the tensors and the base must be of one adapter";
                return Err(ModelError::input(&self.path, what, want));
            }
        }
        targets
            .iter()
            .map(|target| {
                let Target { path, outputs, inputs, rank, .. } = target;
                Ok(ModuleTensors {
                    a: self.tensor(&HeldTensor::A(path.clone()), &names::a(path), &[*rank, *inputs])?,
                    b: self.tensor(&HeldTensor::B(path.clone()), &names::b(path), &[*outputs, *rank])?,
                    magnitude: match dora {
                        true => {
                            let held = HeldTensor::Magnitude(path.clone());
                            Some(self.tensor(&held, &names::magnitude(path), &[*outputs])?)
                        }
                        false => None,
                    },
                })
            })
            .collect()
    }

    /// Tensors of the base that the adapter has its own values of, by their names in the base.
    ///
    /// # Errors
    /// One of another shape, one that the base has not, one that nothing in the configuration accounts for; a module to save
    /// that the file lacks.
    pub(super) fn base_tensors(
        &self,
        decoder: &Decoder,
        config: &AdapterConfig,
    ) -> Result<Vec<(String, Tensor)>, ModelError> {
        let mut found = Vec::new();
        for (stored, held) in &self.held {
            let HeldTensor::Base(name) = held else { continue };
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let is_saved = config.modules_to_save.iter().any(|saved| is_end_of(saved, module));
            let is_bias = name.ends_with(".bias") && config.bias != super::BiasTraining::None;
            let plain = plain_name(decoder, name);
            let shape = match decoder.parameters().find(name) {
                Some(id) => decoder.parameters().get(id).value.dims().to_vec(),
                None if plain.is_some() => {
                    let rows = self.files.shape_of(stored).and_then(|shape| shape.first()).copied();
                    vec![rows.unwrap_or(0), decoder.architecture().hidden_size]
                }
                None => Vec::new(),
            };
            if shape.is_empty() || !(is_saved || is_bias || EMBEDDINGS.contains(&name.as_str())) {
                let what =
                    format!("tensor {stored} is of a module that the base has not, or that is not saved");
                let want = format!(
                    "modules_to_save and bias of {CONFIG_FILE}, the tensors and the base must be of one adapter"
                );
                return Err(ModelError::input(&self.path, what, want));
            }
            let name = plain.map_or_else(|| name.clone(), str::to_owned);
            found.push((name, self.read(stored, &shape)?));
        }
        // In the order in which a training adds them.
        found.sort_by_key(|(name, _)| [VALUE, PROMPT].iter().position(|head| head == name));
        let bases = || {
            self.held.values().filter_map(|held| match held {
                HeldTensor::Base(name) => name.rsplit_once('.').map(|(module, _)| module),
                _ => None,
            })
        };
        for name in &config.modules_to_save {
            let is_there = bases().any(|module| is_end_of(name, module));
            let is_other = CLASSIFIERS.contains(&name.as_str()) && self.held.values().any(is_head);
            if !is_there && !is_other {
                let what = format!("it has no tensor of {name}, which modules_to_save names");
                return Err(ModelError::input(&self.path, what, "copy the whole folder again"));
            }
        }
        Ok(found)
    }

    /// The tensor that is `held`, under whichever name; `usual` is for messages.
    fn tensor(&self, held: &HeldTensor, usual: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        match self.held.iter().find(|(_, one)| *one == held) {
            Some((name, _)) => self.read(name, shape),
            None => Err(ModelError::input(
                &self.path,
                format!("it lacks {usual}"),
                format!("every module that {CONFIG_FILE} targets in the base has its factors there"),
            )),
        }
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let found = self.files.shape_of(name).unwrap_or_default();
        if found != shape {
            return Err(ModelError::input(
                &self.path,
                format!("tensor {name} has shape {found:?}"),
                format!("the base and {CONFIG_FILE} make it {shape:?}: they must be of one adapter"),
            ));
        }
        let spec = TensorSpec { name: name.to_owned(), shape: shape.to_vec(), kind: ParameterKind::Matrix };
        self.files.get(&spec, DType::F32, &Device::Cpu)
    }
}
