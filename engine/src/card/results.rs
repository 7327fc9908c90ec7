//! What was measured, as a card's table.

use selfplay_trainer::TrainSummary;

use crate::run::summary::IterationSummary;

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CardResult {
    pub(crate) what: String,
    pub(crate) value: String,
}

fn result(what: impl Into<String>, value: impl Into<String>) -> CardResult {
    CardResult { what: what.into(), value: value.into() }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// An iteration's line in `show`, without its times.
pub(crate) fn of_summary(summary: &IterationSummary) -> Vec<CardResult> {
    let mut results = Vec::new();
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            results.push(result(what, value));
        }
    };
    let error = summary.win_rate_error.map_or(String::new(), |error| format!(" ± {}", percent(error)));
    let before = summary.win_rate_start.map(|rate| format!("{}{error}", percent(rate)));
    add("win rate against the policy before this iteration, by the preference model", before);
    add("win rate against the first policy, by the preference model", summary.win_rate_first.map(percent));
    add("the same, were the answers equally long", summary.lc_win_rate_first.map(percent));
    add("right answers to held-out prompts", summary.eval_accuracy.map(percent));
    add("tokens of an answer, mean", summary.tokens.map(|tokens| format!("{tokens:.1}")));
    add("answers that the length limit ended", summary.length_limited.map(percent));
    add("log π_new − log π_old of an answer, mean, nats", summary.kl.map(|kl| format!("{kl:.4}")));
    add("loss of the first step", summary.loss_first.map(|loss| format!("{loss:.6}")));
    add("loss of the last step", summary.loss_last.map(|loss| format!("{loss:.6}")));
    add("pairs, optimizer steps", Some(format!("{}, {}", summary.pairs, summary.steps)));
    results
}

/// What a training command tells.
pub(crate) fn of_training(summary: &TrainSummary) -> Vec<CardResult> {
    let mut results =
        vec![result("examples, optimizer steps", format!("{}, {}", summary.examples, summary.steps))];
    for (what, loss) in
        [("loss of the first step", summary.loss_first), ("loss of the last step", summary.loss_last)]
    {
        results.extend(loss.map(|loss| result(what, format!("{loss:.6}"))));
    }
    let accuracy = summary.accuracy.last();
    results.extend(accuracy.map(|last| result("accuracy on held-out comparisons", percent(last.accuracy))));
    results
}

/// A card of ours with the results of evaluations; any other text as it is.
pub(crate) fn with_evaluations(card: &str, results: &[CardResult]) -> String {
    if results.is_empty() {
        return card.to_owned();
    }
    card.replacen(super::EVALUATIONS, &format!("## Evaluation\n\n{}", table(results)), 1)
}

/// The table.
pub(super) fn table(results: &[CardResult]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let rows = results.iter().map(|one| format!("| {} | {} |\n", cell(&one.what), cell(&one.value)));
    format!("| measured | |\n|---|---|\n{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_go_where_the_card_leaves_room() {
        let one = result("a|b", "0.5");
        let card = format!("head\n{}tail\n", super::super::EVALUATIONS);
        let with = with_evaluations(&card, std::slice::from_ref(&one));
        assert_eq!(with, "head\n## Evaluation\n\n| measured | |\n|---|---|\n| a\\|b | 0.5 |\ntail\n");
        assert_eq!(with_evaluations(&card, &[]), card);
        assert_eq!(with_evaluations("a text of the user's\n", &[one]), "a text of the user's\n");
    }
}
