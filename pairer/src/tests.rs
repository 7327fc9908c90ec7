//! Pair rules against tables made by hand.

mod completions;

use proptest::prelude::*;
use selfplay_records::{Candidates, ExampleKind, HasKind, Kind, Message, Pair, Preference, Prompt, Response};

use crate::{DropCounts, PairRule, PairSettings, Selected, select, select_completions};

/// K responses "r0", "r1", … of the given token counts.
fn candidates(prompt_id: &str, lengths: &[usize]) -> Candidates {
    let response = |(k, &n): (usize, &usize)| Response {
        text: format!("r{k}"),
        ids: Some(vec![100 + k as u32; n]),
        ..Response::default()
    };
    Candidates {
        prompt: Prompt {
            prompt_id: prompt_id.into(),
            prompt: Some("question".into()),
            prompt_ids: Some(vec![1, 2]),
            ..Prompt::default()
        },
        responses: lengths.iter().enumerate().map(response).collect(),
    }
}

fn preference(prompt_id: &str, scores: &[&[f64]]) -> Preference {
    let scores: Vec<Vec<f64>> = scores.iter().map(|row| row.to_vec()).collect();
    let sigmoid = |s: &f64| 1.0 / (1.0 + (-s).exp());
    let probabilities: Vec<Vec<f64>> = scores.iter().map(|row| row.iter().map(sigmoid).collect()).collect();
    let means =
        |table: &[Vec<f64>]| table.iter().map(|r| r.iter().sum::<f64>() / r.len().max(1) as f64).collect();
    Preference {
        prompt_id: prompt_id.into(),
        mean_scores: means(&scores),
        mean_probabilities: means(&probabilities),
        scores,
        probabilities,
        candidates_digest: None,
        ..Preference::default()
    }
}

/// Bradley-Terry scores of rewards: mean score of i = r_i − mean r.
fn of_rewards(prompt_id: &str, rewards: &[f64]) -> Preference {
    let rows: Vec<Vec<f64>> = rewards.iter().map(|a| rewards.iter().map(|b| a - b).collect()).collect();
    preference(prompt_id, &rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn rule(rule: PairRule) -> PairSettings {
    PairSettings { rule, ..PairSettings::default() }
}

fn one(lengths: &[usize], preference: Preference, settings: &PairSettings) -> Selected {
    select(&[candidates("p", lengths)], &[preference], settings, 42, 1).unwrap()
}

/// (chosen, rejected) as response numbers, from the texts.
fn numbers(pair: &Pair) -> [usize; 2] {
    let of = |turns: &Option<Vec<Message>>| {
        turns.as_ref().and_then(|t| t.last()).map(|m| m.content[1..].parse().unwrap()).unwrap()
    };
    [of(&pair.chosen), of(&pair.rejected)]
}

#[test]
fn best_worst_by_hand_with_every_column() {
    // Means: 0: (2 − 1)/3 = 1/3, 1: (−2 + 4)/3 = 2/3, 2: (1 − 4)/3 = −1.
    let table: [&[f64]; 3] = [&[0.0, 2.0, -1.0], &[-2.0, 0.0, 4.0], &[1.0, -4.0, 0.0]];
    let selected = one(&[3, 4, 5], preference("p", &table), &PairSettings::default());
    assert_eq!(selected.dropped, DropCounts::default());
    let [pair] = selected.pairs.as_slice() else { panic!("one pair") };
    let user = Message::user("question");
    assert_eq!(pair.prompt, Some(vec![user.clone()]));
    assert_eq!(pair.chosen, Some(vec![user.clone(), Message::assistant("r1")]));
    assert_eq!(pair.rejected, Some(vec![user, Message::assistant("r2")]));
    assert_eq!(pair.prompt_id.as_deref(), Some("p"));
    assert_eq!(pair.prompt_ids, Some(vec![1, 2]));
    assert_eq!(pair.chosen_ids, Some(vec![101; 4]));
    assert_eq!(pair.rejected_ids, Some(vec![102; 5]));
    assert_eq!(pair.chosen_score, Some(4.0));
    let near = |x: Option<f64>, want: f64| assert!((x.unwrap() - want).abs() < 1e-12, "{x:?} {want}");
    near(pair.chosen_score_win, 2.0 / 3.0);
    near(pair.chosen_score_lose, -1.0);
    // σ(4); (σ(−2) + ½ + σ(4))/3; (σ(1) + σ(−4) + ½)/3.
    near(pair.chosen_probs, 0.982_013_790_037_908_4);
    near(pair.chosen_probs_win, (0.119_202_922_022_117_6 + 0.5 + 0.982_013_790_037_908_4) / 3.0);
    near(pair.chosen_probs_lose, (0.731_058_578_630_004_9 + 0.017_986_209_962_091_56 + 0.5) / 3.0);
    assert_eq!(pair.ref_chosen_logps, None);
}

#[test]
fn ties_take_the_lowest_index_and_a_spread_below_1e_6_gives_none() {
    let settings = PairSettings::default();
    let tied = one(&[1; 5], of_rewards("p", &[0.0, 1.0, -1.0, 1.0, -1.0]), &settings);
    assert_eq!(numbers(&tied.pairs[0]), [1, 2]);
    let flat = one(&[1; 3], of_rewards("p", &[0.0, 9e-7, 0.0]), &settings);
    assert_eq!((flat.pairs.len(), flat.dropped.tie), (0, 1));
    let just = one(&[1; 2], of_rewards("p", &[0.0, 2e-6]), &settings);
    assert_eq!(numbers(&just.pairs[0]), [1, 0]);
}

#[test]
fn a_perfect_cycle_has_no_best_but_pairs_above_the_margin() {
    let cycle: [&[f64]; 3] = [&[0.0, 1.0, -1.0], &[-1.0, 0.0, 1.0], &[1.0, -1.0, 0.0]];
    assert_eq!(one(&[1; 3], preference("p", &cycle), &PairSettings::default()).dropped.tie, 1);
    let all = one(&[1; 3], preference("p", &cycle), &rule(PairRule::AllAboveMargin));
    assert_eq!(all.pairs.iter().map(numbers).collect::<Vec<_>>(), [[0, 1], [1, 2], [2, 0]]);
}

#[test]
fn one_response_or_none_gives_no_pair() {
    for k in [0, 1] {
        let selected = one(&vec![1; k], of_rewards("p", &vec![0.0; k]), &PairSettings::default());
        assert_eq!((selected.pairs.len(), selected.dropped.single, selected.dropped.total()), (0, 1, 1));
    }
}

#[test]
fn all_above_margin_is_strict() {
    let settings = PairSettings { margin: 1.0, ..rule(PairRule::AllAboveMargin) };
    // Differences: 0−1 = 1 (not above), 0−2 = 3, 1−2 = 2.
    let selected = one(&[1; 3], of_rewards("p", &[3.0, 2.0, 0.0]), &settings);
    assert_eq!(selected.pairs.iter().map(numbers).collect::<Vec<_>>(), [[0, 2], [1, 2]]);
    assert_eq!(selected.pairs[1].chosen_score, Some(2.0));
    let none = one(&[1; 2], of_rewards("p", &[1.0, 0.0]), &settings);
    assert_eq!((none.pairs.len(), none.dropped.margin), (0, 1));
}

#[test]
fn the_whole_table_has_every_two_once_and_ties_too() {
    let all = one(&[1; 3], of_rewards("p", &[1.0, 1.0, 2.0]), &rule(PairRule::All));
    assert_eq!(all.pairs.iter().map(numbers).collect::<Vec<_>>(), [[0, 1], [2, 0], [2, 1]]);
    assert_eq!(one(&[1; 2], of_rewards("p", &[0.0, 0.0]), &rule(PairRule::All)).pairs.len(), 1);
    let keys = |settings: PairSettings| settings.validate().keys().join(" ");
    assert_eq!(keys(PairSettings { margin: 1.0, ..rule(PairRule::All) }), "margin");
    assert_eq!(keys(PairSettings { opponents: Some(0), ..PairSettings::default() }), "opponents");
}

#[test]
fn margin_of_the_other_rules_is_on_the_means() {
    let settings = PairSettings { margin: 2.0, ..PairSettings::default() };
    assert_eq!(one(&[1; 2], of_rewards("p", &[2.0, 0.0]), &settings).dropped.margin, 1);
    assert_eq!(one(&[1; 2], of_rewards("p", &[2.5, 0.0]), &settings).pairs.len(), 1);
}

#[test]
fn length_filters_take_candidates_out_of_the_choice_only() {
    let rewards = [5.0, 1.0, 0.0, -5.0];
    let settings = PairSettings { min_tokens: Some(3), max_tokens: Some(8), ..PairSettings::default() };
    let selected = one(&[9, 8, 3, 2], of_rewards("p", &rewards), &settings);
    assert_eq!(numbers(&selected.pairs[0]), [1, 2]);
    // The means are still over all four: 1 − 0.25.
    assert_eq!(selected.pairs[0].chosen_score_win, Some(0.75));
    let dropped = one(&[9, 8, 2, 2], of_rewards("p", &rewards), &settings).dropped;
    assert_eq!(dropped, DropCounts { length: 1, ..DropCounts::default() });
}

#[test]
fn best_random_keeps_the_best_and_draws_the_other() {
    let settings = rule(PairRule::BestRandom);
    let many: Vec<Candidates> = (0..3000).map(|i| candidates(&format!("q{i}"), &[1; 4])).collect();
    let scores: Vec<Preference> =
        (0..3000).map(|i| of_rewards(&format!("q{i}"), &[0.0, 1.0, 3.0, 2.0])).collect();
    let first = select(&many, &scores, &settings, 42, 1).unwrap().pairs;
    assert!(first.iter().all(|pair| numbers(pair)[0] == 2));
    for loser in [0, 1, 3] {
        let n = first.iter().filter(|pair| numbers(pair)[1] == loser).count();
        assert!(n.abs_diff(1000) < 130, "{loser}: {n}");
    }
    let different = |seed, iteration| {
        let other = select(&many, &scores, &settings, seed, iteration).unwrap().pairs;
        first.iter().zip(&other).filter(|(a, b)| a != b).count()
    };
    assert_eq!(different(42, 1), 0);
    // Two independent draws of three differ in two thirds.
    assert!(different(43, 1).abs_diff(2000) < 130);
    assert!(different(42, 2).abs_diff(2000) < 130);
}

#[test]
fn a_draw_does_not_depend_on_the_other_prompts() {
    let settings = rule(PairRule::BestRandom);
    let rows: Vec<Candidates> = (0..20).map(|i| candidates(&i.to_string(), &[1; 5])).collect();
    let scores: Vec<Preference> =
        (0..20).map(|i| of_rewards(&i.to_string(), &[0.0, 1.0, 3.0, 2.0, -1.0])).collect();
    let whole = select(&rows, &scores, &settings, 7, 1).unwrap().pairs;
    let part = select(&rows[12..], &scores, &settings, 7, 1).unwrap().pairs;
    assert_eq!(whole[12..], part);
}

#[test]
fn the_control_has_the_numbers_of_best_worst_on_random_responses() {
    let rows: Vec<Candidates> = (0..3000).map(|i| candidates(&format!("q{i}"), &[1; 3])).collect();
    let scores: Vec<Preference> = (0..3000).map(|i| of_rewards(&format!("q{i}"), &[0.0, 1.0, 3.0])).collect();
    let control = select(&rows, &scores, &rule(PairRule::Random), 42, 1).unwrap().pairs;
    let truth = select(&rows, &scores, &PairSettings::default(), 42, 1).unwrap().pairs;
    for (a, b) in control.iter().zip(&truth) {
        assert_eq!((a.chosen_score, a.chosen_probs_win), (b.chosen_score, b.chosen_probs_win));
        assert_ne!(numbers(a)[0], numbers(a)[1]);
    }
    for pair in [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]] {
        let n = control.iter().filter(|p| numbers(p) == pair).count();
        assert!(n.abs_diff(500) < 102, "{pair:?}: {n}");
    }
}

#[test]
fn messages_are_kept_and_ids_alone_give_ids_alone() {
    let mut row = candidates("p", &[1, 1]);
    let turns = vec![Message::new("system", "s"), Message::user("u")];
    row.prompt.messages = Some(turns.clone());
    let scores = [of_rewards("p", &[0.0, 1.0])];
    let pairs = select(&[row.clone()], &scores, &PairSettings::default(), 1, 1).unwrap().pairs;
    assert_eq!(pairs[0].prompt, Some(turns.clone()));
    assert_eq!(pairs[0].chosen, Some([turns, vec![Message::assistant("r1")]].concat()));
    row.prompt = Prompt { prompt_id: "p".into(), prompt_ids: Some(vec![4]), ..Prompt::default() };
    let pairs = select(&[row.clone()], &scores, &PairSettings::default(), 1, 1).unwrap().pairs;
    assert_eq!((&pairs[0].prompt, &pairs[0].chosen), (&None, &None));
    assert_eq!(
        (pairs[0].prompt_ids.as_deref(), pairs[0].chosen_ids.as_deref()),
        (Some(&[4][..]), Some(&[101][..]))
    );
    row.prompt.prompt_ids = None;
    let error = select(&[row], &scores, &PairSettings::default(), 1, 1).unwrap_err();
    assert!(error.to_string().contains("no `prompt`, `messages` or `prompt_ids`"), "{error}");
}

#[test]
fn rows_join_by_prompt_id_in_any_order() {
    let rows = [candidates("a", &[1, 1]), candidates("b", &[1, 1])];
    let scores = [of_rewards("b", &[0.0, 1.0]), of_rewards("x", &[0.0]), of_rewards("a", &[1.0, 0.0])];
    let pairs = select(&rows, &scores, &PairSettings::default(), 1, 1).unwrap().pairs;
    assert_eq!(pairs.iter().map(numbers).collect::<Vec<_>>(), [[0, 1], [1, 0]]);
}

#[test]
fn rows_that_do_not_belong_together_are_named() {
    let rows = [candidates("a", &[1, 1]), candidates("b", &[1, 1])];
    let a = of_rewards("a", &[0.0, 1.0]);
    let b = of_rewards("b", &[0.0, 1.0]);
    let settings = PairSettings::default();
    let message = |rows: &[Candidates], scores: &[Preference], settings: &PairSettings| {
        let error = select(rows, scores, settings, 1, 1).unwrap_err();
        assert!(error.kind() == Kind::Input);
        error.to_string()
    };
    let has = |text: String, parts: &[&str]| assert!(parts.iter().all(|p| text.contains(p)), "{text}");
    has(message(&rows, std::slice::from_ref(&a), &settings), &["row 1", "\"b\""]);
    has(message(&rows, &[a.clone(), a.clone()], &settings), &["preferences row 1", "\"a\"", "twice"]);
    has(
        message(&[rows[0].clone(), rows[0].clone()], std::slice::from_ref(&a), &settings),
        &["candidates row 1", "twice"],
    );
    has(
        message(&rows, &[a.clone(), of_rewards("b", &[0.0; 3])], &settings),
        &["\"b\"", "scores", "2 responses"],
    );
    let mut nan = b.clone();
    nan.mean_scores[1] = f64::NAN;
    has(message(&rows, &[a.clone(), nan], &settings), &["\"b\"", "response 1", "mean_scores"]);
    let mut bare = rows.clone();
    bare[1].responses[0].ids = None;
    let filter = PairSettings { min_tokens: Some(1), ..PairSettings::default() };
    has(message(&bare, &[a.clone(), b.clone()], &filter), &["\"b\"", "response 0", "min_tokens"]);
    assert_eq!(select(&bare, &[a, b], &settings, 1, 1).unwrap().pairs.len(), 2, "no filter needs no ids");
}

#[test]
fn wrong_settings_are_named_all_at_once() {
    let settings =
        PairSettings { margin: -1.0, min_tokens: Some(5), max_tokens: Some(0), ..PairSettings::default() };
    assert_eq!(settings.validate().keys(), ["margin", "max_tokens", "min_tokens"]);
    assert!(PairSettings { margin: f64::NAN, ..PairSettings::default() }.validate().list.len() == 1);
    assert!(select(&[], &[], &settings, 1, 1).is_err());
}

proptest! {
    #[test]
    fn chosen_scores_at_least_as_high_as_rejected(rewards in proptest::collection::vec(-3i32..4, 2..7)) {
        let rewards: Vec<f64> = rewards.into_iter().map(f64::from).collect();
        for kind in [PairRule::BestWorst, PairRule::BestRandom, PairRule::AllAboveMargin] {
            let selected = one(&vec![1; rewards.len()], of_rewards("p", &rewards), &rule(kind));
            prop_assert_eq!(selected.pairs.is_empty(), selected.dropped.total() == 1);
            for pair in &selected.pairs {
                let [w, l] = numbers(pair);
                prop_assert!(rewards[w] > rewards[l]);
                prop_assert_eq!(pair.chosen_score, Some(rewards[w] - rewards[l]));
            }
        }
    }
}

#[test]
fn preferences_of_other_responses_are_refused_and_old_files_are_read() {
    let rows = [candidates("p", &[1, 1])];
    let mut compared = of_rewards("p", &[1.0, 0.0]);
    let settings = PairSettings::default();
    compared.candidates_digest = Some(rows[0].digest());
    assert_eq!(select(&rows, &[compared.clone()], &settings, 42, 1).unwrap().pairs.len(), 1);
    let mut other = rows[0].clone();
    other.responses[1].text.push('!');
    let error = select(&[other.clone()], &[compared.clone()], &settings, 42, 1).unwrap_err();
    assert!(
        error.to_string().contains("other responses") && error.to_string().contains("selfplay score"),
        "{error}"
    );
    compared.candidates_digest = None;
    assert_eq!(select(&[other], &[compared], &settings, 42, 1).unwrap().pairs.len(), 1);
}

/// What could not be stored as an example is the input's fault, told before anything is made of it, and only of what is picked.
#[test]
fn responses_without_ids_or_text_to_learn_from_are_refused() {
    let settings = PairSettings::default();
    let refused = |change: &dyn Fn(&mut Candidates), words: &[&str]| {
        let mut row = candidates("p", &[1, 1, 1]);
        change(&mut row);
        let (rows, compared) = ([row], [of_rewards("p", &[1.0, 0.5, 0.0])]);
        let pairs = select(&rows, &compared, &settings, 42, 1).map(|selected| selected.pairs.len());
        let best =
            select_completions(&rows, &compared, &settings, ExampleKind::Best).map(|best| best.rows.len());
        for (of, count) in [pairs, best].into_iter().zip([1, 1]) {
            match of {
                Ok(found) => assert!(words.is_empty() && found == count),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Input);
                    let text = error.to_string();
                    assert!(!words.is_empty() && words.iter().all(|word| text.contains(word)), "{text}");
                }
            }
        }
    };
    refused(
        &|row| row.responses[0].ids = Some(Vec::new()),
        &["\"p\"", "response 0", "no token", "leave them out"],
    );
    refused(&|row| row.responses[0].ids = None, &[]);
    let only_ids = |row: &mut Candidates| row.prompt.prompt = None;
    refused(&only_ids, &[]);
    let without = |row: &mut Candidates| {
        only_ids(row);
        row.responses[0].ids = None;
    };
    refused(&without, &["response 0", "no `ids`", "the prompt as text"]);
    // It is in the middle, and nobody picks it.
    refused(&|row| row.responses[1].ids = Some(Vec::new()), &[]);
}
