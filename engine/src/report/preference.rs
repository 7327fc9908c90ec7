//! The output of `eval-preference` for people.

use std::fmt::Write as _;

use selfplay_evaluation::preference::{
    AnnotatorAgreement, AnnotatorsReport, Calibration, CycleReport, LengthReport, OrderReport,
    PreferenceReport, Proportion, RewardBenchReport,
};

use super::table::columns;

/// The report as text.
pub fn table(found: &PreferenceReport) -> String {
    let mut text = format!("{} comparisons\n\n", found.comparisons);
    let mut rows = vec![proportion("accuracy", found.accuracy.as_ref())];
    rows.extend(
        found.subsets.iter().map(|one| proportion(&format!("  {}", one.subset), Some(&one.accuracy))),
    );
    table_of(&mut text, ["", "n", "share", "95 % interval"], rows);
    if let Some(bench) = &found.reward_bench {
        reward_bench(&mut text, bench);
    }
    ties(&mut text, found);
    if let Some(calibration) = &found.calibration {
        calibrated(&mut text, calibration);
    }
    if let Some(orders) = &found.orders {
        in_orders(&mut text, orders);
    }
    lengths(&mut text, &found.length);
    cycles(&mut text, &found.cycles);
    if let Some(annotators) = &found.annotators {
        agreement(&mut text, annotators);
    }
    text
}

fn reward_bench(text: &mut String, bench: &RewardBenchReport) {
    text.push_str("RewardBench\n");
    let section = |one: &selfplay_evaluation::preference::SectionScore| {
        vec![
            one.section.to_owned(),
            one.n.to_string(),
            format!("{:.1}", one.score),
            format!("± {:.1}", one.half_interval),
        ]
    };
    let mut rows: Vec<Vec<String>> = bench.sections.iter().map(section).collect();
    rows.push(vec!["score".to_owned(), String::new(), format!("{:.1}", bench.score), String::new()]);
    table_of(text, ["section", "n", "score", "95 %"], rows);
    if !bench.missing.is_empty() {
        line(
            text,
            &format!("absent, so that sections are not the leaderboard's: {}", bench.missing.join(", ")),
        );
    }
    if !bench.unknown.is_empty() {
        line(text, &format!("in no section: {}", bench.unknown.join(", ")));
    }
}

fn ties(text: &mut String, found: &PreferenceReport) {
    let ties = &found.ties;
    if ties.labelled + ties.model == 0 {
        return;
    }
    line(
        text,
        &format!("ties: {} labelled, {} of the model, {} of both", ties.labelled, ties.model, ties.both),
    );
    if let (Some(tied), Some(decided)) = (ties.distance_when_tied, ties.distance_when_decided) {
        line(text, &format!("mean |P − ½|: {tied:.3} where the labels tie, {decided:.3} elsewhere"));
    }
    text.push('\n');
}

fn calibrated(text: &mut String, found: &Calibration) {
    line(
        text,
        &format!(
            "calibration: ECE {:.4}, log loss {:.4}, Brier {:.4}",
            found.ece, found.log_loss, found.brier
        ),
    );
    let bin = |bin: &selfplay_evaluation::preference::ReliabilityBin| {
        vec![
            format!("{:.2}–{:.2}", bin.low, bin.high),
            bin.n.to_string(),
            percent(bin.confidence),
            percent(bin.accuracy),
        ]
    };
    table_of(text, ["confidence", "n", "mean", "right"], found.reliability.iter().map(bin).collect());
}

fn in_orders(text: &mut String, found: &OrderReport) {
    table_of(
        text,
        ["both orders", "n", "share", "95 % interval"],
        vec![proportion("same winner", Some(&found.agreement))],
    );
    line(
        text,
        &format!(
            "P(shown first wins) {:.3}; mean difference of the two orders {:.3}\n",
            found.first_position, found.difference
        ),
    );
}

fn lengths(text: &mut String, found: &LengthReport) {
    let mut rows = vec![
        proportion("the longer one wins by the labels", found.longer_is_labelled.as_ref()),
        proportion("the longer one wins by the model", found.longer_is_preferred.as_ref()),
    ];
    rows.extend(
        found
            .bands
            .iter()
            .map(|band| proportion(&format!("accuracy, winner {}", band.winner_is), Some(&band.accuracy))),
    );
    table_of(text, ["length", "n", "share", "95 % interval"], rows);
    if let (Some(pearson), Some(spearman)) = (found.correlation, found.rank_correlation) {
        line(
            text,
            &format!("correlation of score and length: {pearson:.3} (Pearson), {spearman:.3} (Spearman)\n"),
        );
    }
}

fn cycles(text: &mut String, found: &CycleReport) {
    if found.triads > 0 {
        line(
            text,
            &format!(
                "triads: {}; cyclic by the labels {}, by the model {}, by both {}",
                found.triads, found.cyclic_by_labels, found.cyclic_by_model, found.cyclic_by_both
            ),
        );
    }
    if let Some(accuracy) = &found.accuracy_on_cyclic_sets {
        let best = found.best_ranking.map_or("-".to_owned(), percent);
        line(
            text,
            &format!(
                "cyclic sets of {} prompts: accuracy {} of {} comparisons ({}); no ranking reaches more than {best}",
                found.cyclic_sets,
                percent(accuracy.rate),
                accuracy.n,
                interval(accuracy)
            ),
        );
    }
    if found.triads > 0 || found.accuracy_on_cyclic_sets.is_some() {
        text.push('\n');
    }
}

fn agreement(text: &mut String, found: &AnnotatorsReport) {
    let one = |name: String, of: &AnnotatorAgreement| {
        let rate = of.agreement.as_ref();
        vec![
            name,
            rate.map_or("0".to_owned(), |found| found.n.to_string()),
            rate.map_or("-".to_owned(), |found| percent(found.rate)),
            rate.map_or("-".to_owned(), interval),
            percent(of.with_ties.rate),
            of.kappa.map_or("-".to_owned(), |kappa| format!("{kappa:.3}")),
        ]
    };
    let numbered = found.annotators.iter().enumerate();
    let mut rows: Vec<Vec<String>> =
        numbered.map(|(place, of)| one(format!("annotator {}", place + 1), of)).collect();
    rows.push(one("majority".to_owned(), &found.majority));
    table_of(text, ["agreement with", "n", "share", "95 % interval", "with ties", "kappa"], rows);
    if let Some(between) = found.between_annotators {
        let kappa = found.kappa.map_or("-".to_owned(), |kappa| format!("{kappa:.3}"));
        line(text, &format!("annotators with each other: {}, Fleiss' kappa {kappa}", percent(between)));
    }
}

fn proportion(name: &str, found: Option<&Proportion>) -> Vec<String> {
    match found {
        Some(one) => vec![name.to_owned(), one.n.to_string(), percent(one.rate), interval(one)],
        None => vec![name.to_owned(), "0".to_owned(), "-".to_owned(), "-".to_owned()],
    }
}

fn interval(found: &Proportion) -> String {
    format!("{:.1}–{:.1}", 100.0 * found.low, 100.0 * found.high)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn table_of<const N: usize>(text: &mut String, head: [&str; N], rows: Vec<Vec<String>>) {
    let head = head.map(str::to_owned).to_vec();
    text.push_str(&columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    text.push('\n');
}

fn line(text: &mut String, words: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "{words}");
}
