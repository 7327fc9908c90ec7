//! The columns of `show` and `compare`: one table, in the order in which they stand. `docs/commands.md` has the same rows.

use std::fmt;

use crate::console::units::duration;
use crate::run::summary::{IterationSummary, StartSummary};

/// A table that columns stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// `show`: a policy on the held-out prompts.
    HeldOut,
    /// `show`: an iteration's own candidates, pairs and training.
    Training,
    /// `compare`.
    Compare,
}

use Table::{Compare, HeldOut, Training};

/// One column.
pub(super) struct Column {
    /// Its head.
    pub(super) title: &'static str,
    /// What it says, as in the documentation.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test holds the documentation to it"))]
    pub(super) meaning: &'static str,
    /// The tables that have it.
    tables: &'static [Table],
    /// Of an iteration.
    value: fn(&IterationSummary) -> Cell,
    /// Of the starting policy.
    start: fn(&StartSummary) -> Cell,
}

/// A value with the form in which it is shown; a dash where it is unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell {
    /// Not known of any run.
    Unknown,
    /// The starting policy's line.
    Start,
    /// A whole number.
    Count(usize),
    /// A share, as a percentage.
    Share(Option<f64>),
    /// A number with one decimal.
    Tenths(Option<f64>),
    /// A number with four decimals.
    Fine(Option<f64>),
    /// A loss: plain where that is readable.
    Loss(Option<f64>),
    /// A small number.
    Scientific(Option<f64>),
    /// Wall clock.
    Seconds(f64),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Start => f.write_str("start"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(Some(share)) => write!(f, "{:.1} %", 100.0 * share),
            Self::Tenths(Some(value)) => write!(f, "{value:.1}"),
            Self::Loss(Some(value)) if value != 0.0 && (value.abs() >= 1e5 || value.abs() < 1e-3) => {
                write!(f, "{value:.3e}")
            }
            Self::Fine(Some(value)) | Self::Loss(Some(value)) => write!(f, "{value:.4}"),
            Self::Scientific(Some(value)) => write!(f, "{value:.1e}"),
            Self::Seconds(seconds) => f.write_str(&duration(seconds)),
            Self::Unknown
            | Self::Share(None)
            | Self::Tenths(None)
            | Self::Fine(None)
            | Self::Loss(None)
            | Self::Scientific(None) => f.write_str("-"),
        }
    }
}

/// What a starting policy has none of.
fn none(_: &StartSummary) -> Cell {
    Cell::Unknown
}

/// All columns.
pub(super) const COLUMNS: &[Column] = &[
    Column {
        title: "iteration",
        meaning: "from 1; `start` is the starting policy",
        tables: &[HeldOut, Training, Compare],
        value: |one| Cell::Count(one.iteration),
        start: |_| Cell::Start,
    },
    Column {
        title: "accuracy",
        meaning: "share of held-out answers that `eval.checker` finds right; needs `eval.answers`",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Share(one.eval_accuracy),
        start: |start| Cell::Share(start.eval_accuracy),
    },
    Column {
        title: "win vs before",
        meaning: "mean P(new ≻ old) by the preference model on held-out prompts; old is the policy that the iteration started from",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Share(one.win_rate_start),
        start: none,
    },
    Column {
        title: "win vs first",
        meaning: "the same against the policy that the run started from",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Share(one.win_rate_first),
        start: none,
    },
    Column {
        title: "characters",
        meaning: "mean length of the held-out answers. Read a win rate beside it",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Tenths(one.characters),
        start: |start| Cell::Tenths(start.characters),
    },
    Column {
        title: "tokens",
        meaning: "the same in tokens, the stop token included",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Tenths(one.tokens),
        start: |start| Cell::Tenths(start.tokens),
    },
    Column {
        title: "limited",
        meaning: "share of the held-out answers that the length limit ended",
        tables: &[HeldOut],
        value: |one| Cell::Share(one.length_limited),
        start: none,
    },
    Column {
        title: "kl",
        meaning: "mean over the new policy's held-out answers of log π_new − log π_old",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Fine(one.kl),
        start: none,
    },
    Column {
        title: "prompts",
        meaning: "prompts that were sampled",
        tables: &[Training],
        value: |one| Cell::Count(one.prompts),
        start: none,
    },
    Column {
        title: "skipped",
        meaning: "rows of the split without a usable prompt",
        tables: &[Training],
        value: |one| Cell::Count(one.skipped_prompts),
        start: none,
    },
    Column {
        title: "candidates",
        meaning: "candidates of all prompts",
        tables: &[Training],
        value: |one| Cell::Count(one.candidates),
        start: none,
    },
    Column {
        title: "pairs",
        meaning: "pairs that were selected",
        tables: &[Training],
        value: |one| Cell::Count(one.pairs),
        start: none,
    },
    Column {
        title: "truncated",
        meaning: "pairs that were cut to fit `train.max_length`",
        tables: &[Training],
        value: |one| Cell::Count(one.truncated_pairs),
        start: none,
    },
    Column {
        title: "mean score",
        meaning: "mean over the pairs of the chosen response's mean score against all candidates",
        tables: &[Training],
        value: |one| Cell::Fine(one.mean_score),
        start: none,
    },
    Column {
        title: "cyclic",
        meaning: "share of prompts with a preference cycle among three candidates",
        tables: &[Training, Compare],
        value: |one| Cell::Share(one.cyclic),
        start: none,
    },
    Column {
        title: "steps",
        meaning: "optimizer steps",
        tables: &[Training],
        value: |one| Cell::Count(one.steps),
        start: none,
    },
    Column {
        title: "loss first",
        meaning: "loss of the first step",
        tables: &[Training],
        value: |one| Cell::Loss(one.loss_first),
        start: none,
    },
    Column {
        title: "loss last",
        meaning: "loss of the last step",
        tables: &[Training],
        value: |one| Cell::Loss(one.loss_last),
        start: none,
    },
    Column {
        title: "differ",
        meaning: "sampler's log-probs against the trainer's on real candidates, nats a token at most",
        tables: &[Training, Compare],
        value: |one| Cell::Scientific(one.logprob_difference),
        start: none,
    },
    Column {
        title: "seconds",
        meaning: "wall clock of all processes that worked on the iteration",
        tables: &[HeldOut, Compare],
        value: |one| Cell::Seconds(one.seconds),
        start: none,
    },
];

impl Table {
    fn columns(self) -> impl Iterator<Item = &'static Column> {
        COLUMNS.iter().filter(move |column| column.tables.contains(&self))
    }

    /// The titles.
    pub(super) fn head(self) -> Vec<String> {
        self.columns().map(|column| column.title.to_owned()).collect()
    }

    /// The starting policy's line.
    pub(super) fn start(self, start: &StartSummary) -> Vec<String> {
        self.columns().map(|column| (column.start)(start).to_string()).collect()
    }

    /// An iteration's line.
    pub(super) fn iteration(self, one: &IterationSummary) -> Vec<String> {
        self.columns().map(|column| (column.value)(one).to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_column_in_order() {
        let page = include_str!("../../../docs/commands.md");
        let wanted: String =
            COLUMNS.iter().map(|column| format!("| {} | {} |\n", column.title, column.meaning)).collect();
        assert!(page.contains(&wanted), "docs/commands.md, Show and compare: wanted\n{wanted}");
    }

    #[test]
    fn tables_have_their_columns_in_order() {
        let heads = [
            (HeldOut, "iteration,accuracy,win vs before,win vs first,characters,tokens,limited,kl,seconds"),
            (
                Training,
                "iteration,prompts,skipped,candidates,pairs,truncated,mean score,cyclic,steps,loss first,loss last,\
                 differ",
            ),
            (
                Compare,
                "iteration,accuracy,win vs before,win vs first,characters,tokens,kl,cyclic,differ,seconds",
            ),
        ];
        for (table, wanted) in heads {
            assert_eq!(table.head().join(","), wanted);
        }
        let start = StartSummary { eval_accuracy: Some(0.5), tokens: Some(3.0), ..StartSummary::default() };
        assert_eq!(HeldOut.start(&start).join(","), "start,50.0 %,-,-,-,3.0,-,-,-");
    }

    #[test]
    fn cells_are_readable_and_unknowns_are_dashes() {
        let shown = [
            Cell::Share(None),
            Cell::Share(Some(0.523)),
            Cell::Loss(Some(250_000.0)),
            Cell::Loss(Some(0.69)),
            Cell::Loss(Some(0.0)),
            Cell::Scientific(Some(0.000_012)),
            Cell::Seconds(90.0),
        ];
        let shown: Vec<String> = shown.iter().map(Cell::to_string).collect();
        assert_eq!(shown, ["-", "52.3 %", "2.500e5", "0.6900", "0.0000", "1.2e-5", "1m30s"]);
    }
}
