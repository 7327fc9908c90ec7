use proptest::prelude::*;

use super::*;
use crate::pick::row_pass::exp;

/// Blocks of which the sample of a row of [`long_row`] sees one.
const STRIDE: usize = 7;

fn rule(temperature: f64, top_k: usize, top_p: f64, min_p: f64) -> PickRule {
    PickRule::new(&Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() })
}

fn prepared(logits: &[f32], rule: &PickRule) -> Picker {
    let mut picker = Picker::default();
    picker.prepare(logits, rule).unwrap();
    picker
}

fn kept(logits: &[f32], rule: &PickRule) -> Vec<u32> {
    let picker = prepared(logits, rule);
    match picker.kept {
        KeptTokens::Greatest => vec![picker.greatest(logits)],
        KeptTokens::Down { to, .. } => {
            let mass = |logit: f32| picker.weights.unwrap().mass(logit - picker.max);
            let keeps = |&id: &u32| to.keeps(logits[id as usize], id, mass(logits[id as usize]));
            (0..logits.len() as u32).filter(keeps).collect()
        }
        KeptTokens::Choices { .. } => picker.choices.iter().map(|choice| choice.id).collect(),
    }
}

/// The definition, by a sort of everything.
fn kept_by_sorting(logits: &[f32], rule: &PickRule) -> Vec<u32> {
    let temperature = rule.temperature.unwrap();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass = |logit: f32| {
        let distance = logit - max;
        let weight = if temperature == 1.0 { exp(distance) } else { exp(distance * temperature.recip()) };
        (f64::from(weight) * (1u64 << 34) as f64).round_ties_even() / (1u64 << 34) as f64
    };
    let mut sorted: Vec<TokenChoice> = logits
        .iter()
        .enumerate()
        .map(|(id, &logit)| TokenChoice { logit, id: id as u32, mass: mass(logit) })
        .collect();
    sorted.sort_by(TokenChoice::rank);
    if rule.top_k > 0 {
        sorted.truncate(rule.top_k);
    }
    if rule.top_p < 1.0 {
        let target = rule.top_p * mass_of(&sorted);
        let mut sum = 0.0;
        let count = sorted.iter().take_while(|choice| {
            let open = sum < target;
            sum += choice.mass;
            open
        });
        let count = count.count();
        sorted.truncate(count);
    }
    sorted.retain(|choice| rule.min_p == 0.0 || choice.mass >= rule.min_p);
    let mut ids: Vec<u32> = sorted.into_iter().map(|choice| choice.id).collect();
    ids.sort_unstable();
    ids
}

/// Probabilities ½, ¼, ⅛, ⅛ at temperature 1, not in order.
fn halves() -> Vec<f32> {
    [0.125f32, 0.5, 0.125, 0.25].iter().map(|p| p.ln()).collect()
}

#[test]
fn top_p_keeps_the_shortest_prefix_that_reaches_it() {
    assert_eq!(kept(&halves(), &rule(1.0, 0, 0.4, 0.0)), [1]);
    assert_eq!(kept(&halves(), &rule(1.0, 0, 0.6, 0.0)), [1, 3]);
    // Of the two eighths the lower id comes first.
    assert_eq!(kept(&halves(), &rule(1.0, 0, 0.8, 0.0)), [0, 1, 3]);
    assert_eq!(kept(&halves(), &rule(1.0, 0, 0.9, 0.0)), [0, 1, 2, 3]);
    assert_eq!(kept(&halves(), &rule(1.0, 0, 1e-9, 0.0)), [1]);
}

#[test]
fn top_k_comes_before_top_p() {
    assert_eq!(kept(&halves(), &rule(1.0, 3, 1.0, 0.0)), [0, 1, 3]);
    // Of the two that top-k leaves, the first holds two thirds.
    assert_eq!(kept(&halves(), &rule(1.0, 2, 0.6, 0.0)), [1]);
    assert_eq!(kept(&halves(), &rule(1.0, 2, 0.7, 0.0)), [1, 3]);
    assert_eq!(kept(&halves(), &rule(1.0, 9, 1.0, 0.0)), [0, 1, 2, 3]);
}

#[test]
fn min_p_is_relative_to_the_greatest() {
    assert_eq!(kept(&halves(), &rule(1.0, 0, 1.0, 0.4)), [1, 3]);
    assert_eq!(kept(&halves(), &rule(1.0, 0, 1.0, 1.0)), [1]);
    // At temperature ½ the ratios are squared: 1, 1/4, 1/16.
    assert_eq!(kept(&halves(), &rule(0.5, 0, 1.0, 0.3)), [1]);
    assert_eq!(kept(&halves(), &rule(0.5, 0, 0.99, 0.2)), [1, 3]);
}

#[test]
fn the_draw_inverts_the_cumulative_distribution_in_the_order_of_ids() {
    let logits = halves();
    let all = prepared(&logits, &rule(1.0, 0, 1.0, 0.0));
    let picks = [0.0, 0.12, 0.13, 0.62, 0.63, 0.74, 0.76, 0.9999].map(|u| all.draw(&logits, u).id);
    assert_eq!(picks, [0, 0, 1, 1, 2, 2, 3, 3]);
    let two = prepared(&logits, &rule(1.0, 2, 1.0, 0.0));
    let picks = [0.0, 0.66, 0.67, 1.0 - 1e-16].map(|u| two.draw(&logits, u).id);
    assert_eq!(picks, [1, 1, 3, 3]);
}

#[test]
fn the_log_prob_is_of_the_unmodified_distribution() {
    let logits: Vec<f32> = halves().iter().map(|logit| logit + 3.0).collect();
    for rule in
        [rule(0.0, 0, 1.0, 0.0), rule(0.3, 0, 1.0, 0.0), rule(0.3, 1, 1.0, 0.0), rule(2.0, 0, 0.1, 0.0)]
    {
        let pick = prepared(&logits, &rule).draw(&logits, 0.5);
        assert_eq!(pick.id, 1, "{rule:?}");
        assert!((pick.logprob - 0.5f32.ln()).abs() < 1e-6, "{rule:?}: {}", pick.logprob);
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_sampling_knows_them_all() {
    let mut logits = vec![0.0f32; 200];
    for id in [70, 71, 190] {
        logits[id] = 2.0;
    }
    let greedy = prepared(&logits, &rule(0.0, 0, 0.5, 0.0)).draw(&logits, 0.99);
    assert_eq!(greedy.id, 70);
    assert_eq!(kept(&logits, &rule(0.01, 0, 0.6, 0.0)), [70, 71]);
    assert_eq!(kept(&logits, &rule(0.7, 2, 1.0, 0.0)), [70, 71]);
    // Negative and positive zero are equals.
    assert_eq!(kept(&[-0.0, 0.0], &rule(1.0, 1, 1.0, 0.0)), [0]);
}

#[test]
fn masked_tokens_are_never_drawn() {
    let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
    for rule in
        [rule(1.0, 0, 1.0, 0.0), rule(0.7, 0, 0.9, 0.0), rule(0.7, 4, 1.0, 0.0), rule(5.0, 0, 1.0, 0.1)]
    {
        let picker = prepared(&logits, &rule);
        let picks = [0.0, 0.3, 0.7, 1.0 - 1e-16].map(|u| picker.draw(&logits, u).id);
        assert_eq!(picks, [1, 1, 3, 3], "{rule:?}");
    }
}

#[test]
fn rows_that_are_not_finite_are_refused() {
    let mut picker = Picker::default();
    for row in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3], &[]] {
        for rule in [rule(0.0, 0, 1.0, 0.0), rule(1.0, 0, 0.9, 0.0)] {
            assert_eq!(picker.prepare(row, &rule), Err(NotFinite), "{row:?}");
        }
    }
}

#[test]
fn extreme_temperatures_do_not_break() {
    let logits = [1.0f32, 3.0, 2.0];
    assert_eq!(prepared(&logits, &rule(1e-300, 0, 0.9, 0.0)).draw(&logits, 0.9).id, 1);
    assert_eq!(prepared(&logits, &rule(1e-30, 0, 0.9, 0.0)).draw(&logits, 0.9).id, 1);
    assert_eq!(kept(&logits, &rule(1e30, 0, 0.99, 0.0)), [0, 1, 2]);
}

#[test]
fn frequencies_are_the_softmax_in_f64() {
    let logits: Vec<f32> = (0..300).map(|i| ((i * 37) % 101) as f32 * 0.05).collect();
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / 0.7).exp()).collect();
    let total: f64 = weights.iter().sum();
    let picker = prepared(&logits, &rule(0.7, 0, 1.0, 0.0));
    let n = 100_000;
    let mut counts = vec![0u32; 300];
    for i in 0..n {
        counts[picker.draw(&logits, (f64::from(i) + 0.5) / f64::from(n)).id as usize] += 1;
    }
    for (count, weight) in counts.iter().zip(&weights) {
        // Equal steps through [0, 1) miss each share by two steps at most.
        assert!((f64::from(*count) / f64::from(n) - weight / total).abs() <= 2.1e-5);
    }
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    // Coarse values make ties; the scales go from nearly flat to one token only.
    (1usize..1500, 0.001f32..8.0, any::<bool>()).prop_flat_map(|(n, scale, coarse)| {
        prop::collection::vec(-4.0f32..4.0, n).prop_map(move |row| {
            row.into_iter().map(|x| if coarse { (x * 3.0).round() } else { x } * scale).collect()
        })
    })
}

/// A row of 32,000 spread evenly over `spread` from 0 down, but with `shift` added in the blocks that the sample sees.
fn long_row(spread: f32, shift: f32) -> Vec<f32> {
    let seen = |place: usize| if (place / BLOCK).is_multiple_of(STRIDE) { shift } else { 0.0 };
    (0..32_000).map(|i| ((i * 7919) % 32_000) as f32 * (-spread / 32_000.0) + seen(i)).collect()
}

#[test]
fn a_sample_that_misleads_costs_time_only() {
    let rule = rule(0.7, 0, 0.9, 0.0);
    // The sample says truly, too high, too low.
    for (shift, expected) in [(0.0, Ordering::Equal), (2.0, Ordering::Less), (-2.0, Ordering::Greater)] {
        let logits = long_row(3.0, shift);
        let want = kept_by_sorting(&logits, &rule);
        let picker = prepared(&logits, &rule);
        let bracket = sampled_bracket(&logits, picker.max, picker.weights.unwrap(), -100.0, 0.9);
        let last = want.iter().map(|&id| logits[id as usize]).fold(f32::INFINITY, f32::min);
        let side = match last {
            _ if last > bracket.upper => Ordering::Greater,
            _ if last < bracket.lower => Ordering::Less,
            _ => Ordering::Equal,
        };
        assert_eq!(side, expected, "{shift}: {last} and {bracket:?}");
        assert_eq!(kept(&logits, &rule), want, "{shift}");
    }
}

#[test]
fn long_flat_rows_keep_the_sorted_definitions_set() {
    for (spread, top_p, min_p) in
        [(0.01, 0.9, 0.0), (0.0, 0.5, 0.0), (5.0, 0.99, 0.0), (5.0, 0.9, 0.3), (9.0, 0.999, 0.0)]
    {
        for temperature in [0.7, 1.0, 30.0] {
            // Rounding makes ties, as bf16 logits have them.
            let logits: Vec<f32> = long_row(spread, 0.0).iter().map(|x| (x * 64.0).round() / 64.0).collect();
            let rule = rule(temperature, 0, top_p, min_p);
            let picker = prepared(&logits, &rule);
            let want = kept_by_sorting(&logits, &rule);
            assert_eq!(kept(&logits, &rule), want, "{spread} {top_p} {min_p} {temperature}");
            // The draw's total is the kept tokens' mass, to the last bit.
            let mass = |&id: &u32| picker.weights.unwrap().mass(logits[id as usize] - picker.max);
            let (KeptTokens::Down { mass: got, .. } | KeptTokens::Choices { mass: got }) = picker.kept else {
                panic!()
            };
            assert_eq!(got, want.iter().map(mass).sum::<f64>());
            assert_eq!(picker.draw(&logits, 0.0).id, want[0]);
            assert_eq!(picker.draw(&logits, 1.0 - 1e-16).id, want[want.len() - 1]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kept_set_is_the_sorted_definitions(
        logits in any_logits(),
        temperature in prop_oneof![Just(1.0), 0.05f64..3.0],
        top_k in prop_oneof![Just(0usize), 1usize..1600],
        top_p in prop_oneof![Just(1.0), 0.001f64..1.0],
        min_p in prop_oneof![Just(0.0), 0.0001f64..1.0],
        uniform in 0.0f64..1.0,
    ) {
        let rule = rule(temperature, top_k, top_p, min_p);
        let want = kept_by_sorting(&logits, &rule);
        prop_assert_eq!(&kept(&logits, &rule), &want);
        let pick = prepared(&logits, &rule).draw(&logits, uniform);
        prop_assert!(want.contains(&pick.id));
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let want = f64::from(logits[pick.id as usize]) - sum.ln();
        prop_assert!((f64::from(pick.logprob) - want).abs() < 1e-5);
    }
}
