//! Figures of evaluations for a card: `evaluation/SUITE/results.json` beside a model, which are written after its card.

use std::path::PathBuf;

use crate::card::CardResult;
use crate::error::Result;
use crate::evaluate::results::{SuiteResults, read_evaluations};

/// The figures of the folders, suite by suite, with their standard errors.
///
/// # Errors
/// A results.json that does not read.
pub(super) fn evaluations(folders: &[PathBuf]) -> Result<Vec<CardResult>> {
    let mut results = Vec::new();
    for folder in folders {
        results.extend(read_evaluations(folder)?.iter().flat_map(of_suite));
    }
    Ok(results)
}

fn of_suite(suite: &SuiteResults) -> Vec<CardResult> {
    let line = |(name, average): (&String, &selfplay_evaluation::suites::average::Average)| {
        let error = average.standard_error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        CardResult {
            what: format!("{}: {name}", suite.suite),
            value: format!("{:.4}{error} ({} rows)", average.value, average.n),
        }
    };
    suite.metrics.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn figures_are_listed_by_suite_with_their_errors() {
        let folder = tempfile::tempdir().unwrap();
        let suite = folder.path().join("evaluation/gsm8k");
        atomic::create_dir_all(&suite).unwrap();
        let text = "{\"suite\": \"gsm8k\", \"model\": \"iteration 1\", \"rows\": 4, \"metrics\": {\"exact_match\": {\"value\": 0.25, \
                    \"standard_error\": 0.125, \"n\": 4}}, \"depends_on\": {}}";
        atomic::write_bytes(&suite.join("results.json"), text.as_bytes()).unwrap();
        let found = evaluations(&[folder.path().to_path_buf(), folder.path().join("absent")]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].what.as_str(), found[0].value.as_str()),
            ("gsm8k: exact_match", "0.2500 ± 0.1250 (4 rows)")
        );
        atomic::write_bytes(&suite.join("results.json"), b"{").unwrap();
        assert!(evaluations(&[folder.path().to_path_buf()]).is_err());
    }
}
