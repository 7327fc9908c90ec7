//! A penalty on length, around any kind of preference model: s(i ≻ j) − c (n_i − n_j), n a response's length.
//!
//! n counts the policy's own tokens, the stop token among them; with `length_unit = "prompt-mean"` it is divided by the mean n of the
//! prompt's candidates, so that c means the same for short answers and for long ones. The penalised s and P = σ(s) are what is
//! stored and paired; win rates on held-out prompts and `eval-preference` are the model's own. Embeddings and advantages stay as
//! they are.

use schemars::JsonSchema;
use selfplay_records::{Candidates, Preference, Problems};
use serde::{Deserialize, Serialize};

use crate::preference_model::preference;
use crate::{CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreError};

/// What the length of a response is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LengthUnit {
    /// Tokens.
    #[default]
    Token,
    /// The mean length of the candidates of the same prompt.
    PromptMean,
}

/// What a longer response loses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthPenalty {
    /// c: what s loses per unit.
    pub weight: f64,
    /// The unit.
    pub unit: LengthUnit,
}

impl LengthPenalty {
    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            problems.value("length_penalty", self.weight, "0 (off) or a positive number");
        }
        problems
    }

    /// c · n of each response.
    fn of(&self, row: &Candidates) -> Result<Vec<f64>, ScoreError> {
        let length = |(response, one): (usize, &selfplay_records::Response)| match &one.ids {
            Some(ids) => Ok(ids.len() as f64),
            None => Err(ScoreError::NoIds { prompt_id: row.prompt.prompt_id.clone(), response }),
        };
        let lengths = row.responses.iter().enumerate().map(length).collect::<Result<Vec<f64>, _>>()?;
        let unit = match self.unit {
            LengthUnit::Token => 1.0,
            // At least one token, so that a row of empty responses has a length to divide by.
            LengthUnit::PromptMean => (lengths.iter().sum::<f64>() / lengths.len().max(1) as f64).max(1.0),
        };
        Ok(lengths.into_iter().map(|length| self.weight * length / unit).collect())
    }
}

/// A preference model whose stored scores have the penalty.
pub(crate) struct LengthPenalised {
    pub(crate) model: Box<dyn PreferenceModel>,
    pub(crate) penalty: LengthPenalty,
    /// What s is multiplied by in what is stored: the penalty too.
    pub(crate) factor: f64,
}

impl LengthPenalised {
    fn penalised(&self, row: &Candidates, own: Preference) -> Result<Preference, ScoreError> {
        let lost = self.penalty.of(row)?;
        let table = preference(row, |i, j| own.scores[i][j] - self.factor * (lost[i] - lost[j]))?;
        Ok(Preference {
            embeddings: own.embeddings,
            advantages: own.advantages,
            axis_advantages: own.axis_advantages,
            axis_rewards: own.axis_rewards,
            ..table
        })
    }
}

impl PreferenceModel for LengthPenalised {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        // A row that cannot be counted must not cost the scores of all others.
        rows.iter().try_for_each(|row| self.penalty.of(row).map(drop))?;
        let all = |own: Vec<Preference>| {
            rows.iter().zip(own).map(|(row, own)| self.penalised(row, own)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match self.model.compare(rows, progress)? {
            Compared::All(own) => Compared::All(all(own)?),
            Compared::Stopped(own) => Compared::Stopped(all(own)?),
        })
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        self.model.win_probabilities(contests)
    }

    fn contest_runs(&self, contests: &[Contest]) -> Result<Vec<Vec<usize>>, ScoreError> {
        self.model.contest_runs(contests)
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        self.model.outcomes(contests)
    }

    fn footprint(&self) -> Footprint {
        self.model.footprint()
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Prompt, Response};

    use super::*;

    /// Prefers what stands first, by 2.
    struct First;

    impl PreferenceModel for First {
        fn compare(&self, rows: &[Candidates], _: &mut CompareProgress<'_>) -> Result<Compared, ScoreError> {
            let tables = rows.iter().map(|row| preference(row, |i, j| 2.0 * (j as f64 - i as f64)));
            Ok(Compared::All(tables.collect::<Result<Vec<_>, _>>()?))
        }

        fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
            Ok(vec![0.75; contests.len()])
        }

        fn outcomes(&self, _: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
            Ok(Vec::new())
        }

        fn footprint(&self) -> Footprint {
            Footprint::elsewhere()
        }
    }

    fn row(lengths: &[Option<usize>]) -> Candidates {
        let response = |length: &Option<usize>| Response {
            ids: length.map(|length| vec![7; length]),
            ..Response::default()
        };
        let prompt = Prompt { prompt_id: "p".to_owned(), ..Prompt::default() };
        Candidates { prompt, responses: lengths.iter().map(response).collect() }
    }

    fn scores(weight: f64, unit: LengthUnit, lengths: &[usize]) -> Vec<Vec<f64>> {
        let penalty = LengthPenalty { weight, unit };
        let model = LengthPenalised { model: Box::new(First), penalty, factor: 1.0 };
        let lengths: Vec<Option<usize>> = lengths.iter().copied().map(Some).collect();
        model.compare_all(&[row(&lengths)]).unwrap()[0].scores.clone()
    }

    #[test]
    fn a_longer_response_loses_by_its_length() {
        // 2 − 0.5·(10 − 2), 4 − 0.5·(10 − 6), 2 − 0.5·(2 − 6).
        let table = scores(0.5, LengthUnit::Token, &[10, 2, 6]);
        assert_eq!((table[0][1], table[0][2], table[1][2], table[1][0]), (-2.0, 2.0, 4.0, 2.0));
        // The mean is 6.
        let table = scores(3.0, LengthUnit::PromptMean, &[10, 2, 6]);
        assert_eq!((table[0][1], table[1][2]), (2.0 - 4.0, 2.0 + 2.0));
        assert_eq!(scores(3.0, LengthUnit::PromptMean, &[0, 0])[0][1], 2.0);
    }

    #[test]
    fn the_stored_form_doubles_both_parts_and_win_rates_have_neither() {
        let penalty = LengthPenalty { weight: 0.5, unit: LengthUnit::Token };
        let model = LengthPenalised { model: Box::new(First), penalty, factor: 2.0 };
        let table = &model.compare_all(&[row(&[Some(3), Some(1)])]).unwrap()[0];
        assert_eq!(table.scores[0][1], 2.0 - 2.0 * 0.5 * 2.0);
        let contest = Contest { prompt: Prompt::default(), first: "long".into(), second: "l".into() };
        assert_eq!(model.win_probabilities(&[contest]).unwrap(), [0.75]);
        let error = model.compare_all(&[row(&[Some(3), None])]).unwrap_err().to_string();
        assert!(error.contains("response 1") && error.contains("no ids"), "{error}");
    }
}
