//! Kinds that embed each response **once** (linear in K): all K² scores follow from the K embeddings, in f64.
//!
//! ```text
//! text ─ tokenise ─► TokenisedRow ─ packing ─► PrefixGroup, PackedGroup ─ Embedder ─► Embedding ─ Embeds::score ─► Preference
//! ```

mod backbone;
mod bradley_terry;
mod embedder;
mod embedding_model;
mod gpm;
mod hrc;
mod kind;
mod load;
mod settings;
mod stored_head;
mod tokenise;

pub(crate) use kind::EmbeddingKind;
pub(crate) use load::{footprint, load};
pub use settings::{Advantages, EmbeddingSettings, Tokenization};
pub(crate) use tokenise::prompt_check;
pub use tokenise::{TokenisedRow, tokenise_row};

use std::ops::ControlFlow;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::Candidates;

use crate::preference_model::preference;
use crate::{CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreError};
use gpm::GroupAdvantages;

/// The embedding of one (prompt, response).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Embedding {
    /// \[d]: of a GPM the L2-normalised v, of Bradley-Terry \[1] the reward.
    pub(crate) value: Vec<f64>,
    /// \[d/2]: λ of the prompt gate, sums to 1; empty without a prompt head (λ = 1).
    pub(crate) gate: Vec<f64>,
}

/// A model that compares by embeddings.
pub(crate) trait Embeds: Send + Sync {
    /// Embeds each response of each row once, \[rows]\[K] in the rows' order; `progress` is called between forward passes;
    /// after a stop the complete rows at the front are returned.
    ///
    /// # Errors
    /// A row without text, a conversation that the template refuses, or an embedding that is not finite, each with
    /// its `prompt_id`.
    fn embed(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Vec<Embedding>>, ScoreError>;

    /// As [`PreferenceModel::contest_runs`], of rows.
    ///
    /// # Errors
    /// As [`Embeds::embed`].
    fn runs(&self, rows: &[Candidates]) -> Result<Vec<Vec<usize>>, ScoreError> {
        Ok(vec![(0..rows.len()).collect()])
    }

    /// The paper's s(a ≻ b), antisymmetric.
    fn score(&self, a: &Embedding, b: &Embedding) -> f64;

    /// The s(a ≻ b) of tables of preferences, where it is another one than that of contests.
    fn table_score(&self, a: &Embedding, b: &Embedding) -> f64 {
        self.score(a, b)
    }

    /// The advantage of each of a prompt's responses; `None` for a model without axes.
    fn advantages(&self, responses: &[Embedding]) -> Option<GroupAdvantages>;

    /// As [`PreferenceModel::footprint`].
    fn footprint(&self) -> Footprint;
}

/// Every model that embeds is a preference model.
pub(crate) struct Embedded<E> {
    pub(crate) model: E,
    /// What s is multiplied by in what is stored.
    pub(crate) factor: f64,
    /// Whether preferences carry the embeddings.
    pub(crate) keeps_embeddings: bool,
    /// Which advantages preferences carry.
    pub(crate) advantages: Advantages,
}

impl<E: Embeds> PreferenceModel for Embedded<E> {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        let embedded = self.model.embed(rows, progress)?;
        let compared = rows.iter().zip(&embedded).map(|(row, responses)| {
            let mut compared =
                preference(row, |i, j| self.factor * self.model.table_score(&responses[i], &responses[j]))?;
            if self.keeps_embeddings {
                let narrow = |e: &Embedding| e.value.iter().map(|&x| x as f32).collect();
                compared.embeddings = Some(responses.iter().map(narrow).collect());
            }
            if self.advantages == Advantages::PerAxis
                && let Some(found) = self.model.advantages(responses)
            {
                compared.advantages = Some(found.total);
                compared.axis_advantages = Some(found.by_axis);
                compared.axis_rewards = Some(found.rewards);
            }
            Ok(compared)
        });
        let compared = compared.collect::<Result<Vec<_>, ScoreError>>()?;
        Ok(if compared.len() == rows.len() { Compared::All(compared) } else { Compared::Stopped(compared) })
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        Ok(self.outcomes(contests)?.iter().map(|outcome| sigmoid(outcome.score)).collect())
    }

    fn contest_runs(&self, contests: &[Contest]) -> Result<Vec<Vec<usize>>, ScoreError> {
        self.model.runs(&contests.iter().map(Contest::candidates).collect::<Vec<_>>())
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        let rows: Vec<Candidates> = contests.iter().map(Contest::candidates).collect();
        let embedded = self.model.embed(&rows, &mut |_| ControlFlow::Continue(()))?;
        let outcome = |(row, contest): (&Vec<Embedding>, &Contest)| {
            let score = match row.as_slice() {
                [first, second] => self.model.score(first, second),
                _ => f64::NAN,
            };
            if score.is_finite() {
                return Ok(ContestOutcome { score, shown: None });
            }
            Err(ScoreError::NotFinite {
                prompt_id: contest.prompt.prompt_id.clone(),
                response: 0,
                what: "score",
            })
        };
        embedded.iter().zip(contests).map(outcome).collect()
    }

    fn footprint(&self) -> Footprint {
        self.model.footprint()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use selfplay_model::Architecture;
    use selfplay_records::{Prompt, Response};

    use super::*;

    /// Its reward of a response is the number of its characters; each row is a pass of its own.
    struct Longest;

    const TAU: f64 = 2.0;

    impl Embeds for Longest {
        fn embed(
            &self,
            rows: &[Candidates],
            progress: &mut CompareProgress<'_>,
        ) -> Result<Vec<Vec<Embedding>>, ScoreError> {
            let embed = |r: &Response| Embedding { value: vec![r.text.len() as f64], gate: Vec::new() };
            let going_on = |(place, _): &(usize, &Candidates)| progress(*place).is_continue();
            let whole = rows.iter().enumerate().take_while(going_on);
            Ok(whole.map(|(_, row)| row.responses.iter().map(embed).collect()).collect())
        }
        fn score(&self, a: &Embedding, b: &Embedding) -> f64 {
            (a.value[0] - b.value[0]) / TAU
        }
        fn advantages(&self, _: &[Embedding]) -> Option<GroupAdvantages> {
            None
        }
        fn footprint(&self) -> Footprint {
            let backbone = Architecture::named("llama-15m").unwrap();
            backbone::footprint_of(&backbone, backbone.parameter_count())
        }
    }

    fn model(factor: f64) -> Embedded<Longest> {
        Embedded { model: Longest, factor, keeps_embeddings: true, advantages: Advantages::Off }
    }

    fn candidates(texts: &[&str]) -> Candidates {
        let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
        Candidates {
            prompt: Prompt { prompt_id: "p".into(), prompt: Some("x".into()), ..Prompt::default() },
            responses: texts.iter().map(response).collect(),
        }
    }

    #[test]
    fn a_win_rate_is_the_model_s_own_in_both_score_differences() {
        for factor in [1.0, 2.0] {
            let contests = [Contest { prompt: Prompt::default(), first: "aaaa".into(), second: "aa".into() }];
            let p = model(factor).win_probabilities(&contests).unwrap();
            assert!((p[0] - 0.731_058_578_630_004_9).abs() < 1e-15, "σ(1)");
        }
    }

    #[test]
    fn compare_doubles_s_for_the_reference_and_keeps_embeddings() {
        let rows = [candidates(&["aaaa", "aa"])];
        let paper = &model(1.0).compare_all(&rows).unwrap()[0];
        let reference = &model(2.0).compare_all(&rows).unwrap()[0];
        assert_eq!(paper.scores[0][1], 1.0);
        assert_eq!(reference.scores[0][1], 2.0);
        assert_eq!(reference.mean_scores, [1.0, -1.0]);
        assert!((reference.probabilities[0][1] - 0.880_797_077_977_882_4).abs() < 1e-15, "σ(2)");
        assert_eq!(paper.embeddings, Some(vec![vec![4.0], vec![2.0]]));
        assert_eq!(paper.candidates_digest, Some(rows[0].digest()));
    }

    #[test]
    fn a_stop_gives_back_the_rows_that_are_whole() {
        let rows = [candidates(&["aaaa", "aa"]), candidates(&["a", "aa"]), candidates(&["a"])];
        let all = model(1.0).compare_all(&rows).unwrap();
        for stop_at in 0..=3 {
            let mut progress =
                |done| if done == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let compared = model(1.0).compare(&rows, &mut progress).unwrap();
            let want = all[..stop_at].to_vec();
            assert_eq!(compared, if stop_at < 3 { Compared::Stopped(want) } else { Compared::All(want) });
        }
    }

    #[test]
    fn the_footprint_is_the_backbone_s() {
        let (footprint, backbone) = (model(1.0).footprint(), Architecture::named("llama-15m").unwrap());
        assert_eq!(footprint.weight_bytes(DType::BF16, true), 2 * backbone.parameter_count() as u64);
        assert_eq!(footprint.pass_bytes(10, DType::F32), 40 * backbone.inference_values() as u64);
    }
}
