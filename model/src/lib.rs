//! One decoder transformer for policy, reference and preference backbones, with its own backward.
//!
//! `config.json` → [`Architecture`], safetensors or GGUF → [`Parameters`], packed batches → hidden states → log-probs and
//! gradients; a paged cache that its caller owns; tokenizer and chat template. Shapes are written in the letters of
//! [`decoder`].

pub mod adapter;
pub mod architecture;
mod batch;
pub mod check;
mod companions;
pub mod cpu;
pub mod decoder;
mod error;
mod folder;
mod gguf;
pub mod gpu;
mod gradients;
pub mod host_memory;
mod jinja;
mod json;
mod kv_cache;
mod kv_format;
pub mod linear;
pub mod ops;
mod page_memory;
mod parameters;
pub mod preference;
pub mod profile;
pub mod shares;
pub mod tensor_memory;
mod text;
pub mod weights;

pub use architecture::{Architecture, Family, ParameterKind, StoredDtype};
pub use batch::PackedBatch;
pub use decoder::{Decoder, LoadOptions, LoadPurpose, Quantization, Tape};
pub use error::ModelError;
pub use folder::{is_model_file, outward_link};
pub use gradients::Gradients;
pub use kv_cache::{KvCache, LayerCache, PAGE_TOKENS, PageCopy, PagedRow};
pub use kv_format::KvFormat;
pub use linear::Linear;
pub use parameters::{Owner, Parameter, ParameterId, Parameters};
pub use preference::{PreferenceHead, PreferenceHeads};
pub use shares::ModelShare;
pub use text::{ChatTemplate, Codec, PromptTemplate, SpecialTokens, Tokenizer, template_clock};
