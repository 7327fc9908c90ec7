//! An adapter over a decoder: fresh or from a folder, and what of it is trained.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use selfplay_records::counter::fnv1a_64;

use super::config::AdapterConfig;
use super::fresh::{Factors, fresh_factors};
use super::module_names::is_end_of;
use super::read::{AdapterFile, ModuleTensors};
use super::start::AdapterStart;
use super::targets::{Target, targets};
use super::{BiasTraining, names};
use crate::architecture::ParameterKind;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::linear::lora::{Lora, Term};
use crate::parameters::{Parameter, ParameterId};

/// What was put over a decoder's weights.
#[derive(Clone, Debug)]
pub struct InstalledAdapter {
    pub(super) config: AdapterConfig,
    /// Paths of the modules with factors, in the order of a forward pass.
    pub(super) targets: Vec<String>,
    /// Whether a frozen term takes away what the trained one began as (PiSSA).
    pub(super) has_taken: bool,
}

impl InstalledAdapter {
    /// What it is.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Paths of the modules with factors, in the order of a forward pass.
    pub fn targets(&self) -> &[String] {
        &self.targets
    }
}

/// What a module's adapter is made of, before it has a place among the parameters.
struct AdapterParts {
    target: Target,
    trained: Factors,
    taken: Option<Factors>,
    magnitude: Option<Tensor>,
}

impl Decoder {
    /// Puts a fresh adapter over the weights; nothing of it is trained before [`Decoder::train_adapter`]. With all
    /// beginnings but pissa's rounding, the decoder computes what it did.
    ///
    /// # Errors
    /// A target or a module to save that the model has not; a rank above a module's sides with pissa.
    pub fn add_adapter(
        &mut self,
        config: AdapterConfig,
        start: AdapterStart,
        seed: u64,
    ) -> Result<(), ModelError> {
        self.untie_for(&config, |_| false)?;
        config.check_start(start, self.architecture())?;
        let targets = targets(&config, self.architecture())?;
        for name in &config.modules_to_save {
            self.saved_module(name)?;
        }
        let mut parts = Vec::with_capacity(targets.len());
        for target in targets {
            self.check_weight(&target.path)?;
            let fresh = fresh_factors(start, &target, || self.weight(&target.path), seed)?;
            let magnitude = match config.dora {
                false => None,
                // Of W itself: s·B·A is 0, or taken away again.
                true => {
                    let wide =
                        self.weight(&target.path)?.to_dtype(self.wide_dtype())?.to_device(&Device::Cpu)?;
                    Some(wide.sqr()?.sum(1)?.sqrt()?)
                }
            };
            parts.push(AdapterParts { target, trained: fresh.trained, taken: fresh.taken, magnitude });
        }
        self.attach(config, parts)
    }

    /// Puts the adapter of `folder` over the weights; nothing of it is trained before [`Decoder::train_adapter`].
    ///
    /// # Errors
    /// A folder that is no adapter's; options that are not supported; tensors of another shape than the model's, for modules
    /// that it has not, or absent: each by file and name.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<(), ModelError> {
        let config = AdapterConfig::load(folder)?;
        let file = AdapterFile::open(folder)?;
        self.warn_of_other_base(&config, folder);
        self.untie_for(&config, |name| file.holds_base(name))?;
        let in_folder = |error: ModelError| match error {
            ModelError::Value { what, remedy } => ModelError::input(folder, what, remedy),
            other => other,
        };
        let targets = targets(&config, self.architecture()).map_err(in_folder)?;
        let tensors = file.tensors(&targets, config.dora)?;
        let base = file.base_tensors(self, &config)?;
        let mut parts = Vec::with_capacity(targets.len());
        for (target, ModuleTensors { a, b, magnitude }) in targets.into_iter().zip(tensors) {
            parts.push(AdapterParts { target, trained: Factors { a, b }, taken: None, magnitude });
        }
        for (name, value) in base {
            self.put_base(name, &value)?;
        }
        self.attach(config, parts)
    }

    /// Parts an adapter of rank 2r, as pissa's are written, in the r that are trained and the r that take their beginning
    /// away.
    ///
    /// # Errors
    /// An odd rank; no adapter.
    pub fn split_adapter(&mut self) -> Result<(), ModelError> {
        let Some(installed) = self.adapter().cloned() else { return Ok(()) };
        let mut parts = Vec::new();
        let mut config = installed.config.halved();
        for mut target in targets(&installed.config, self.architecture())? {
            let half = target.rank / 2;
            if target.rank % 2 != 0 {
                let what = format!("the adapter's rank for {} is {}", target.path, target.rank);
                return Err(ModelError::value(what, "an even one, as pissa's are written"));
            }
            let value =
                |name: String| -> Result<Tensor, ModelError> { Ok(self.adapter_value(&name)?.clone()) };
            let (a, b) = (value(names::a(&target.path))?, value(names::b(&target.path))?);
            let half_of = |first: usize| -> Result<Factors, ModelError> {
                Ok(Factors {
                    a: a.narrow(0, first, half)?.copy()?,
                    b: b.narrow(1, first, half)?.contiguous()?.copy()?,
                })
            };
            let magnitude =
                installed.config.dora.then(|| value(names::magnitude(&target.path))).transpose()?;
            let (trained, taken) = (half_of(0)?, Some(half_of(half)?));
            target.rank = half;
            parts.push(AdapterParts { target, trained, taken, magnitude });
        }
        config.base = installed.config.base;
        self.drop_adapter()?;
        self.attach(config, parts)
    }

    /// Says what names the base that the adapter belongs on, and at which revision, where it is written.
    pub fn set_adapter_base(&mut self, base: String, revision: Option<String>) {
        if let Some(installed) = self.installed_adapter_mut() {
            (installed.config.base, installed.config.revision) = (base, revision);
        }
    }

    /// Trains the adapter with another dropout from now on.
    pub fn set_adapter_dropout(&mut self, share: f64) {
        if let Some(installed) = self.installed_adapter_mut() {
            installed.config.dropout = share;
        }
        let (maps, _) = self.maps_mut();
        for linear in maps {
            let mut adapters = linear.adapters().to_vec();
            adapters.iter_mut().for_each(|adapter| adapter.dropout = share);
            linear.adapt(adapters);
        }
    }

    /// Trains the adapter's factors and magnitudes, the modules that it saves whole and the biases that it names, and nothing
    /// else of the model; heads that no model folder knows stay as they are.
    pub fn train_adapter(&mut self) {
        let Some(installed) = self.adapter().cloned() else { return };
        let architecture: Vec<String> =
            self.architecture().tensors().into_iter().map(|tensor| tensor.name).collect();
        let taken: Vec<ParameterId> = self.taken_terms();
        let factors: Vec<ParameterId> = self
            .maps()
            .flat_map(|linear| linear.adapters())
            .flat_map(|adapter| adapter.parameters())
            .filter(|id| !taken.contains(id))
            .collect();
        let trained: Vec<bool> = self
            .parameters()
            .iter()
            .map(|(id, parameter)| {
                let is_of_base = architecture.contains(&parameter.name);
                let is_head = !is_of_base && !parameter.name.starts_with("base_model.");
                factors.contains(&id) || is_head || (is_of_base && installed.trains(parameter))
            })
            .collect();
        for (place, trains) in trained.into_iter().enumerate() {
            self.parameters_mut().get_mut(ParameterId(place)).trainable = trains;
        }
    }

    fn taken_terms(&self) -> Vec<ParameterId> {
        let adapters = self.maps().flat_map(|linear| linear.adapters());
        adapters.flat_map(|adapter| adapter.terms.iter().skip(1)).flat_map(|term| [term.a, term.b]).collect()
    }

    /// Makes the parts parameters, and gives the maps their adapters.
    fn attach(&mut self, config: AdapterConfig, parts: Vec<AdapterParts>) -> Result<(), ModelError> {
        if self.adapter().is_some() {
            return Err(ModelError::value("the model has an adapter already", "merge it first"));
        }
        let has_taken = parts.iter().any(|part| part.taken.is_some());
        let targets: Vec<String> = parts.iter().map(|part| part.target.path.clone()).collect();
        let mut adapters: BTreeMap<String, Lora> = BTreeMap::new();
        for AdapterParts { target, trained, taken, magnitude } in parts {
            let path = &target.path;
            let a = self.put(names::a(path), &trained.a)?;
            let b = self.put(names::b(path), &trained.b)?;
            let mut terms = vec![Term { a, b, scale: target.scale }];
            if let Some(taken) = taken {
                let a = self.put(format!("{}.taken", names::a(path)), &taken.a)?;
                let b = self.put(format!("{}.taken", names::b(path)), &taken.b)?;
                terms.push(Term { a, b, scale: target.scale });
            }
            let magnitude = magnitude.map(|m| self.put(names::magnitude(path), &m)).transpose()?;
            let key = fnv1a_64(path.as_bytes());
            let adapter = Lora { module: 0, terms, magnitude, dropout: config.dropout, key };
            adapters.insert(target.path, adapter);
        }
        let (maps, _) = self.maps_mut();
        for linear in maps {
            let own = linear.modules().iter().enumerate().filter_map(|(module, stored)| {
                adapters.remove(&stored.name).map(|adapter| Lora { module, ..adapter })
            });
            let own = own.collect();
            linear.adapt(own);
        }
        if let Some(path) = adapters.into_keys().next() {
            return Err(ModelError::value(
                format!("the model has no map for {path}"),
                "this is a fault of selfplay: report it",
            ));
        }
        *self.installed_adapter_mut() = Some(InstalledAdapter { config, targets, has_taken });
        Ok(())
    }

    fn put(&mut self, name: String, value: &Tensor) -> Result<ParameterId, ModelError> {
        // Weight decay leaves out norms and biases alone; a magnitude is neither.
        let parameter = self.adapter_parameter(name, value, ParameterKind::Matrix)?;
        Ok(self.parameters_mut().push(parameter))
    }

    /// Gives a tensor of the base its trained value, or adds one that the base has not (a preference model's head).
    fn put_base(&mut self, name: String, value: &Tensor) -> Result<(), ModelError> {
        let kind = match self.parameters().find(&name) {
            Some(id) => self.parameters().get(id).kind,
            None => ParameterKind::Matrix,
        };
        let parameter = Parameter { trainable: true, ..self.adapter_parameter(name, value, kind)? };
        match self.parameters().find(&parameter.name) {
            Some(id) => self.parameters_mut().replace(id, parameter),
            None => drop(self.parameters_mut().push(parameter)),
        }
        Ok(())
    }

    fn adapter_value(&self, name: &str) -> Result<&Tensor, ModelError> {
        match self.parameters().find(name) {
            Some(id) => Ok(self.parameters().get(id).full()),
            None => Err(ModelError::value(
                format!("the model has no {name}"),
                "this is a fault of selfplay: report it",
            )),
        }
    }

    /// That a module has a matrix.
    fn check_weight(&self, path: &str) -> Result<(), ModelError> {
        let name = format!("{path}.weight");
        match self.parameters().find_quantized(&name).is_some() || self.parameters().find(&name).is_some() {
            true => Ok(()),
            false => Err(no_weight(path)),
        }
    }

    /// The matrix of a module; a quantised one is decoded.
    fn weight(&self, path: &str) -> Result<Tensor, ModelError> {
        let name = format!("{path}.weight");
        let parameters = self.parameters();
        if let Some(id) = parameters.find_quantized(&name) {
            return Ok(parameters.quantized_matrix(id).dense(self.dtype())?);
        }
        match parameters.find(&name) {
            Some(id) => Ok(parameters.get(id).value.clone()),
            None => Err(no_weight(path)),
        }
    }

    /// A head that is the embedding gets a matrix of its own where an adapter changes one of the two.
    fn untie_for(&mut self, config: &AdapterConfig, holds: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        if !self.architecture().tie_embeddings {
            return Ok(());
        }
        let of_head = |target: &Target| target.path == "lm_head";
        let saved = |path: &str| config.modules_to_save.iter().any(|name| is_end_of(name, path));
        let touches = saved("lm_head") || saved("model.embed_tokens") || holds("lm_head.weight");
        if touches || targets(config, self.architecture()).is_ok_and(|targets| targets.iter().any(of_head)) {
            self.untie_head()?;
        }
        Ok(())
    }

    /// The parameters of a module that is to be saved whole.
    pub(super) fn saved_module(&self, name: &str) -> Result<Vec<ParameterId>, ModelError> {
        let is_of = |parameter: &Parameter| {
            parameter.name.rsplit_once('.').is_some_and(|(module, _)| is_end_of(name, module))
        };
        let found: Vec<ParameterId> =
            self.parameters().iter().filter(|(_, parameter)| is_of(parameter)).map(|(id, _)| id).collect();
        if found.is_empty() {
            let last = |name: &str| name.rsplit('.').nth(1).unwrap_or_default().to_owned();
            let mut have: Vec<String> = self.parameters().iter().map(|(_, one)| last(&one.name)).collect();
            have.sort_unstable();
            have.dedup();
            return Err(ModelError::value(
                format!("modules_to_save: the model has no module {name:?}"),
                format!("its modules are {}", have.join(", ")),
            ));
        }
        Ok(found)
    }

    fn warn_of_other_base(&self, config: &AdapterConfig, folder: &Path) {
        let Some(source) = self.source() else { return };
        let last = config.base.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let is_named = source.components().any(|part| part.as_os_str().to_string_lossy().ends_with(last));
        if !config.base.is_empty() && !is_named {
            tracing::warn!(
                "{}: the adapter was made for {}, and goes over {} here",
                folder.display(),
                config.base,
                source.display()
            );
        }
    }
}

fn no_weight(path: &str) -> ModelError {
    ModelError::value(
        format!("target_modules: the model has no {path}.weight"),
        "name modules that it has: a preference model has no output head",
    )
}

impl InstalledAdapter {
    /// Whether a tensor of the base is trained with the adapter.
    pub(super) fn trains(&self, parameter: &Parameter) -> bool {
        let Some((module, leaf)) = parameter.name.rsplit_once('.') else { return false };
        let has_factors = self.targets.iter().any(|target| target == module);
        let by_bias = leaf == "bias"
            && match self.config.bias {
                BiasTraining::None => false,
                BiasTraining::All => true,
                BiasTraining::LoraOnly => has_factors,
            };
        by_bias || self.config.modules_to_save.iter().any(|name| is_end_of(name, module))
    }
}
