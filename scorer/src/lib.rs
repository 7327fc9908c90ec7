//! Candidates → preferences: how a preference model compares the K responses of one prompt.
//!
//! Two kinds of model sit on the project's own decoder: the general preference representation model
//! ([`Gpm`], arXiv 2410.02197) and Bradley-Terry ([`BradleyTerry`]). Each response is embedded **once** (linear in
//! K); all K² scores follow from the K embeddings, in f64. A stage neither knows where its candidates come from
//! nor what becomes of its preferences.
//!
//! ```text
//! load ── ScoreSettings ──► Gpm | BradleyTerry  (trait PreferenceModel: embed, score, compare)
//!                              └ Embedder: tokenise → packing → Decoder::hidden → value_head, prompt_head
//! win                        held-out P(a ≻ b) and circles, over any PreferenceModel
//! ```

mod bradley_terry;
mod embedder;
mod error;
mod gpm;
mod load;
mod packing;
mod preference_model;
mod settings;
mod tokenise;
mod win;

pub use bradley_terry::BradleyTerry;
pub use embedder::Embedder;
pub use error::ScoreError;
pub use gpm::Gpm;
pub use load::load;
pub use packing::{BatchPlan, Piece, SequenceGroup, common_prefix, plan};
pub use preference_model::{EmbeddedRow, Embedding, PreferenceModel, preference};
pub use settings::{PreferenceKind, ScoreDType, ScoreDifference, ScoreSettings};
pub use tokenise::{TokenisedRow, check_prompt, tokenise_row};
pub use win::{Contest, cyclic, has_circle, mean_win_rate, win_probabilities};
