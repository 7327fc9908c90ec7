//! Several preference models as one: s = Σ w_m s_m / Σ w_m, s_m a member's score in the form that `score.normalize` gives it.
//!
//! - `none`: as it is;
//! - `deviation`: over the root mean square of the member's scores of the prompt, so that no member decides by its scale alone. Of two
//!   responses only the sign is left;
//! - `probability`: members' probabilities are averaged, and s is the logit of that mean, kept 1e-6 away from 0 and 1: no member's
//!   certainty outweighs all others.

mod settings;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::{Candidates, Preference};

pub use self::settings::{EnsembleMember, EnsembleSettings, MemberKeys, MemberScale};
use crate::logit::logit;
use crate::preference_model::preference;
use crate::{CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreError};

/// Loaded members.
pub(crate) struct Ensemble {
    pub(crate) members: Vec<LoadedMember>,
    pub(crate) scale: MemberScale,
    /// What s is multiplied by in what is stored.
    pub(crate) factor: f64,
}

/// A member with its weight.
pub(crate) struct LoadedMember {
    pub(crate) model: Box<dyn PreferenceModel>,
    pub(crate) weight: f64,
}

impl Ensemble {
    /// What a member says of one pair, before it is weighed; `size` is the root mean square of its scores.
    fn part(&self, score: f64, size: f64) -> f64 {
        match self.scale {
            MemberScale::None => score,
            MemberScale::Deviation if size == 0.0 => 0.0,
            MemberScale::Deviation => score / size,
            MemberScale::Probability => sigmoid(score),
        }
    }

    /// s from the members' parts.
    fn score(&self, parts: impl Iterator<Item = f64>) -> f64 {
        let total: f64 = self.members.iter().map(|member| member.weight).sum();
        let mean =
            self.members.iter().zip(parts).map(|(member, part)| member.weight * part).sum::<f64>() / total;
        match self.scale {
            MemberScale::Probability => logit(mean),
            MemberScale::None | MemberScale::Deviation => mean,
        }
    }

    fn combined(&self, row: &Candidates, tables: &[&Preference]) -> Result<Preference, ScoreError> {
        let sizes: Vec<f64> = tables.iter().map(|table| root_mean_square(&table.scores)).collect();
        preference(row, |i, j| {
            let parts = tables.iter().zip(&sizes).map(|(table, &size)| self.part(table.scores[i][j], size));
            self.factor * self.score(parts)
        })
    }
}

/// Over the pairs of different responses.
fn root_mean_square(scores: &[Vec<f64>]) -> f64 {
    let k = scores.len();
    let squares = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j))).map(|(i, j)| scores[i][j].powi(2));
    let pairs = k * k.saturating_sub(1) / 2;
    if pairs == 0 { 0.0 } else { (squares.sum::<f64>() / pairs as f64).sqrt() }
}

impl PreferenceModel for Ensemble {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        let mut tables: Vec<Vec<Preference>> = Vec::with_capacity(self.members.len());
        for (number, member) in self.members.iter().enumerate() {
            let is_last = number + 1 == self.members.len();
            // Rows are complete with the last member.
            let mut on_member = |done: usize| progress(if is_last { done } else { 0 });
            match member.model.compare(rows, &mut on_member)? {
                Compared::All(compared) => tables.push(compared),
                Compared::Stopped(compared) if is_last => tables.push(compared),
                Compared::Stopped(_) => return Ok(Compared::Stopped(Vec::new())),
            }
        }
        let complete = tables.iter().map(Vec::len).min().unwrap_or(0);
        let combined = rows.iter().take(complete).enumerate().map(|(place, row)| {
            let of_row: Vec<&Preference> = tables.iter().map(|table| &table[place]).collect();
            self.combined(row, &of_row)
        });
        let combined = combined.collect::<Result<Vec<_>, ScoreError>>()?;
        Ok(if combined.len() == rows.len() { Compared::All(combined) } else { Compared::Stopped(combined) })
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        Ok(self.outcomes(contests)?.iter().map(|outcome| sigmoid(outcome.score)).collect())
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        let all = self.members.iter().map(|member| member.model.outcomes(contests));
        let all = all.collect::<Result<Vec<_>, ScoreError>>()?;
        let outcome = |place: usize| {
            let parts = all.iter().map(|member| {
                let score = member[place].score;
                self.part(score, score.abs())
            });
            ContestOutcome { score: self.score(parts), shown: None }
        };
        Ok((0..contests.len()).map(outcome).collect())
    }

    fn footprint(&self) -> Footprint {
        Footprint::together(self.members.iter().map(|member| member.model.footprint()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use selfplay_records::{Prompt, Response};

    use super::*;

    /// s(i ≻ j) = scale · (j − i); stops after so many rows.
    struct Line {
        scale: f64,
        stops: bool,
    }

    impl PreferenceModel for Line {
        fn compare(
            &self,
            rows: &[Candidates],
            progress: &mut CompareProgress<'_>,
        ) -> Result<Compared, ScoreError> {
            let mut tables = Vec::new();
            for row in rows {
                if progress(tables.len()).is_break() || (self.stops && tables.len() == 1) {
                    return Ok(Compared::Stopped(tables));
                }
                tables.push(preference(row, |i, j| self.scale * (j as f64 - i as f64))?);
            }
            Ok(Compared::All(tables))
        }

        fn win_probabilities(&self, _: &[Contest]) -> Result<Vec<f64>, ScoreError> {
            Ok(Vec::new())
        }

        fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
            Ok(vec![ContestOutcome { score: self.scale, shown: None }; contests.len()])
        }

        fn footprint(&self) -> Footprint {
            Footprint::elsewhere()
        }
    }

    fn going_on(_: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn ensemble(scale: MemberScale, members: &[(f64, f64)]) -> Ensemble {
        let member = |&(scale, weight): &(f64, f64)| LoadedMember {
            model: Box::new(Line { scale, stops: false }),
            weight,
        };
        Ensemble { members: members.iter().map(member).collect(), scale, factor: 1.0 }
    }

    fn row() -> Candidates {
        Candidates { prompt: Prompt::default(), responses: vec![Response::default(); 3] }
    }

    #[test]
    fn weights_and_scales_by_hand() {
        let table = |ensemble: Ensemble| ensemble.compare_all(&[row()]).unwrap()[0].scores.clone();
        // (3·1 + 1·(−0.2))/4.
        assert!((table(ensemble(MemberScale::None, &[(1.0, 3.0), (-0.2, 1.0)]))[0][1] - 0.7).abs() < 1e-12);
        // Scores c, c, 2c have the root mean square c√2: each is 1/√2 of a sign, whatever c is.
        let found = table(ensemble(MemberScale::Deviation, &[(1.0, 3.0), (-100.0, 1.0)]));
        assert!(
            (found[0][1] - 0.5 / 2f64.sqrt()).abs() < 1e-12
                && (found[0][2] - 1.0 / 2f64.sqrt()).abs() < 1e-12
        );
        assert_eq!(table(ensemble(MemberScale::Deviation, &[(0.0, 1.0)]))[0][2], 0.0);
        // P = (0.75 + 0.5)/2.
        let found = table(ensemble(MemberScale::Probability, &[(3f64.ln(), 1.0), (0.0, 1.0)]));
        assert!((found[0][1] - (0.625_f64 / 0.375).ln()).abs() < 1e-12);
        assert_eq!(found[1][0], -found[0][1]);
    }

    #[test]
    fn win_rates_are_of_the_same_mean() {
        let contest = Contest { prompt: Prompt::default(), first: "a".into(), second: "b".into() };
        let of = |scale| {
            let all = ensemble(scale, &[(3f64.ln(), 1.0), (0.0, 1.0)]);
            all.win_probabilities(std::slice::from_ref(&contest)).unwrap()[0]
        };
        assert!((of(MemberScale::Probability) - 0.625).abs() < 1e-12);
        assert!((of(MemberScale::None) - sigmoid(3f64.ln() / 2.0)).abs() < 1e-12);
        assert!((of(MemberScale::Deviation) - sigmoid(0.5)).abs() < 1e-12);
    }

    #[test]
    fn a_stop_of_the_last_member_keeps_what_all_have() {
        let mut both = ensemble(MemberScale::None, &[(1.0, 1.0)]);
        both.members.push(LoadedMember { model: Box::new(Line { scale: 1.0, stops: true }), weight: 1.0 });
        let rows = [row(), row()];
        let Compared::Stopped(front) = both.compare(&rows, &mut going_on).unwrap() else { panic!() };
        assert_eq!(front.len(), 1);
        both.members.swap(0, 1);
        let Compared::Stopped(front) = both.compare(&rows, &mut going_on).unwrap() else { panic!() };
        assert!(front.is_empty());
    }
}
