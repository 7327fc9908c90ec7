//! GGUF: one file that holds a model's weights, often quantised, and all that goes along with them as metadata.
//!
//! A GGUF goes through the doors that a folder goes through: its metadata is put into the form of config.json,
//! generation_config.json, tokenizer.json and tokenizer_config.json ([`Gguf::companion`]), its tensors into Hugging Face's
//! names, order of rows and factors of norms (`names`), and from there on nobody asks what the model came from. Values of
//! quantised tensors are those of the format's own definition, which candle's `quantized` module computes.
//!
//! ```text
//! header         bytes → metadata and tensors, each length checked against the file before it is believed
//! metadata       typed access to the metadata
//! architecture   which models are read, and what their converter changes
//! config         metadata → config.json                   rope_factors   divisors of frequencies → rope_scaling
//! names          a tensor's name here → where it belongs
//! tokenizer      metadata → tokenizer.json and tokenizer_config.json
//! bpe, sentencepiece   the two kinds of vocabularies       pre_tokenizer  how texts are cut before BPE
//! ```

mod architecture;
mod bpe;
mod config;
mod header;
mod metadata;
mod names;
mod pre_tokenizer;
mod rope_factors;
mod sentencepiece;
mod tokenizer;
mod vocabulary;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde_json::Value;

use self::architecture::GgufArchitecture;
use self::header::{MetadataEntry, TensorEntry};
use crate::error::ModelError;
use crate::weights::{TensorLocation, map};

/// A GGUF whose header was read.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: BTreeMap<String, MetadataEntry>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// Whether a model is named by a file and not by a folder: one that ends in `.gguf`, there or not, or any other file.
pub(crate) fn is_gguf(model: &Path) -> bool {
    let has_ending = model.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    (has_ending && !model.is_dir()) || model.is_file()
}

impl Gguf {
    /// Opens the file and reads its header. Errors: no such file; not a GGUF; one that is cut, or whose lengths, counts or
    /// offsets are not those of a file of this size; a tensor in a format that is not read.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let map = map(path, "name a model folder or a FILE.gguf that exists")?;
        let header = header::read(&map).map_err(|fault| ModelError::input(path, fault.what, fault.remedy))?;
        let gguf = Self { path: path.to_path_buf(), map, metadata: header.metadata, tensors: header.tensors };
        let parts = gguf.count("split.count")?.unwrap_or(1);
        if parts > 1 {
            return Err(ModelError::input(
                path,
                format!("it is one of {parts} parts of a model"),
                "join them: `llama-gguf-split --merge FIRST.gguf WHOLE.gguf`",
            ));
        }
        Ok(gguf)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the files that a folder of this model would have beside its weights.
    pub(crate) const COMPANIONS: [&'static str; 4] =
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

    /// The content of such a file; `None` of any other. Errors: metadata that is missing, of another type, or not
    /// supported, by its key.
    pub(crate) fn companion(&self, name: &str) -> Result<Option<Value>, ModelError> {
        Ok(Some(match name {
            "config.json" => self.config()?,
            "generation_config.json" => self.generation_config()?,
            "tokenizer.json" => self.tokenizer()?,
            "tokenizer_config.json" => self.tokenizer_config()?,
            _ => return Ok(None),
        }))
    }

    /// Every tensor under the name that it has in a folder. Errors: an architecture that is not supported, a tensor that
    /// it does not have.
    pub(crate) fn stored(&self) -> Result<Vec<(String, TensorLocation)>, ModelError> {
        names::stored(self)
    }

    /// The mapped bytes.
    pub(crate) fn into_map(self) -> Mmap {
        self.map
    }

    fn architecture(&self) -> Result<GgufArchitecture, ModelError> {
        let name = self.required_text("general.architecture")?;
        GgufArchitecture::named(name).ok_or_else(|| {
            self.wrong(
                "general.architecture",
                &format!("is {name:?}, which is not supported"),
                &format!("supported are {}", GgufArchitecture::list()),
            )
        })
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.map.get(range.clone()).unwrap_or(&[])
    }

    /// A fault of one key of the metadata.
    fn wrong(&self, key: &str, what: &str, want: &str) -> ModelError {
        ModelError::input(&self.path, format!("its `{key}` {what}"), want)
    }
}

#[cfg(test)]
mod tests;
