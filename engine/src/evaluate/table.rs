//! The suites by name. Another suite is a line here and a file in `suites/`.

use selfplay_evaluation::suites::multiple_choice::ChoiceLayout;

use super::settings::SuiteSettings;
use super::suite::Suite;
use super::suite_files::SuiteFiles;
use super::suites::{alpaca_eval, choices, cvalues, gsm8k, ifeval, mt_bench};
use crate::error::{EngineError, Result};

/// A suite that can be named.
pub(crate) struct SuiteEntry {
    /// In `--suite` and of its folder.
    pub(crate) name: &'static str,
    /// Files beside its own that `--data NAME.KEY=PATH` may give, and what each is.
    pub(crate) more_data: &'static [(&'static str, &'static str)],
    /// What its own file is, for the message where it is absent.
    pub(crate) data: &'static str,
    /// Reads its files.
    pub(super) open: fn(&SuiteFiles, &SuiteSettings) -> Result<Box<dyn Suite>>,
}

const FEWSHOT: (&str, &str) = ("fewshot", "the split that examples come from");
const PREFIX: (&str, &str) = ("prefix", "a text of examples that goes before every question");

/// Every suite.
pub(crate) static SUITES: &[SuiteEntry] = &[
    SuiteEntry {
        name: "ifeval",
        data: "IFEval's input_data.jsonl (hub: google/IFEval)",
        more_data: &[("punkt", "NLTK's folder punkt_tab/english")],
        open: ifeval::open,
    },
    SuiteEntry {
        name: "gsm8k",
        data: "rows with question and answer (hub: openai/gsm8k, main/test)",
        more_data: &[FEWSHOT],
        open: gsm8k::open,
    },
    choice(
        "arc_easy",
        "rows with question, choices and answerKey (hub: allenai/ai2_arc, ARC-Easy/test)",
        |files, settings| choices::open(ChoiceLayout::Arc, files, settings),
    ),
    choice("arc_challenge", "as arc_easy (hub: allenai/ai2_arc, ARC-Challenge/test)", |files, settings| {
        choices::open(ChoiceLayout::Arc, files, settings)
    }),
    choice(
        "hellaswag",
        "rows with ctx_a, ctx_b, activity_label, endings and label (hub: Rowan/hellaswag, validation)",
        |files, settings| choices::open(ChoiceLayout::HellaSwag, files, settings),
    ),
    choice(
        "winogrande",
        "rows with sentence, option1, option2 and answer (hub: allenai/winogrande, winogrande_xl/validation)",
        |files, settings| choices::open(ChoiceLayout::WinoGrande, files, settings),
    ),
    choice(
        "mmlu",
        "rows with question, choices, answer and subject (hub: cais/mmlu, all/test), or a folder of MMLU's CSV files",
        |files, settings| choices::open(ChoiceLayout::Mmlu, files, settings),
    ),
    SuiteEntry {
        name: "truthfulqa_mc1",
        data: "rows with question and mc1_targets (hub: truthfulqa/truthful_qa, multiple_choice/validation)",
        more_data: &[PREFIX],
        open: |files, settings| choices::open(ChoiceLayout::TruthfulQaMc1, files, settings),
    },
    SuiteEntry {
        name: "truthfulqa_mc2",
        data: "rows with question and mc2_targets (hub: truthfulqa/truthful_qa, multiple_choice/validation)",
        more_data: &[PREFIX],
        open: |files, settings| choices::open(ChoiceLayout::TruthfulQaMc2, files, settings),
    },
    SuiteEntry {
        name: "mt_bench",
        data: "FastChat's question.jsonl",
        more_data: &[
            ("references", "a file of reference answers"),
            ("prompts", "FastChat's judge_prompts.jsonl, in the place of our own wordings"),
            ("baseline", "another model's answers: pairs are judged, not single answers"),
        ],
        open: mt_bench::open,
    },
    SuiteEntry {
        name: "alpaca_eval",
        data: "AlpacaEval's alpaca_eval.json: instructions with the baseline's outputs",
        more_data: &[("difficulty", "instruction_difficulty.csv"), ("gamed", "df_gamed.csv")],
        open: alpaca_eval::open,
    },
    SuiteEntry {
        name: "cvalues",
        data: "CValues' pairs: rows with prompt, pos_resp and neg_resp",
        more_data: &[],
        open: cvalues::open,
    },
];

/// A suite of questions with choices that takes examples.
const fn choice(
    name: &'static str,
    data: &'static str,
    open: fn(&SuiteFiles, &SuiteSettings) -> Result<Box<dyn Suite>>,
) -> SuiteEntry {
    SuiteEntry { name, data, more_data: &[FEWSHOT], open }
}

/// The suites of these names, each once.
///
/// # Errors
/// A name that is unknown.
pub(crate) fn find(names: &[String]) -> Result<Vec<&'static SuiteEntry>> {
    let mut found: Vec<&'static SuiteEntry> = Vec::new();
    for name in names {
        let Some(entry) = SUITES.iter().find(|entry| entry.name == name) else {
            let known: Vec<&str> = SUITES.iter().map(|entry| entry.name).collect();
            return Err(EngineError::input(format!(
                "--suite {name}: no such suite; known are {}",
                known.join(", ")
            )));
        };
        if !found.iter().any(|one| one.name == entry.name) {
            found.push(entry);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_suite_lists_the_known_ones() {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let error = find(&names(&["gsm8k", "gsm9k"])).err().unwrap();
        assert_eq!(error.exit_status(), 2);
        assert!(
            error.to_string().contains("--suite gsm9k") && error.to_string().contains("truthfulqa_mc2"),
            "{error}"
        );
        assert_eq!(find(&names(&["gsm8k", "ifeval", "gsm8k"])).unwrap().len(), 2);
    }
}
