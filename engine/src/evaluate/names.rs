//! Names of an evaluation's folder and files.

/// Where the results of a folder's model lie in it.
pub(crate) const FOLDER: &str = "evaluation";
/// The figures' file; it is written last.
pub(crate) const RESULTS: &str = "results.json";
/// A line for each row.
pub(crate) const SAMPLES: &str = "samples.jsonl";
