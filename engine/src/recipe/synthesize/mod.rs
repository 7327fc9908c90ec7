//! `[synthesize]`: instructions or pairs made by models. Doc comments of fields are the keys' documentation.

mod filter;
mod generator;
mod judge;
mod section;
#[cfg(test)]
mod tests;

pub use filter::SynthesisFilter;
pub use generator::{GeneratorBackend, GeneratorSection};
pub use judge::JudgeSection;
pub use section::{SynthesisMethod, SynthesizeSection};
