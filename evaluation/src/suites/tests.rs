//! Against the published programs: `reference/values.json` is what they say of rows made for it (tests/by_hand/evaluation_reference.py).

use serde_json::{Value, json};

use selfplay_records::atomic;

use super::average::Average;
use super::fewshot::{FewshotRule, FewshotSampler};
use super::ifeval::SentenceSplitter;
use super::multiple_choice::{ChoiceLayout, Correct};
use super::*;

fn reference() -> Value {
    serde_json::from_str(include_str!("reference/values.json")).unwrap()
}

fn written(name: &str, rows: &[Value]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    atomic::write_bytes(&path, lines.as_bytes()).unwrap();
    (folder, path)
}

#[test]
fn ifeval_follows_where_the_published_checkers_do() {
    let found = &reference()["ifeval"];
    let instructions = found["instructions"].as_array().unwrap();
    let ids: Vec<&Value> = instructions.iter().map(|one| &one["id"]).collect();
    let arguments: Vec<&Value> = instructions.iter().map(|one| &one["kwargs"]).collect();
    let row = json!({"key": 1, "prompt": "x", "instruction_id_list": ids, "kwargs": arguments});
    let (_folder, path) = written("input_data.jsonl", &[row]);
    let row = ifeval::read(&path).unwrap().remove(0);
    let splitter = SentenceSplitter::new();
    let mut wrong = Vec::new();
    let mut languages = 0;
    for one in found["rows"].as_array().unwrap() {
        let answer = one["answer"].as_str().unwrap();
        if !answer.trim().is_empty() {
            let sentences = json!(splitter.split(answer));
            assert_eq!(sentences, one["sentences"], "{answer:?}");
        }
        let followed = ifeval::followed(&row, answer, &splitter);
        for (name, ours) in [("strict", &followed.strict), ("loose", &followed.loose)] {
            for (place, (ours, theirs)) in ours.iter().zip(one[name].as_array().unwrap()).enumerate() {
                let theirs = theirs == 1;
                if *ours == theirs {
                    continue;
                }
                // Guesses of a language by two programs.
                if row.ids[place].starts_with("language:")
                    || row.ids[place].starts_with("change_case:english")
                {
                    languages += 1;
                } else {
                    wrong.push(format!(
                        "{name} {} {:?} of {answer:?}: ours {ours}",
                        row.ids[place], arguments[place]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(languages <= MOST_LANGUAGES, "{languages} guesses of a language differ");
}

/// Guesses of whatlang and langdetect that differ on the reference's rows, of 43 answers with 8 questions, strict and loose. They are on
/// texts of a few words and in capitals.
const MOST_LANGUAGES: usize = 60;

#[test]
fn gsm8k_reads_the_numbers_that_lm_eval_reads() {
    for row in reference()["gsm8k"].as_array().unwrap() {
        let (text, answer) = (row["text"].as_str().unwrap(), row["answer"].as_str().unwrap());
        let strict = gsm8k::strict_match(text, answer);
        assert_eq!(json!([strict.text, strict.is_right]), row["strict-match"], "{row}");
        let flexible = gsm8k::flexible_extract(text, answer);
        assert_eq!(json!([flexible.text, flexible.is_right]), row["flexible-extract"], "{row}");
    }
}

#[test]
fn choices_have_the_texts_and_figures_of_lm_evals_tasks() {
    let mut seen = 0;
    for row in reference()["choices"].as_array().unwrap() {
        let layout = match row["layout"].as_str().unwrap() {
            "arc" => ChoiceLayout::Arc,
            "hellaswag" => ChoiceLayout::HellaSwag,
            "winogrande" => ChoiceLayout::WinoGrande,
            "mmlu" => ChoiceLayout::Mmlu,
            "truthfulqa_mc1" => ChoiceLayout::TruthfulQaMc1,
            _ => ChoiceLayout::TruthfulQaMc2,
        };
        let (_folder, path) = written("rows.jsonl", std::slice::from_ref(&row["doc"]));
        let question = multiple_choice::read(layout, &path, "").unwrap().remove(0);
        let requests = multiple_choice::requests(&question, &[]);
        let contexts: Vec<&str> = requests.iter().map(|one| one.context.as_str()).collect();
        let continuations: Vec<&str> = requests.iter().map(|one| one.continuation.as_str()).collect();
        assert_eq!(json!(contexts), row["contexts"]);
        assert_eq!(json!(continuations), row["continuations"]);
        let scores: Vec<f64> =
            row["scores"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
        for (name, value) in multiple_choice::figures(&question, &scores) {
            let wanted = row["figures"][name].as_f64().unwrap();
            assert!((value - wanted).abs() < 1e-12, "{name} of {row}: {value}");
        }
        assert!(matches!(question.correct, Correct::Each(_)) == (layout == ChoiceLayout::TruthfulQaMc2));
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn examples_are_those_that_lm_eval_draws() {
    let found = &reference()["fewshot"];
    let mut sampler = FewshotSampler::new(FewshotRule::Drawn);
    let other: Vec<Vec<usize>> = (0..4).map(|_| sampler.next(40, 5, None)).collect();
    assert_eq!(json!(other), found["other"]);
    let mut sampler = FewshotSampler::new(FewshotRule::Drawn);
    let same: Vec<Vec<usize>> = (0..6).map(|own| sampler.next(12, 3, Some(own))).collect();
    assert_eq!(json!(same), found["same"]);
}

#[test]
fn averages_have_lm_evals_errors() {
    let found = &reference()["averages"];
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect()
    };
    let groups: Vec<Average> = found["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| Average::of(&numbers(group)).unwrap())
        .collect();
    for ((group, mean), error) in groups.iter().zip(numbers(&found["means"])).zip(numbers(&found["errors"])) {
        assert!((group.value - mean).abs() < 1e-12 && (group.standard_error.unwrap() - error).abs() < 1e-12);
    }
    let pooled = Average::pooled(&groups).unwrap().standard_error.unwrap();
    assert!((pooled - found["pooled"].as_f64().unwrap()).abs() < 1e-12, "{pooled}");
}

#[test]
fn judgements_are_read_as_fastchat_reads_them() {
    for row in reference()["mt_bench"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        assert_eq!(json!(mt_bench::rating(text)), row["rating"], "{text}");
        assert_eq!(json!(mt_bench::pair_winner(text)), row["winner"], "{text}");
    }
}
