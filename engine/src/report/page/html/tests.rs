use std::collections::BTreeMap;

use selfplay_evaluation::suites::average::Average;
use selfplay_trainer::StepMetrics;
use serde_json::Value;

use super::super::model::{
    CandidateNumbers, CostStage, HeldOutSample, IterationCost, PageRun, PairRole, SampleAnswer, SampleTable,
    ScoredLength, TrainedSample,
};
use super::*;
use crate::run::summary::{EvaluationSummary, IterationSummary, StartSummary};

/// What is tried on pages, also in names, keys and paths.
const HOSTILE: &str =
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\" onload=\"x' & \u{2028}<!--";

fn step(step: usize) -> StepMetrics {
    StepMetrics {
        step,
        loss: 1.0 / step as f64,
        grad_norm: 2.0,
        learning_rate: 1e-5,
        reward_chosen: Some(0.5),
        reward_rejected: Some(-0.25),
        logp_chosen: Some(-9.0),
        logp_rejected: Some(-11.0),
        tokens: 100,
        seconds: 1.5,
        val_loss: None,
        micro_batch_tokens: None,
        kl: None,
        clipped: None,
    }
}

fn run(name: &str) -> PageRun {
    let answer = |text: &str, role| SampleAnswer {
        text: text.to_owned(),
        tokens: Some(4),
        probability: Some(0.625),
        role,
        ..SampleAnswer::default()
    };
    let iteration = IterationSummary {
        iteration: 1,
        win_rate_first: Some(0.612),
        eval_accuracy: Some(0.5),
        kl: Some(0.25),
        cyclic: Some(0.0),
        length_warning: Some(HOSTILE.to_owned()),
        ..IterationSummary::default()
    };
    PageRun {
        name: name.to_owned(),
        directory: format!("runs/{name}"),
        state: "1 of 3 iterations".to_owned(),
        start: StartSummary { eval_accuracy: Some(0.375), characters: Some(9.0), tokens: Some(3.0) },
        iterations: vec![iteration],
        trainings: vec![(1..=3).map(step).collect()],
        candidates: vec![CandidateNumbers {
            iteration: 1,
            prompts: 2,
            lengths: vec![1.0, 2.0, 4.0],
            scored: vec![
                ScoredLength { length: 1.0, probability: 0.25 },
                ScoredLength { length: 4.0, probability: 0.75 },
            ],
            cyclic: Some(0.5),
        }],
        held_out: SampleTable {
            rows: vec![HeldOutSample {
                prompt_id: HOSTILE.to_owned(),
                prompt: HOSTILE.to_owned(),
                before: answer(HOSTILE, None),
                after: Some((1, answer(HOSTILE, None))),
                win: Some(0.75),
            }],
            of: 7,
        },
        trained: SampleTable {
            rows: vec![TrainedSample {
                iteration: 1,
                prompt_id: "3".to_owned(),
                prompt: HOSTILE.to_owned(),
                candidates: vec![
                    answer("good", Some(PairRole::Chosen)),
                    answer(HOSTILE, Some(PairRole::Rejected)),
                    answer("", None),
                ],
                probability: Some(0.875),
            }],
            of: 1,
        },
        settings: BTreeMap::from([
            ("train.beta".to_owned(), Value::from(0.1)),
            (HOSTILE.to_owned(), Value::from(HOSTILE)),
        ]),
        costs: vec![IterationCost {
            iteration: 1,
            seconds: BTreeMap::from([(CostStage::Sampling, 2.0), (CostStage::Training, 6.0)]),
            scorer_seconds: 0.5,
            peak_bytes: BTreeMap::from([(CostStage::Training, 3 << 30)]),
        }],
        missing: vec![HOSTILE.to_owned()],
        ..PageRun::default()
    }
}

/// Names of the elements in order; every one is closed where it must be, and every attribute has a quoted value.
fn elements(page: &str) -> Vec<String> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let (mut open, mut seen) = (Vec::<String>::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "a bare > in {:?}", &rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find('>').unwrap();
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in the wrong order");
            continue;
        }
        let (name, attributes) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
        let attributes = attributes.trim_end_matches('/');
        assert_eq!(attributes.matches('"').count() % 2, 0, "{tag}");
        for part in attributes.split('"').step_by(2).filter(|part| !part.trim().is_empty()) {
            assert!(part.trim().ends_with('='), "{tag}");
            assert!(!part.trim().starts_with("on") && !part.trim().starts_with("style"), "{tag}");
        }
        let name = name.trim_end_matches('/').to_owned();
        seen.push(name.clone());
        if tag.ends_with('/') {
            continue;
        }
        if name == "script" || name == "style" {
            let close = format!("</{name}>");
            rest = &rest[rest.find(&close).unwrap() + close.len()..];
            continue;
        }
        open.push(name);
    }
    assert_eq!(open, Vec::<String>::new(), "left open");
    seen
}

fn page(runs: Vec<PageRun>) -> String {
    render(
        &ReportPage {
            runs,
            keys: BTreeMap::from([("train.beta".to_owned(), vec![0.1.into(), HOSTILE.into()])]),
        },
        false,
    )
}

#[test]
fn a_page_is_well_formed_and_hostile_texts_stay_texts() {
    let text = page(vec![run("a"), run(HOSTILE)]);
    let names = elements(&text);
    assert!(!names.iter().any(|name| name == "img"), "{names:?}");
    // The script of the page, and JSON.
    let scripts = text.matches("<script>").count();
    assert_eq!(scripts, 1, "one script of its own");
    assert!(!text.contains('\u{2028}') && !text.contains("<!--") && !text.contains("onerror=alert(1)>\""));
    assert!(text.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
    for kind in ["figure", "table", "details", "article", "nav", "main"] {
        assert!(names.iter().any(|name| name == kind), "{kind}");
    }
}

#[test]
fn nothing_is_loaded() {
    let text = page(vec![run("a")]);
    for word in ["http://", "https://", "src=", "@import", "url(", "<link", "<iframe", "ws://"] {
        let found: Vec<usize> = text.match_indices(word).map(|(at, _)| at).collect();
        // What a text of a run says is no load; the name of SVG's elements in the script is none either.
        let loads = found.iter().filter(|&&at| {
            let (from, to) = (at.saturating_sub(60), (at + 40).min(text.len()));
            let around = &text[text.floor_char_boundary(from)..text.ceil_char_boundary(to)];
            !around.contains("www.w3.org/2000/svg") && !around.contains("&lt;img")
        });
        assert_eq!(loads.count(), 0, "{word}");
    }
    assert!(text.contains("connect-src &#39;none&#39;"));
    assert!(render(&ReportPage::default(), true).contains("connect-src &#39;self&#39;"));
}

#[test]
fn a_page_has_the_runs_numbers() {
    let text = page(vec![run("a")]);
    for wanted in [
        "61.2 %",
        "50.0 %",
        "37.5 % at the start",
        "P(after ≻ before) 75.0 %",
        "iteration 1 · P(chosen ≻ rejected) 87.5 %",
        "mean P 62.5 %",
        "1 of 7 prompts",
        r#""points":[[1.0,1.0],[2.0,0.5],[3.0,0.3333333]]"#,
        r#""points":[[1.0,0.75],[2.0,0.75],[3.0,0.75]]"#,
        "iteration 1: sampling 2.0 s, training 6.0 s",
        "3.00 GiB",
        "<em>empty</em>",
    ] {
        assert!(text.contains(wanted), "{wanted}");
    }
}

#[test]
fn a_run_without_anything_is_a_page_and_says_what_is_missing() {
    let empty =
        PageRun { name: "x".into(), missing: vec!["no training steps yet".into()], ..PageRun::default() };
    let text = page(vec![empty]);
    elements(&text);
    assert!(text.contains("no training steps yet") && !text.contains("<figure"));
}

#[test]
fn long_samples_are_cut_and_do_not_fill_the_page() {
    let mut one = run("a");
    let row = one.held_out.rows[0].clone();
    let long = SampleAnswer { text: "x".repeat(100_000), ..SampleAnswer::default() };
    one.held_out.rows = vec![HeldOutSample { before: long, ..row }; 3000];
    one.held_out.of = 3000;
    one.trained = SampleTable::default();
    let text = page(vec![one]);
    assert!(text.len() < 2_000_000, "{}", text.len());
    let shown = text.matches("<article").count();
    assert!(text.contains(&format!("{} of 3000 prompts", shown)) && shown > 100, "{shown}");
}

#[test]
fn suites_stand_beside_what_the_preference_model_says() {
    let average = |value| Average { value, standard_error: Some(0.03), n: 40 };
    let mut first = run("first");
    assert!(
        !render(&ReportPage { runs: vec![first.clone()], keys: BTreeMap::new() }, false)
            .contains("Published suites")
    );
    let found = |iteration, value| EvaluationSummary {
        iteration,
        suite: "gsm8k".to_owned(),
        rows: 40,
        metrics: BTreeMap::from([("strict-match".to_owned(), average(value))]),
    };
    first.evaluations = vec![found(0, 0.25), found(1, 0.375)];
    let page = render(&ReportPage { runs: vec![first.clone()], keys: BTreeMap::new() }, false);
    for cell in [
        "<caption>Published suites</caption>",
        "<td>strict-match</td><td>start</td><td>0.2500</td><td>0.0300</td>",
        "<td>0.3750</td>",
    ] {
        assert!(page.contains(cell), "{cell}");
    }
    let page = render(&ReportPage { runs: vec![first, run("second")], keys: BTreeMap::new() }, false);
    assert!(page.contains("<th scope=\"row\">first</th><td>gsm8k</td>"));
}
