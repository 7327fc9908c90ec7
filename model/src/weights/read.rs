//! Reading a model's weights: safetensors, whole or sharded, or a GGUF, memory-mapped and checked before use.
//!
//! Nothing is believed before it was checked: the header's length and layout, the index against its shards, every
//! tensor's shape against the architecture, every number for being finite. Names may carry the prefixes that
//! wrappers of reward models leave (`backbone.`, `pretrained_model.`, …) or lack the leading `model.`; both are
//! read as the plain Hugging Face name.
//!
//! Past 400 lines because every check of a foreign file should be found in one place. The reading that they guard is `read/numbers.rs`.

mod numbers;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::DType;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError};
use serde_json::Value;

use super::streamed::StreamedTensor;
use super::{AGAIN, Adjustment, Encoding, INDEX_FILE, SINGLE_FILE, TensorLocation, map, nf4, release};
use crate::adapter;
use crate::architecture::{Architecture, StoredDtype, TensorSpec};
use crate::error::ModelError;
use crate::gguf::{self, Gguf};
use crate::json::read_json;
use crate::linear::Nf4Matrix;

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

/// A file of weights; places in it count from its begin.
struct MappedShard {
    path: PathBuf,
    map: Mmap,
}

/// A safetensors file whose header was read.
struct SafetensorsFile {
    shard: MappedShard,
    /// Where the numbers begin: after the length and the header.
    data: usize,
    metadata: Metadata,
}

/// The weights of a model, open and memory-mapped.
pub struct WeightFiles {
    folder: PathBuf,
    shards: Vec<MappedShard>,
    places: HashMap<String, TensorLocation>,
}

impl WeightFiles {
    /// Opens `folder`/model.safetensors, or the shards of `folder`/model.safetensors.index.json; or the GGUF that `folder`
    /// is.
    ///
    /// Errors: neither is there (a `.bin` file is named with the remedy), a header that is damaged or absurd, a
    /// file cut short, a shard that is missing, a tensor that the index places in a shard that lacks it.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        if gguf::is_gguf(folder) {
            return Self::of_gguf(Gguf::open(folder)?);
        }
        let single = folder.join(SINGLE_FILE);
        let index = folder.join(INDEX_FILE);
        let files = if single.is_file() {
            vec![open_shard(&single)?]
        } else if index.is_file() {
            open_index(folder, &index)?
        } else {
            return Err(no_weights(folder));
        };
        let mut places = places(folder, &files)?;
        let shards: Vec<MappedShard> = files.into_iter().map(|file| file.shard).collect();
        nf4::gather(&mut places, |place: &TensorLocation| bytes_of(&shards, place))
            .map_err(|fault| ModelError::input(&shards[fault.shard].path, fault.what, fault.remedy))?;
        Ok(Self { folder: folder.to_path_buf(), shards, places })
    }

    /// Opens one file, whose names stay as they stand in it.
    ///
    /// Errors: as [`Self::open`] of a file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, ModelError> {
        let file = open_shard(path)?;
        let names = file.metadata.tensors().into_keys();
        let places = names.filter_map(|name| Some((name.clone(), file.place(0, name)?))).collect();
        let folder = path.parent().unwrap_or(path).to_path_buf();
        Ok(Self { folder, shards: vec![file.shard], places })
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

    fn of_gguf(gguf: Gguf) -> Result<Self, ModelError> {
        let path = gguf.path().to_path_buf();
        let mut places = HashMap::new();
        for (name, place) in gguf.stored()? {
            let stored_name = place.stored_name.clone();
            if places.insert(name.clone(), place).is_some() {
                let what = format!("its tensor {stored_name} is not the only one for {name}");
                return Err(ModelError::input(path, what, AGAIN));
            }
        }
        let shards = vec![MappedShard { path: path.clone(), map: gguf.into_map() }];
        Ok(Self { folder: path, shards, places })
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

    /// Whether [`WeightFiles::read_into`] can read the tensor of `spec`. Errors: it is missing or of another shape.
    pub(crate) fn is_numbers(&self, spec: &TensorSpec) -> Result<bool, ModelError> {
        Ok(!matches!(self.checked_place(spec)?.encoding, Encoding::Nf4(_) | Encoding::Other(_)))
    }

    /// Whether the tensor of `spec` is stored in four bits. Errors: it is missing or of another shape.
    pub(crate) fn is_quantized(&self, spec: &TensorSpec) -> Result<bool, ModelError> {
        Ok(matches!(self.checked_place(spec)?.encoding, Encoding::Nf4(_)))
    }

    /// The tensor of `spec`, where its numbers can be read piece by piece, to be computed with in `dtype`. Errors: it is missing or of
    /// another shape.
    pub(super) fn streamed(
        &self,
        spec: &TensorSpec,
        dtype: DType,
    ) -> Result<Option<StreamedTensor<'_>>, ModelError> {
        let place = self.checked_place(spec)?;
        let is_streamed = matches!(place.encoding, Encoding::Plain(_) | Encoding::Blocks(_))
            && !matches!(place.adjustment, Adjustment::UnpairRows { .. });
        let is_plain = matches!(place.encoding, Encoding::Plain(stored) if stored.dtype() == dtype)
            && place.adjustment == Adjustment::None;
        let MappedShard { path, map } = &self.shards[place.shard];
        Ok(is_streamed.then_some(StreamedTensor { path, map, place, is_plain }))
    }

    /// The matrix of this name, where it is stored as NF4. Errors: another shape than `spec` says, scales that are not
    /// finite.
    pub(crate) fn nf4(&self, spec: &TensorSpec) -> Result<Option<Nf4Matrix>, ModelError> {
        let place = self.checked_place(spec)?;
        match place.encoding {
            Encoding::Nf4(_) => self.nf4_at(place).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn nf4_at(&self, place: &TensorLocation) -> Result<Nf4Matrix, ModelError> {
        let shard = &self.shards[place.shard];
        let matrix = nf4::matrix(place, |place: &TensorLocation| self.bytes(place)).map_err(|what| {
            let what = format!("tensor {} {what}", place.stored_name);
            ModelError::input(&shard.path, what, AGAIN)
        })?;
        release(&shard.map, &place.bytes);
        Ok(matrix)
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
        let is_own = if head.encoding == embedding.encoding {
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
                        *count += place.element_count();
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

    pub(super) fn checked_place(&self, spec: &TensorSpec) -> Result<&TensorLocation, ModelError> {
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

    /// The folder, or the GGUF.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file, stored name and shape of the tensor of this (plain) name.
    pub(super) fn stored(&self, name: &str) -> Option<(&Path, &str, &[usize])> {
        let place = self.places.get(name)?;
        Some((&self.shards[place.shard].path, &place.stored_name, self.shape(place)))
    }

    fn shape<'a>(&self, place: &'a TensorLocation) -> &'a [usize] {
        &place.shape
    }

    pub(super) fn bytes(&self, place: &TensorLocation) -> &[u8] {
        bytes_of(&self.shards, place)
    }

    pub(super) fn stored_dtype_at(&self, place: &TensorLocation) -> Result<StoredDtype, ModelError> {
        place.encoding.written_as().ok_or_else(|| {
            let format = match &place.encoding {
                Encoding::Other(name) => name.as_str(),
                _ => "blocks",
            };
            ModelError::input(
                &self.shards[place.shard].path,
                format!("tensor {} is stored as {format}", place.stored_name),
                "supported are F32, BF16 and F16",
            )
        })
    }
}

/// The error of a number that nothing can be computed with.
pub(super) fn not_finite(path: &Path, stored_name: &str, index: usize) -> ModelError {
    ModelError::input(
        path,
        format!("tensor {stored_name} holds a NaN or an infinity at flat index {index}"),
        "weights must be finite: take another checkpoint or fetch the file again",
    )
}

/// The bytes of a tensor, whose place was checked against its file when that was opened.
fn bytes_of<'a>(shards: &'a [MappedShard], place: &TensorLocation) -> &'a [u8] {
    shards[place.shard].map.get(place.bytes.clone()).unwrap_or(&[])
}

/// The name of a GGUF in the folder.
fn gguf_in(folder: &Path) -> Option<String> {
    let names =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.to_ascii_lowercase().ends_with(".gguf")).min()
}

fn no_weights(folder: &Path) -> ModelError {
    if !folder.is_dir() {
        return ModelError::input(folder, "there is no such folder", "name a model folder that exists");
    }
    if let Some(fault) = adapter::fault(folder) {
        return fault;
    }
    if let Some(file) = gguf_in(folder) {
        return ModelError::input(
            folder,
            format!("its weights are in {file}"),
            format!("name that file itself: {}", folder.join(&file).display()),
        );
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

fn open_shard(path: &Path) -> Result<SafetensorsFile, ModelError> {
    let map = map(path, "every shard must be there")?;
    match SafeTensors::read_metadata(&map) {
        Ok((header, metadata)) => {
            let shard = MappedShard { path: path.to_path_buf(), map };
            Ok(SafetensorsFile { shard, data: header + 8, metadata })
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

fn open_index(folder: &Path, index: &Path) -> Result<Vec<SafetensorsFile>, ModelError> {
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

fn places(folder: &Path, shards: &[SafetensorsFile]) -> Result<HashMap<String, TensorLocation>, ModelError> {
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
            if (is_exact || !places.contains_key(&name))
                && let Some(place) = shard.place(number, stored_name)
            {
                places.insert(name, place);
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

impl SafetensorsFile {
    /// Where the tensor of this name is; `number` is the file's.
    fn place(&self, number: usize, stored_name: String) -> Option<TensorLocation> {
        let info = self.metadata.info(&stored_name)?;
        let encoding = match info.dtype {
            Dtype::F32 => Encoding::Plain(StoredDtype::F32),
            Dtype::BF16 => Encoding::Plain(StoredDtype::Bf16),
            Dtype::F16 => Encoding::Plain(StoredDtype::F16),
            other => Encoding::Other(format!("{other:?}")),
        };
        // The offsets were checked against the file's length when it was opened.
        let bytes = self.data + info.data_offsets.0..self.data + info.data_offsets.1;
        let (shard, shape) = (number, info.shape.clone());
        Some(TensorLocation { shard, stored_name, shape, encoding, bytes, adjustment: Adjustment::None })
    }
}
