//! Reading a model folder's weights: safetensors, whole or sharded, memory-mapped and checked before use.
//!
//! Nothing is believed before it was checked: the header's length and layout, the index against its shards, every
//! tensor's shape against the architecture, every number for being finite. Names may carry the prefixes that
//! wrappers of reward models leave (`backbone.`, `pretrained_model.`, …) or lack the leading `model.`; both are
//! read as the plain Hugging Face name.
//!
//! Past 400 lines because every check of a foreign file should be found in one place, beside the reading that it
//! guards.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError};
use serde_json::Value;

use super::{INDEX_FILE, SINGLE_FILE};
use crate::adapter;
use crate::architecture::{Architecture, StoredDtype, TensorSpec};
use crate::error::ModelError;
use crate::json::read_json;

const AGAIN: &str = "fetch or copy the file again";
/// What wrappers put before a name; taken off as often as they stand there.
const WRAPPERS: [&str; 8] = [
    "module.",
    "_orig_mod.",
    "pretrained_model.",
    "backbone.",
    "base_model.",
    "reward_model.",
    "policy.",
    // A multimodal model's; transformers 5 has `model.` before it, 4 after it.
    "language_model.",
];
/// Numbers decoded by one task: 64 Ki are large enough to hide its cost.
const DECODE_CHUNK: usize = 1 << 16;

struct MappedShard {
    path: PathBuf,
    map: Mmap,
    /// Where the numbers begin: after the length and the header.
    data: usize,
    metadata: Metadata,
}

struct TensorLocation {
    shard: usize,
    /// The name in the file, prefixes and all.
    stored_name: String,
}

/// The weights of a model folder, open and memory-mapped.
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<MappedShard>,
    places: HashMap<String, TensorLocation>,
}

impl WeightFiles {
    /// Opens `folder`/model.safetensors, or the shards of `folder`/model.safetensors.index.json.
    ///
    /// Errors: neither is there (a `.bin` file is named with the remedy), a header that is damaged or absurd, a
    /// file cut short, a shard that is missing, a tensor that the index places in a shard that lacks it.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join(SINGLE_FILE);
        let index = folder.join(INDEX_FILE);
        let shards = if single.is_file() {
            vec![open_shard(&single)?]
        } else if index.is_file() {
            open_index(folder, &index)?
        } else {
            return Err(no_weights(folder));
        };
        let places = places(folder, &shards)?;
        Ok(Self { folder: folder.to_path_buf(), shards, places })
    }

    /// Opens one file, whose names stay as they stand in it.
    ///
    /// Errors: as [`Self::open`] of a file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, ModelError> {
        let shard = open_shard(path)?;
        let names = shard.metadata.tensors().into_keys();
        let places =
            names.map(|name| (name.clone(), TensorLocation { shard: 0, stored_name: name })).collect();
        let folder = path.parent().unwrap_or(path).to_path_buf();
        Ok(Self { folder, shards: vec![shard], places })
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.places.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The shape of a tensor.
    pub(crate) fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| self.shape(place))
    }

    /// Whether the tensor of this (plain) name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Checks that every tensor of the architecture is there with its shape; with `needs_lm_head` false, a missing
    /// output head is no fault (preference models do without).
    pub fn check(&self, architecture: &Architecture, needs_lm_head: bool) -> Result<(), ModelError> {
        let modules = architecture.modules();
        let specs = modules.tensors();
        let missing: Vec<&str> = specs
            .iter()
            .map(|spec| spec.name.as_str())
            .filter(|name| !self.contains(name) && (needs_lm_head || !modules.is_of_head(name)))
            .collect();
        if !missing.is_empty() {
            let first = missing[..missing.len().min(3)].join(", ");
            let more =
                if missing.len() > 3 { format!(" and {} more", missing.len() - 3) } else { String::new() };
            return Err(ModelError::input(
                &self.folder,
                format!("the weights lack {first}{more}"),
                "weights and config.json must be of one model",
            ));
        }
        for spec in specs.iter().filter(|spec| self.contains(&spec.name)) {
            self.checked_place(spec)?;
        }
        Ok(())
    }

    /// The tensor of `spec` as `dtype` (f32, f64, bf16 or f16) on `device`.
    ///
    /// Errors: it is missing, of another shape, stored in a format other than f32, bf16 and f16, or holds a number
    /// that is not finite.
    pub fn get(&self, spec: &TensorSpec, dtype: DType, device: &Device) -> Result<Tensor, ModelError> {
        let place = self.checked_place(spec)?;
        let shard = &self.shards[place.shard];
        let stored = self.stored_dtype_at(place)?;
        let bytes = self.bytes(place);
        let bad = |index: usize| {
            ModelError::input(
                &shard.path,
                format!("tensor {} holds a NaN or an infinity at flat index {index}", place.stored_name),
                "weights must be finite: take another checkpoint or fetch the file again",
            )
        };
        let shape = spec.shape.as_slice();
        let tensor = match dtype {
            DType::F32 => Tensor::from_vec(decode(bytes, stored, |x| x).map_err(bad)?, shape, &Device::Cpu)?,
            DType::F64 => {
                Tensor::from_vec(decode(bytes, stored, f64::from).map_err(bad)?, shape, &Device::Cpu)?
            }
            DType::BF16 => {
                let values = decode(bytes, stored, half::bf16::from_f32).map_err(bad)?;
                Tensor::from_vec(values, shape, &Device::Cpu)?
            }
            DType::F16 => {
                let values = decode(bytes, stored, half::f16::from_f32).map_err(bad)?;
                Tensor::from_vec(values, shape, &Device::Cpu)?
            }
            other => {
                return Err(ModelError::value(
                    format!("weights cannot be computed in {other:?}"),
                    "use f32, f64, bf16 or f16",
                ));
            }
        };
        Ok(tensor.to_device(device)?)
    }

    /// Whether config.json ties the output head to the embedding, and yet there is a head with other numbers. Transformers 5
    /// then uses the head, and so does this crate: the head was trained.
    ///
    /// Errors: a head of another shape than the embedding.
    pub fn has_own_output_head(&self, architecture: &Architecture) -> Result<bool, ModelError> {
        let (Some(head), Some(embedding)) =
            (self.places.get("lm_head.weight"), self.places.get("model.embed_tokens.weight"))
        else {
            return Ok(false);
        };
        if !architecture.tie_embeddings {
            return Ok(false);
        }
        let is_own = if self.stored_dtype_at(head)? == self.stored_dtype_at(embedding)? {
            self.shape(head) != self.shape(embedding) || self.bytes(head) != self.bytes(embedding)
        } else {
            true
        };
        if is_own {
            tracing::warn!(
                "{}: config.json ties lm_head.weight to the embedding, but the file has another lm_head.weight: it is used",
                self.folder.display()
            );
        }
        Ok(is_own)
    }

    /// The format that most of the stored numbers are in; `None` where that is none of f32, bf16 and f16.
    pub fn stored_dtype(&self) -> Option<StoredDtype> {
        let mut counts = [(StoredDtype::F32, 0usize), (StoredDtype::Bf16, 0), (StoredDtype::F16, 0)];
        for place in self.places.values() {
            if let Ok(stored) = self.stored_dtype_at(place) {
                for (dtype, count) in &mut counts {
                    if *dtype == stored {
                        *count += self.bytes(place).len() / stored.dtype().size_in_bytes();
                    }
                }
            }
        }
        counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .max_by_key(|(_, count)| *count)
            .map(|(dtype, _)| dtype)
    }

    fn checked_place(&self, spec: &TensorSpec) -> Result<&TensorLocation, ModelError> {
        let Some(place) = self.places.get(&spec.name) else {
            return Err(ModelError::input(
                &self.folder,
                format!("the weights lack {}", spec.name),
                "weights and config.json must be of one model",
            ));
        };
        let found = self.shape(place);
        if found != spec.shape {
            return Err(ModelError::input(
                &self.shards[place.shard].path,
                format!("tensor {} has shape {found:?}", place.stored_name),
                format!(
                    "config.json makes it {:?}: weights and config.json must be of one model",
                    spec.shape
                ),
            ));
        }
        Ok(place)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file, stored name and shape of the tensor of this (plain) name.
    pub(super) fn stored(&self, name: &str) -> Option<(&Path, &str, &[usize])> {
        let place = self.places.get(name)?;
        Some((&self.shards[place.shard].path, &place.stored_name, self.shape(place)))
    }

    fn shape(&self, place: &TensorLocation) -> &[usize] {
        self.shards[place.shard].metadata.info(&place.stored_name).map_or(&[], |info| &info.shape)
    }

    fn bytes(&self, place: &TensorLocation) -> &[u8] {
        let shard = &self.shards[place.shard];
        // The offsets were checked against the file's length when it was opened.
        shard.metadata.info(&place.stored_name).map_or(&[], |info| {
            &shard.map[shard.data + info.data_offsets.0..shard.data + info.data_offsets.1]
        })
    }

    fn stored_dtype_at(&self, place: &TensorLocation) -> Result<StoredDtype, ModelError> {
        let shard = &self.shards[place.shard];
        match shard.metadata.info(&place.stored_name).map(|info| info.dtype) {
            Some(Dtype::F32) => Ok(StoredDtype::F32),
            Some(Dtype::BF16) => Ok(StoredDtype::Bf16),
            Some(Dtype::F16) => Ok(StoredDtype::F16),
            other => Err(ModelError::input(
                &shard.path,
                format!("tensor {} is stored as {other:?}", place.stored_name),
                "supported are F32, BF16 and F16",
            )),
        }
    }
}

fn no_weights(folder: &Path) -> ModelError {
    if !folder.is_dir() {
        return ModelError::input(folder, "there is no such folder", "name a model folder that exists");
    }
    if let Some(fault) = adapter::fault(folder) {
        return fault;
    }
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];
    match pickled.iter().find(|name| folder.join(name).exists()) {
        Some(name) => ModelError::input(
            folder,
            format!("its weights are in {name}, which only Python can read"),
            "convert them: in transformers, from_pretrained(…).save_pretrained(…) writes model.safetensors",
        ),
        None => ModelError::input(
            folder,
            format!("it holds neither {SINGLE_FILE} nor {INDEX_FILE}"),
            "a model folder holds its weights as safetensors",
        ),
    }
}

fn open_shard(path: &Path) -> Result<MappedShard, ModelError> {
    let file = selfplay_records::open_regular(path)
        .map_err(|error| ModelError::reading(path, error, "every shard must be there"))?;
    let length = file.metadata().map_err(|error| ModelError::io(path, error))?.len();
    if length < 8 {
        return Err(ModelError::input(path, format!("it is only {length} bytes long"), AGAIN));
    }
    // SAFETY: the map is read-only; a file that another process cuts short meanwhile ends this one by SIGBUS, as
    // with every reader of safetensors.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
    if map.starts_with(b"version https://git-lfs") {
        let what = "it is a Git LFS pointer, not the weights";
        return Err(ModelError::input(path, what, "run `git lfs pull` in the model's folder"));
    }
    match SafeTensors::read_metadata(&map) {
        Ok((header, metadata)) => {
            Ok(MappedShard { path: path.to_path_buf(), map, data: header + 8, metadata })
        }
        Err(error) => Err(ModelError::input(path, header_fault(&error, &map), AGAIN)),
    }
}

fn header_fault(error: &SafeTensorError, map: &[u8]) -> String {
    let claimed = map.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    match error {
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => format!(
            "not a safetensors file, or damaged: its header claims {claimed} bytes, the file has {}",
            map.len()
        ),
        SafeTensorError::MetadataIncompleteBuffer => format!(
            "it is truncated or damaged: its {} bytes are not those that its header describes",
            map.len()
        ),
        other => format!("its safetensors header is damaged ({other})"),
    }
}

fn open_index(folder: &Path, index: &Path) -> Result<Vec<MappedShard>, ModelError> {
    let value = read_json(index, "a sharded model has it")?;
    let Some(table) = value.get("weight_map").and_then(Value::as_object).filter(|table| !table.is_empty())
    else {
        return Err(ModelError::input(index, "it has no `weight_map`", "it must map tensor names to files"));
    };
    // File name → the tensors that it must hold.
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in table {
        let Some(file) =
            file.as_str().filter(|file| Path::new(file).file_name().is_some_and(|name| name == *file))
        else {
            return Err(ModelError::input(
                index,
                format!("`weight_map` places {tensor} in {file}"),
                "it must be the name of a file in the same folder",
            ));
        };
        files.entry(file).or_default().push(tensor);
    }
    for file in files.keys() {
        if !folder.join(file).is_file() {
            return Err(ModelError::input(
                folder,
                format!("the shard {file} is missing ({INDEX_FILE} names {} files)", files.len()),
                "fetch it, or copy the whole folder again",
            ));
        }
    }
    let mut shards = Vec::with_capacity(files.len());
    for (file, tensors) in files {
        let shard = open_shard(&folder.join(file))?;
        if let Some(absent) = tensors.iter().find(|name| shard.metadata.info(name).is_none()) {
            return Err(ModelError::input(
                index,
                format!("it places {absent} in {file}, which does not hold it"),
                "index and shards must be of one model: copy the whole folder again",
            ));
        }
        shards.push(shard);
    }
    Ok(shards)
}

fn places(folder: &Path, shards: &[MappedShard]) -> Result<HashMap<String, TensorLocation>, ModelError> {
    let mut places: HashMap<String, TensorLocation> = HashMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let mut names: Vec<String> = shard.metadata.tensors().into_keys().collect();
        names.sort();
        for stored_name in names {
            let name = plain_name(&stored_name);
            let is_exact = name == stored_name;
            if let Some(other) = places.get(&name)
                && (other.stored_name == name) == is_exact
            {
                return Err(ModelError::input(
                    folder,
                    format!("tensors {} and {stored_name} are both {name}", other.stored_name),
                    "keep one of the two",
                ));
            }
            // A plain name wins over one that had to be stripped.
            if is_exact || !places.contains_key(&name) {
                places.insert(name, TensorLocation { shard: number, stored_name });
            }
        }
    }
    Ok(places)
}

/// The Hugging Face name of a causal language model's tensor, whatever wrapper saved it.
fn plain_name(stored: &str) -> String {
    let is_body =
        |name: &str| ["embed_tokens.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
    let mut rest = stored;
    loop {
        if let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            rest = inner;
            continue;
        }
        match rest.strip_prefix("model.") {
            Some(inner) if is_body(inner) => return rest.to_owned(),
            Some(inner) => rest = inner,
            None => break,
        }
    }
    if is_body(rest) { format!("model.{rest}") } else { rest.to_owned() }
}

/// Numbers of the stored format, converted; the error is the flat index of the first one that is not finite.
fn decode<T: Clone + Default + Send>(
    bytes: &[u8],
    stored: StoredDtype,
    convert: impl Fn(f32) -> T + Sync,
) -> Result<Vec<T>, usize> {
    let width = stored.dtype().size_in_bytes();
    let mut values = vec![T::default(); bytes.len() / width];
    let first_bad = values
        .par_chunks_mut(DECODE_CHUNK)
        .zip(bytes.par_chunks(DECODE_CHUNK * width))
        .enumerate()
        .filter_map(|(chunk, (values, bytes))| {
            let mut bad = None;
            for (index, (value, bytes)) in values.iter_mut().zip(bytes.chunks_exact(width)).enumerate() {
                let number = match (stored, bytes) {
                    (StoredDtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
                    (StoredDtype::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
                    (StoredDtype::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
                    _ => f32::NAN,
                };
                if !number.is_finite() && bad.is_none() {
                    bad = Some(chunk * DECODE_CHUNK + index);
                }
                *value = convert(number);
            }
            bad
        })
        .min();
    first_bad.map_or(Ok(values), Err)
}
