//! Single responses out of tables made by hand.

use selfplay_records::{Completion, ExampleKind};

use super::{candidates, of_rewards, preference};
use crate::{PairSettings, SelectedCompletions, select_completions};

fn one(kind: ExampleKind, rewards: &[f64], settings: &PairSettings) -> SelectedCompletions {
    let lengths: Vec<usize> = (1..=rewards.len()).collect();
    select_completions(&[candidates("p", &lengths)], &[of_rewards("p", rewards)], settings, kind).unwrap()
}

/// The numbers of the responses.
fn numbers(rows: &[Completion]) -> Vec<usize> {
    rows.iter().map(|row| row.completion.as_ref().unwrap()[0].content[1..].parse().unwrap()).collect()
}

#[test]
fn labels_follow_the_mean_score() {
    // Means −2, 0, 3, −1.
    let rewards = [1.0, 3.0, 6.0, 2.0];
    let plain = PairSettings::default();
    let labelled = |settings: &PairSettings| -> Vec<(usize, bool)> {
        let rows = one(ExampleKind::Unpaired, &rewards, settings).rows;
        numbers(&rows).into_iter().zip(rows.iter().map(|row| row.label.unwrap())).collect()
    };
    // The second response is as good as the mean: neither.
    assert_eq!(labelled(&plain), [(0, false), (2, true), (3, false)]);
    assert_eq!(labelled(&PairSettings { margin: 1.5, ..plain.clone() }), [(0, false), (2, true)]);
    assert_eq!(labelled(&PairSettings { min_tokens: Some(2), ..plain.clone() }), [(2, true), (3, false)]);
    let rows = one(ExampleKind::Unpaired, &rewards, &plain).rows;
    assert_eq!((rows[1].score, rows[1].completion_ids.as_deref()), (Some(3.0), Some(&[102, 102, 102][..])));
    assert_eq!((rows[1].prompt_id.as_deref(), rows[1].prompt_ids.as_deref()), (Some("p"), Some(&[1, 2][..])));
}

#[test]
fn the_best_response_is_the_only_one() {
    let plain = PairSettings::default();
    let best = one(ExampleKind::Best, &[1.0, 4.0, 2.5], &plain);
    assert_eq!((numbers(&best.rows), best.rows[0].label), (vec![1], None));
    assert_eq!(one(ExampleKind::Best, &[1.0, 1.0, 1.0], &plain).dropped.tie, 1);
    let wide = PairSettings { margin: 3.0, ..plain.clone() };
    assert_eq!(one(ExampleKind::Best, &[1.0, 4.0], &wide).dropped.margin, 1);
    assert_eq!(one(ExampleKind::Best, &[1.0], &plain).dropped.single, 1);
    let long = PairSettings { min_tokens: Some(3), ..plain };
    assert_eq!(one(ExampleKind::Best, &[1.0, 4.0, 2.5], &long).dropped.length, 1);
}

#[test]
fn a_group_has_all_of_its_responses() {
    let mut row = candidates("p", &[2, 1, 3]);
    row.responses.iter_mut().enumerate().for_each(|(i, one)| one.logprobs = Some(vec![-0.5; [2, 1, 3][i]]));
    // Means 1, −1, 0: deviation √(2/3).
    let mut table = of_rewards("p", &[3.0, 1.0, 2.0]);
    table.axis_advantages = Some(vec![vec![0.5, 0.25], vec![-0.5, 0.0], vec![0.0, -0.25]]);
    table.axis_rewards = Some(vec![vec![0.1, 0.2]; 3]);
    let got = select_completions(&[row], &[table], &PairSettings::default(), ExampleKind::Groups).unwrap();
    assert_eq!(numbers(&got.rows), [0, 1, 2]);
    let unit = 1.0 / ((2.0f64 / 3.0).sqrt() + 1e-6);
    for (row, want) in got.rows.iter().zip([unit, -unit, 0.0]) {
        assert!((row.advantage.unwrap() - want).abs() < 1e-12);
    }
    assert_eq!(got.rows[1].axis_advantages.as_deref(), Some(&[-0.5, 0.0][..]));
    assert_eq!(got.rows[2].logprobs.as_deref(), Some(&[-0.5; 3][..]));
    assert_eq!(one(ExampleKind::Groups, &[2.0, 2.0], &PairSettings::default()).dropped.tie, 1);
}

#[test]
fn rows_that_do_not_belong_together_are_refused() {
    let other = preference("q", &[&[0.0]]);
    let error =
        select_completions(&[candidates("p", &[1])], &[other], &PairSettings::default(), ExampleKind::Best);
    assert!(error.unwrap_err().to_string().contains("\"p\""));
}
