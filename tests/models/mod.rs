//! Model folders.

mod folders;
mod gguf;
mod quantized;
mod templates;
