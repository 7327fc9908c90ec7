use super::*;

fn pair(label: Winner, score: f64) -> JudgedPair {
    JudgedPair {
        prompt: "p".to_owned(),
        first: "a".to_owned(),
        second: "b".to_owned(),
        label,
        annotators: Vec::new(),
        subset: None,
        score,
        shown: None,
    }
}

fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
}

#[test]
fn a_tie_of_the_model_counts_half_and_a_labelled_one_not_at_all() {
    use Winner::{First, Second, Tie};
    let pairs = [
        pair(First, 2.0),
        pair(First, 0.0),
        pair(Second, 1.0),
        pair(Second, -1.0),
        pair(Tie, 3.0),
        pair(Tie, 0.0),
    ];
    let found = report(&pairs);
    let accuracy = found.accuracy.unwrap();
    assert_eq!((accuracy.n, accuracy.rate), (4, 2.5 / 4.0));
    assert_eq!((found.ties.labelled, found.ties.model, found.ties.both), (2, 2, 1));
    close(found.ties.distance_when_tied.unwrap(), (sigmoid(3.0) - 0.5) / 2.0);
    let none = report(&[pair(Tie, 1.0)]);
    assert!(
        none.accuracy.is_none()
            && none.calibration.is_none()
            && none.orders.is_none()
            && none.annotators.is_none()
    );
}

#[test]
fn calibration_by_hand() {
    // Two of confidence 0.77, one of them right; one of 0.97, right.
    let (likely, nearly) = ((0.77_f64 / 0.23).ln(), (0.97_f64 / 0.03).ln());
    let pairs = [pair(Winner::First, likely), pair(Winner::First, -likely), pair(Winner::Second, -nearly)];
    let found = report(&pairs).calibration.unwrap();
    // |1 − 1.54| of two and |1 − 0.97| of one.
    close(found.ece, (0.54 + 0.03) / 3.0);
    close(found.log_loss, -(0.77_f64.ln() + 0.23_f64.ln() + 0.97_f64.ln()) / 3.0);
    close(found.brier, (0.23_f64.powi(2) + 0.77_f64.powi(2) + 0.03_f64.powi(2)) / 3.0);
    assert_eq!(found.reliability.iter().map(|bin| bin.n).collect::<Vec<_>>(), [2, 1]);
    close(found.reliability[0].low, 0.75);
    close(found.reliability[0].accuracy, 0.5);
    // A probability that rounds to 0 has a finite loss.
    close(report(&[pair(Winner::First, -2000.0)]).calibration.unwrap().log_loss, 2000.0);
}

#[test]
fn reward_bench_weighs_subsets_by_their_published_sizes() {
    let of = |subset: &str, right: usize, wrong: usize| {
        let one = |label| JudgedPair { subset: Some(subset.to_owned()), ..pair(label, 1.0) };
        let mut pairs = vec![one(Winner::First); right];
        pairs.extend(vec![one(Winner::Second); wrong]);
        pairs
    };
    let pairs = [
        of("math-prm", 3, 1),
        of("hep-rust", 1, 1),
        of("refusals-offensive", 1, 0),
        of("shp", 1, 3),
        of("mine", 1, 0),
    ]
    .concat();
    let found = report(&pairs);
    let names: Vec<&str> = found.subsets.iter().map(|one| one.subset.as_str()).collect();
    assert_eq!(names, ["hep-rust", "math-prm", "mine", "refusals-offensive", "shp"]);
    let bench = found.reward_bench.unwrap();
    let sections: Vec<&str> = bench.sections.iter().map(|one| one.section).collect();
    assert_eq!(sections, ["Safety", "Reasoning", "Prior Sets"]);
    // (0.75 · 984 + 0.5 · 164) / 1148.
    let reasoning = 100.0 * (738.0 + 82.0) / 1148.0;
    close(bench.sections[1].score, reasoning);
    close(bench.score, (100.0 + reasoning + 0.5 * 25.0) / 2.5);
    assert_eq!(bench.unknown, ["mine"]);
    assert!(
        bench.missing.contains(&"hep-cpp".to_owned())
            && !bench.missing.contains(&"alpacaeval-easy".to_owned())
    );
    let variance = (984.0_f64 / 1148.0).powi(2) * 0.1875 / 4.0 + (164.0_f64 / 1148.0).powi(2) * 0.25 / 2.0;
    assert!((bench.sections[1].half_interval - 196.0 * variance.sqrt()).abs() < 0.01);
    assert!(report(&of("mine", 1, 1)).reward_bench.is_none());
}

#[test]
fn orders_show_a_position_bias() {
    let with = |shown| JudgedPair { shown: Some(shown), ..pair(Winner::First, 1.0) };
    // Says "the first" of the first two whatever they are; the third agrees with itself.
    let found = report(&[with([0.9, 0.1]), with([0.7, 0.4]), with([0.8, 0.6])]).orders.unwrap();
    close(found.agreement.rate, 1.0 / 3.0);
    close(found.first_position, ((1.8 + 1.3 + 1.2) / 2.0) / 3.0);
    close(found.difference, (0.8 + 0.3 + 0.2) / 3.0);
}

#[test]
fn length_by_hand() {
    let with = |label, score, first: usize, second: usize| JudgedPair {
        first: "é".repeat(first),
        second: "é".repeat(second),
        ..pair(label, score)
    };
    let pairs = [
        with(Winner::First, 2.0, 30, 10),
        with(Winner::Second, 1.0, 12, 10),
        with(Winner::First, -1.0, 10, 30),
        with(Winner::Second, 1.0, 10, 10),
    ];
    let found = report(&pairs).length;
    // Longer by the labels: yes, no, no, equal.
    close(found.longer_is_labelled.unwrap().rate, 1.5 / 4.0);
    let preferred = found.longer_is_preferred.unwrap();
    assert_eq!((preferred.n, preferred.rate), (3, 1.0));
    close(found.correlation.unwrap(), (40.0 + 2.0 + 20.0) / (7.0_f64 * 804.0).sqrt());
    // Ranks by size: scores 3.5, 1.5, −1.5, 1.5 (three of one size), differences 3, 1.5, −3, 0 (one zero below them).
    let scores = [3.5, 1.5, -1.5, 1.5];
    let differences = [3.0, 1.5, -3.0, 0.0];
    let dot = |a: [f64; 4], b: [f64; 4]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let wanted = dot(scores, differences) / (dot(scores, scores) * dot(differences, differences)).sqrt();
    close(found.rank_correlation.unwrap(), wanted);
    let bands: Vec<(&str, usize, f64)> =
        found.bands.iter().map(|band| (band.winner_is, band.accuracy.n, band.accuracy.rate)).collect();
    assert_eq!(
        bands,
        [
            ("at most half as long", 1, 0.0),
            ("shorter", 1, 0.0),
            ("about as long", 1, 0.0),
            ("more than twice as long", 1, 1.0)
        ]
    );
    assert_eq!(report(&[pair(Winner::First, 1.0)]).length.correlation, None, "no difference of lengths");
}

/// Comparisons `first ≻ second` of one prompt with the model's scores.
fn compared(prompt: &str, rows: &[(&str, &str, f64)]) -> Vec<JudgedPair> {
    let row = |(first, second, score): &(&str, &str, f64)| JudgedPair {
        prompt: prompt.to_owned(),
        first: (*first).to_owned(),
        second: (*second).to_owned(),
        ..pair(Winner::First, *score)
    };
    rows.iter().map(row).collect()
}

#[test]
fn cycles_of_labels_and_of_the_model() {
    let circle = compared("circle", &[("a", "b", 1.0), ("b", "c", 1.0), ("c", "a", -1.0)]);
    let line = compared("line", &[("a", "b", 1.0), ("b", "c", 1.0), ("a", "c", -1.0)]);
    // Four in a circle without diagonals, and a tail that is no part of it.
    let four = compared(
        "four",
        &[("a", "b", 1.0), ("b", "c", 1.0), ("c", "d", -1.0), ("d", "a", 1.0), ("a", "e", -1.0)],
    );
    let found = report(&[circle, line, four].concat()).cycles;
    assert_eq!(
        (found.triads, found.cyclic_by_labels, found.cyclic_by_model, found.cyclic_by_both),
        (2, 1, 1, 0)
    );
    assert_eq!(found.cyclic_sets, 2);
    let accuracy = found.accuracy_on_cyclic_sets.unwrap();
    assert_eq!((accuracy.n, accuracy.rate), (7, 5.0 / 7.0));
    // A ranking loses one comparison of each circle.
    close(found.best_ranking.unwrap(), 5.0 / 7.0);
    let none = report(&compared("p", &[("a", "b", 1.0)])).cycles;
    assert!(none.accuracy_on_cyclic_sets.is_none() && none.best_ranking.is_none());
}

#[test]
fn the_best_ranking_of_all_ten_comparisons_of_a_tournament() {
    // Five in a circle, each beats the next two: ten comparisons; ranked as 0 1 2 3 4, those of (3, 0), (4, 0) and (4, 1) are lost.
    let names = ["0", "1", "2", "3", "4"];
    let rows = (0..5).flat_map(|one| [1, 2].map(|step| (names[one], names[(one + step) % 5], 1.0)));
    let found = report(&compared("p", &rows.collect::<Vec<_>>())).cycles;
    close(found.best_ranking.unwrap(), 0.7);
    assert_eq!((found.triads, found.cyclic_by_labels), (10, 5));
}

#[test]
fn several_annotators() {
    use Winner::{First, Second, Tie};
    let with = |score, annotators: [Winner; 3]| JudgedPair {
        annotators: annotators.to_vec(),
        ..pair(Winner::majority(&annotators), score)
    };
    let pairs = [
        with(1.0, [First, First, Second]),
        with(1.0, [Second, Second, Second]),
        with(-1.0, [Tie, Tie, First]),
        with(-1.0, [First, Tie, Second]),
    ];
    assert_eq!(pairs.iter().map(|pair| pair.label).collect::<Vec<_>>(), [First, Second, Tie, Tie]);
    let found = report(&pairs).annotators.unwrap();
    let rates = |one: &AnnotatorAgreement| (one.agreement.map_or(0, |found| found.n), one.with_ties.rate);
    assert_eq!(found.annotators.iter().map(rates).collect::<Vec<_>>(), [(3, 0.25), (2, 0.25), (4, 0.25)]);
    assert_eq!((rates(&found.majority), found.majority.agreement.unwrap().rate), ((2, 0.25), 0.5));
    // 1 and 2 agree on three of four, 1 and 3 on one, 2 and 3 on one.
    close(found.between_annotators.unwrap(), (0.75 + 0.25 + 0.25) / 3.0);
    // Votes (2,0,1), (0,0,3), (1,2,0), (1,1,1): agreement (⅓ + 1 + ⅓ + 0)/4; shares 4/12, 3/12, 5/12.
    let (agreed, chance) = ((5.0 / 3.0) / 4.0, (16.0 + 9.0 + 25.0) / 144.0);
    close(found.kappa.unwrap(), (agreed - chance) / (1.0 - chance));
    // The model says first, first, second, second; the first annotator first, second, tie, first: ½·½ + 0·¼ + ½·¼ by chance.
    let chance = 0.5 * 0.5 + 0.5 * 0.25;
    close(found.annotators[0].kappa.unwrap(), (0.25 - chance) / (1.0 - chance));
}
