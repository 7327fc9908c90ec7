//! A decoder from a model folder, or with random weights; and back into a folder.

use std::path::Path;
use std::sync::{Arc, RwLock};

use candle_core::{DType, Device, Tensor};

use super::Decoder;
use super::block::Block;
use super::join_rooms::{JoinRooms, Joins};
use super::load_share::{NumberSource, ShareLoad};
use super::rotary::RotaryTables;
use crate::architecture::layout::Modules;
use crate::architecture::{Architecture, TensorSpec};
use crate::cpu::storage::unwritten_tensor;
use crate::error::ModelError;
use crate::gpu::Gpu;
use crate::linear::{Linear, Nf4Matrix};
use crate::parameters::{Parameter, Parameters};
use crate::preference::load_heads;
use crate::shares::ModelShare;
use crate::weights::{self, StagedWeights, WeightFiles, random_tensor};

/// How weights are brought in.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where they go.
    pub device: Device,
    /// The dtype of computation; by default f32 on a CPU, as stored on CUDA.
    pub dtype: Option<DType>,
    /// Whether the heads of a preference model are loaded; a language model's output head may then be absent.
    pub heads: bool,
    /// Whether the maps of the blocks are quantised as they are loaded: they are frozen then. Those that a checkpoint has
    /// quantised are so without it.
    pub quantize: Option<Quantization>,
    /// What the decoder is for.
    pub purpose: LoadPurpose,
    /// Where several ranks hold the model, each its own ranges: this one, which loads no other numbers
    /// ([`Decoder::is_divided`]). A model with maps of four bits is loaded whole all the same.
    pub share: Option<ModelShare>,
}

/// What a decoder is loaded for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadPurpose {
    /// To compute with.
    #[default]
    Compute,
    /// To be refused if anything is wrong with it: all weights are looked through and none is kept. Nothing can be computed with what
    /// comes of it, whose weights are zeros that take no memory; it tells of its parts and takes adapters as any other.
    Check,
}

/// How maps are quantised when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// Four bits a number in blocks of 64, with scales of eight bits (bitsandbytes' NF4, double quantised).
    Nf4,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let purpose = LoadPurpose::Compute;
        Self { device: Device::Cpu, dtype: None, heads: false, quantize: None, purpose, share: None }
    }
}

impl LoadOptions {
    fn compute_dtype(&self, stored: DType) -> DType {
        match (&self.device, self.dtype) {
            (Device::Cpu, Some(DType::F64)) => DType::F64,
            // The tests' emulator computes as a GPU does.
            (Device::Cpu, Some(dtype)) if Gpu::at(&self.device).is_ok_and(|gpu| gpu.is_some()) => dtype,
            // The contract's "dtype auto" on CPU; a recipe's bf16 is about what `policy/` is written in.
            (Device::Cpu, _) => DType::F32,
            (_, Some(dtype)) => dtype,
            (_, None) => stored,
        }
    }
}

/// The map of `spec` in four bits, where it is stored or wanted so.
fn quantized(
    files: &WeightFiles,
    spec: &TensorSpec,
    options: &LoadOptions,
) -> Result<Option<Nf4Matrix>, ModelError> {
    let matrix = match (files.nf4(spec)?, options.quantize) {
        (Some(stored), _) => stored,
        // One dense matrix at a time.
        (None, Some(Quantization::Nf4)) => {
            Nf4Matrix::quantize(&files.get(spec, DType::F32, &Device::Cpu)?)?
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(matrix.placed_on(&options.device)?))
}

/// Dense tensors from files: what a GPU takes piece by piece goes there together at the end, everything else is read tensor by tensor. Maps
/// that one product computes go into one tensor at once.
struct DenseLoad<'a> {
    files: &'a WeightFiles,
    dtype: DType,
    device: &'a Device,
    staged: Option<StagedWeights<'a>>,
    rooms: JoinRooms<'a>,
}

impl<'a> DenseLoad<'a> {
    fn new(
        files: &'a WeightFiles,
        modules: &'a Modules,
        dtype: DType,
        options: &'a LoadOptions,
    ) -> Result<Self, ModelError> {
        let device = &options.device;
        let staged = StagedWeights::new(files, dtype, device)?;
        // Another device gets tensors that were read on the host.
        let rooms = match options.quantize.is_none() && (staged.is_some() || device.is_cpu()) {
            false => JoinRooms::none(modules),
            true => JoinRooms::make(
                modules,
                |spec| match &staged {
                    Some(staged) => staged.takes(spec),
                    None => files.is_numbers(spec),
                },
                |shape| match &staged {
                    Some(staged) => staged.room(shape),
                    None => Ok(unwritten_tensor(shape, dtype)?),
                },
            )?,
        };
        Ok(Self { files, dtype, device, staged, rooms })
    }

    /// The tensor of `spec`, whose numbers may come with [`DenseLoad::finish`].
    fn tensor(&mut self, spec: &TensorSpec) -> Result<Tensor, ModelError> {
        let rows = self.rooms.take(&spec.name);
        match &mut self.staged {
            Some(staged) if staged.takes(spec)? => {
                let room = match rows {
                    Some(rows) => rows,
                    None => staged.room(&spec.shape)?,
                };
                staged.add(spec, &room)?;
                Ok(room)
            }
            _ => match rows {
                Some(rows) => {
                    self.files.read_into(spec, &rows)?;
                    Ok(rows)
                }
                None => self.files.get(spec, self.dtype, self.device),
            },
        }
    }

    /// Brings what is not there yet.
    fn finish(self) -> Result<(), ModelError> {
        self.staged.map_or(Ok(()), StagedWeights::load)
    }
}

/// The share that is to be loaded; `None` where all is, as there is a map of four bits among these tensors or one is to be.
fn share_of(
    files: &WeightFiles,
    specs: &[TensorSpec],
    options: &LoadOptions,
) -> Result<Option<ModelShare>, ModelError> {
    let Some(share) = options.share.filter(|_| options.quantize.is_none()) else { return Ok(None) };
    for spec in specs {
        if files.is_quantized(spec)? {
            return Ok(None);
        }
    }
    Ok(Some(share))
}

/// All numbers of these tensors.
fn whole(
    files: &WeightFiles,
    modules: &Modules,
    specs: Vec<TensorSpec>,
    dtype: DType,
    options: &LoadOptions,
) -> Result<Parameters, ModelError> {
    let mut parameters = Parameters::default();
    let mut dense = DenseLoad::new(files, modules, dtype, options)?;
    for spec in specs {
        if modules.is_of_block(&spec)
            && let Some(matrix) = quantized(files, &spec, options)?
        {
            parameters.push_quantized(spec.name, matrix);
            continue;
        }
        let value = dense.tensor(&spec)?;
        let id = parameters.push(Parameter::new(spec.name, value, spec.kind));
        dense.rooms.after(&mut parameters, id)?;
    }
    dense.finish()?;
    Ok(parameters)
}

impl Decoder {
    /// Loads a model folder in Hugging Face layout, or a GGUF.
    ///
    /// # Errors
    /// What [`Architecture::load`] and [`WeightFiles`] refuse: all of it the user's input.
    pub fn load(folder: &Path, options: &LoadOptions) -> Result<Self, ModelError> {
        let mut architecture = Architecture::load(folder)?;
        let files = WeightFiles::open(folder)?;
        if !options.heads && files.has_own_output_head(&architecture)? {
            architecture.tie_embeddings = false;
        }
        files.check(&architecture, !options.heads)?;
        let stored = files.stored_dtype().or(architecture.stored_dtype).map_or(DType::F32, |d| d.dtype());
        let dtype = options.compute_dtype(stored);
        if options.purpose == LoadPurpose::Check {
            let mut decoder = Self::of_shapes(architecture, Some(&files), dtype, options)?;
            decoder.stored_dtype = stored;
            decoder.source = Some(folder.to_path_buf());
            return Ok(decoder);
        }
        let modules = architecture.modules();
        let is_there = |spec: &TensorSpec| !modules.is_of_head(&spec.name) || files.contains(&spec.name);
        let specs: Vec<TensorSpec> = modules.tensors().into_iter().filter(is_there).collect();
        let mut parameters = match share_of(&files, &specs, options)? {
            Some(share) => {
                let (source, device) = (NumberSource::Files(&files), &options.device);
                ShareLoad { source, share, dtype, device }.parameters(&modules, specs)?
            }
            None => whole(&files, &modules, specs, dtype, options)?,
        };
        if options.heads {
            load_heads(&files, &architecture, dtype, &options.device, &mut parameters)?;
        }
        let mut decoder = Self::assemble(architecture, parameters, &options.device, dtype)?;
        decoder.stored_dtype = stored;
        decoder.source = Some(folder.to_path_buf());
        Ok(decoder)
    }

    /// A decoder of fresh weights that depend on the seed and the tensors' names alone.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn random(architecture: Architecture, seed: u64, options: &LoadOptions) -> Result<Self, ModelError> {
        let stored = architecture.stored_dtype.map_or(DType::F32, |d| d.dtype());
        let dtype = options.compute_dtype(stored);
        if options.purpose == LoadPurpose::Check {
            let mut decoder = Self::of_shapes(architecture, None, dtype, options)?;
            decoder.stored_dtype = stored;
            return Ok(decoder);
        }
        let modules = architecture.modules();
        if let Some(share) = options.share.filter(|_| options.quantize.is_none()) {
            let (source, device) =
                (NumberSource::Fresh { architecture: &architecture, seed }, &options.device);
            let load = ShareLoad { source, share, dtype, device };
            let parameters = load.parameters(&modules, modules.tensors())?;
            let mut decoder = Self::assemble(architecture, parameters, device, dtype)?;
            decoder.stored_dtype = stored;
            return Ok(decoder);
        }
        let mut parameters = Parameters::default();
        let mut joins = Joins::of(&modules);
        for spec in modules.tensors() {
            let value = random_tensor(&spec, &architecture, seed, dtype, &options.device)?;
            if modules.is_of_block(&spec) && options.quantize.is_some() {
                let matrix = Nf4Matrix::quantize(&value)?.placed_on(&options.device)?;
                parameters.push_quantized(spec.name, matrix);
                continue;
            }
            let id = parameters.push(Parameter::new(spec.name, value, spec.kind));
            joins.after(&mut parameters, id)?;
        }
        let mut decoder = Self::assemble(architecture, parameters, &options.device, dtype)?;
        decoder.stored_dtype = stored;
        Ok(decoder)
    }

    /// A decoder of fresh weights with config and tokenizer of `folder` (the model `random:FOLDER`).
    ///
    /// # Errors
    /// What [`Architecture::load`] refuses.
    pub fn random_from(folder: &Path, seed: u64, options: &LoadOptions) -> Result<Self, ModelError> {
        let mut decoder = Self::random(Architecture::load(folder)?, seed, options)?;
        decoder.source = Some(folder.to_path_buf());
        Ok(decoder)
    }

    pub(super) fn assemble(
        architecture: Architecture,
        mut parameters: Parameters,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let modules = architecture.modules();
        for maps in Joins::of(&modules).maps() {
            Linear::join(&mut parameters, maps)?;
        }
        let find = |name: &str| {
            parameters.find(name).ok_or_else(|| {
                ModelError::value(
                    format!("the model has no tensor {name}"),
                    "this is a fault of selfplay: report it",
                )
            })
        };
        let blocks = (modules.layers.iter().enumerate())
            .map(|(layer, modules)| Block::new(&architecture, layer, modules, &parameters))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                ModelError::value(
                    "the model lacks a tensor of a block",
                    "this is a fault of selfplay: report it",
                )
            })?;
        let embedding = find(&modules.embedding.name)?;
        let head = match &modules.head {
            Some(head) => Linear::of(&parameters, std::slice::from_ref(head)),
            None => Linear::tied(&parameters, "lm_head", embedding),
        };
        Ok(Self {
            embedding,
            blocks,
            final_norm: find(&modules.final_norm.weight())?,
            head,
            adapter: None,
            dropout: None,
            rotary: RwLock::new(Arc::new(RotaryTables::new(&architecture, 0))),
            batch_invariant: false,
            hooks: None,
            device: device.clone(),
            dtype,
            stored_dtype: dtype,
            source: None,
            architecture,
            parameters,
        })
    }

    /// Writes the model into `folder`, which exists: safetensors in shards of at most `max_shard_bytes`, config and
    /// tokenizer from where the model was loaded; an adapter is merged into its modules on the way. `dtype` by default is the one that it was stored in.
    ///
    /// # Errors
    /// A failed write.
    pub fn save(
        &self,
        folder: &Path,
        dtype: Option<DType>,
        max_shard_bytes: usize,
    ) -> Result<(), ModelError> {
        let dtype = dtype.unwrap_or(self.stored_dtype);
        let source = self.source.as_deref();
        weights::save(folder, self.tensors(), dtype, max_shard_bytes, source, &self.architecture)
    }
}
