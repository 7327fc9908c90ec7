//! Names of an evaluation's folder and files.

/// Where the results of a folder's model lie in it.
pub(crate) const FOLDER: &str = "evaluation";
/// The figures' file; it is written last.
pub(crate) const RESULTS: &str = "results.json";
/// A line for each row.
pub(crate) const SAMPLES: &str = "samples.jsonl";
/// Files of some suites, in the form of their own programs.
pub(crate) const SUITE_FILES: [&str; 5] =
    [MODEL_OUTPUTS, ANNOTATIONS, MODEL_ANSWERS, SINGLE_JUDGMENTS, PAIR_JUDGMENTS];
/// AlpacaEval's.
pub(crate) const MODEL_OUTPUTS: &str = "model_outputs.json";
/// AlpacaEval's.
pub(crate) const ANNOTATIONS: &str = "annotations.json";
/// MT-bench's.
pub(crate) const MODEL_ANSWERS: &str = "model_answer.jsonl";
/// MT-bench's.
pub(crate) const SINGLE_JUDGMENTS: &str = "model_judgment_single.jsonl";
/// MT-bench's.
pub(crate) const PAIR_JUDGMENTS: &str = "model_judgment_pair.jsonl";
/// What is answered of a suite that is not finished.
pub(crate) const PARTS: &str = "parts";
/// In `parts/`: what the answers depend on.
pub(crate) const PARTS_SETTINGS: &str = "settings.json";
/// In `parts/`: locked by the process that works there.
pub(crate) const PARTS_LOCK: &str = "lock";
