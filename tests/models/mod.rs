//! Model folders.

mod folders;
mod templates;
