//! The columns of `show` and `compare`: one table, in the order in which they stand. `docs/commands.md` has the same rows.

use std::fmt;

use crate::console::units::duration;
use crate::run::summary::{IterationSummary, StartSummary};

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportTable {
    /// `show`: a policy on the held-out prompts.
    HeldOut,
    /// `show`: an iteration's own candidates, pairs and training.
    Training,
    /// `compare`.
    Compare,
}

use ReportTable::{Compare, HeldOut, Training};

/// One column.
pub(super) struct Column {
    /// Its head.
    pub(super) title: &'static str,
    /// Its meaning, as in the documentation.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test holds the documentation to it"))]
    pub(super) meaning: &'static str,
    /// The tables that have it.
    tables: &'static [ReportTable],
    /// Of an iteration.
    value: fn(&IterationSummary) -> Cell,
    /// Of the starting policy.
    start: fn(&StartSummary) -> Cell,
}

/// A value with the form in which it is shown; a dash where it is unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell {
    /// Not available.
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

/// A column that the starting policy's line has no value in.
const fn column(
    title: &'static str,
    meaning: &'static str,
    tables: &'static [ReportTable],
    value: fn(&IterationSummary) -> Cell,
) -> Column {
    Column { title, meaning, tables, value, start: |_| Cell::Unknown }
}

impl Column {
    /// The column with a value of the starting policy.
    const fn starting(self, start: fn(&StartSummary) -> Cell) -> Self {
        Self { start, ..self }
    }
}

/// All columns.
pub(super) const COLUMNS: &[Column] = &[
    column("iteration", "from 1; `start` is the starting policy", &[HeldOut, Training, Compare], |one| {
        Cell::Count(one.iteration)
    })
    .starting(|_| Cell::Start),
    column(
        "accuracy",
        "share of held-out answers that `eval.checker` finds right, which needs `eval.answers`, or that the program of `eval.command` does",
        &[HeldOut, Compare],
        |one| Cell::Share(one.eval_accuracy),
    )
    .starting(|start| Cell::Share(start.eval_accuracy)),
    column(
        "win vs before",
        "mean P(new ≻ old) by the preference model on held-out prompts; old is the policy that the iteration started from",
        &[HeldOut, Compare],
        |one| Cell::Share(one.win_rate_start),
    ),
    column(
        "win vs first",
        "the same against the policy that the run started from",
        &[HeldOut, Compare],
        |one| Cell::Share(one.win_rate_first),
    ),
    column(
        "lc vs before",
        "win vs before if the answers were equally long, by AlpacaEval's regression on lengths alone",
        &[HeldOut, Compare],
        |one| Cell::Share(one.lc_win_rate_start),
    ),
    column(
        "lc vs first",
        "the same against the policy that the run started from",
        &[HeldOut, Compare],
        |one| Cell::Share(one.lc_win_rate_first),
    ),
    column(
        "characters",
        "mean length of the held-out answers. Read a win rate beside it",
        &[HeldOut, Compare],
        |one| Cell::Tenths(one.characters),
    )
    .starting(|start| Cell::Tenths(start.characters)),
    column("tokens", "the same in tokens, the stop token included", &[HeldOut, Compare], |one| {
        Cell::Tenths(one.tokens)
    })
    .starting(|start| Cell::Tenths(start.tokens)),
    column("limited", "share of the held-out answers that the length limit ended", &[HeldOut], |one| {
        Cell::Share(one.length_limited)
    }),
    column(
        "kl",
        "mean over the new policy's held-out answers of log π_new − log π_old",
        &[HeldOut, Compare],
        |one| Cell::Fine(one.kl),
    ),
    column("prompts", "prompts that were sampled", &[Training], |one| Cell::Count(one.prompts)),
    column("skipped", "rows of the split without a usable prompt", &[Training], |one| {
        Cell::Count(one.skipped_prompts)
    }),
    column("candidates", "candidates of all prompts", &[Training], |one| Cell::Count(one.candidates)),
    column("pairs", "pairs that were selected", &[Training], |one| Cell::Count(one.pairs)),
    column("truncated", "pairs that were cut to fit `train.max_length`", &[Training], |one| {
        Cell::Count(one.truncated_pairs)
    }),
    column(
        "mean score",
        "mean over the pairs of the chosen response's mean score against all candidates",
        &[Training],
        |one| Cell::Fine(one.mean_score),
    ),
    column(
        "cyclic",
        "share of prompts with a preference cycle among three candidates",
        &[Training, Compare],
        |one| Cell::Share(one.cyclic),
    ),
    column("steps", "optimizer steps", &[Training], |one| Cell::Count(one.steps)),
    column("loss first", "loss of the first step", &[Training], |one| Cell::Loss(one.loss_first)),
    column("loss last", "loss of the last step", &[Training], |one| Cell::Loss(one.loss_last)),
    column(
        "differ",
        "sampler's log-probs against the trainer's on real candidates, nats a token at most",
        &[Training, Compare],
        |one| Cell::Scientific(one.logprob_difference),
    ),
    column("differ mean", "the same on average", &[Training], |one| {
        Cell::Scientific(one.logprob_difference_mean)
    }),
    column("differ KL", "an estimate of KL(sampler ‖ policy) a token, in nats", &[Training], |one| {
        Cell::Scientific(one.logprob_difference_kl)
    }),
    column(
        "seconds",
        "wall clock of all processes that worked on the iteration",
        &[HeldOut, Compare],
        |one| Cell::Seconds(one.seconds),
    ),
];

impl ReportTable {
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
            (
                HeldOut,
                "iteration,accuracy,win vs before,win vs first,lc vs before,lc vs first,characters,tokens,limited,kl,seconds",
            ),
            (
                Training,
                "iteration,prompts,skipped,candidates,pairs,truncated,mean score,cyclic,steps,loss first,loss last,\
                 differ,differ mean,differ KL",
            ),
            (
                Compare,
                "iteration,accuracy,win vs before,win vs first,lc vs before,lc vs first,characters,tokens,kl,cyclic,differ,seconds",
            ),
        ];
        for (table, wanted) in heads {
            assert_eq!(table.head().join(","), wanted);
        }
        let start = StartSummary { eval_accuracy: Some(0.5), tokens: Some(3.0), ..StartSummary::default() };
        assert_eq!(HeldOut.start(&start).join(","), "start,50.0 %,-,-,-,-,-,3.0,-,-,-");
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
        assert_eq!(shown, ["-", "52.3 %", "2.500e5", "0.6900", "0.0000", "1.2e-5", "1.5 min"]);
    }
}
