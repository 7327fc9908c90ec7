//! Results of evaluation suites as tables.

use selfplay_evaluation::suites::average::Average;

use super::table::columns;
use crate::evaluate::against::SuiteDifference;
use crate::evaluate::results::SuiteResults;

/// A line for each figure of each model, with what else is to be said below.
pub(crate) fn results_table(results: &[SuiteResults]) -> String {
    let mut rows = vec![["suite", "model", "figure", "value", "±", "rows"].map(str::to_owned).to_vec()];
    for one in results {
        for (name, average) in &one.metrics {
            rows.push(line(&one.suite, &one.model, name, average));
        }
    }
    let mut text = columns(&rows);
    for one in results {
        for (category, named) in &one.categories {
            // MMLU has 57 subjects and IFEval 25 kinds: they are in results.json.
            if one.categories.len() <= 10 {
                let named = named.iter().map(|(name, average)| format!("{name} {:.4}", average.value));
                let named = named.collect::<Vec<_>>().join(", ");
                text.push_str(&format!("{}: {}: {category}: {named}\n", one.model, one.suite));
            }
        }
        for note in &one.notes {
            text.push_str(&format!("{}: {}: {note}\n", one.model, one.suite));
        }
    }
    text
}

fn line(suite: &str, model: &str, name: &str, average: &Average) -> Vec<String> {
    let error = average.standard_error.map_or("-".to_owned(), |error| format!("{error:.4}"));
    vec![
        suite.to_owned(),
        model.to_owned(),
        name.to_owned(),
        format!("{:.4}", average.value),
        error,
        average.n.to_string(),
    ]
}

/// A line for each figure that two models have of the same rows.
pub(crate) fn differences_table(differences: &[SuiteDifference]) -> String {
    let head = ["suite", "model", "figure", "difference", "95 % from", "to", "p", "rows"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in differences {
        for (name, found) in &one.figures {
            let number = |value: f64| format!("{value:+.4}");
            rows.push(vec![
                one.suite.clone(),
                one.model.clone(),
                name.clone(),
                number(found.difference),
                number(found.low),
                number(found.high),
                format!("{:.4}", found.p),
                found.n.to_string(),
            ]);
        }
    }
    format!("{}less the other's, by a paired bootstrap over the rows\n", columns(&rows))
}
