use super::*;

fn question(category: &str) -> MtBenchQuestion {
    MtBenchQuestion { id: 7, category: category.into(), turns: vec!["Q1?".into(), "Q2?".into()] }
}

fn answer(model: &str) -> ModelAnswer {
    ModelAnswer {
        question_id: 7,
        model: model.into(),
        turns: vec![format!("{model} one"), format!("{model} two")],
    }
}

#[test]
fn ratings_are_read_from_brackets() {
    assert_eq!(rating("Good. Rating: [[8]]"), Some(8.0));
    assert_eq!(rating("[3] first, then [[7.5]]"), Some(7.5), "double brackets go first");
    assert_eq!(rating("Rating: [6]"), Some(6.0));
    assert_eq!(rating("Rating: 6"), None);
    assert_eq!(pair_winner("[[B]] and never [[A]]"), PairWinner::A, "in FastChat's order");
    assert_eq!(pair_winner("[[C]]"), PairWinner::Tie);
    assert_eq!(pair_winner("A"), PairWinner::Missing);
}

#[test]
fn our_own_wordings_fill_every_place() {
    let prompts = JudgePrompts::own();
    let reference = answer("ref");
    for category in ["writing", "math"] {
        for is_second in [false, true] {
            let question = question(category);
            let turn = JudgedTurn { question: &question, reference: Some(&reference), is_second };
            let single = prompts.of(false, &turn).unwrap().single(&turn, &answer("m")).unwrap();
            let pair = prompts.of(true, &turn).unwrap().pair(&turn, &answer("m"), &answer("b")).unwrap();
            for text in [&single, &pair] {
                assert!(text.contains("Q1?") && text.contains("m one"), "{text}");
                assert_eq!(text.contains("m two") && text.contains("Q2?"), is_second, "{text}");
                assert_eq!(text.contains("ref one"), category == "math", "{text}");
            }
            assert!(pair.contains("b one"));
        }
    }
}

#[test]
fn a_place_without_a_value_is_named() {
    let prompt = JudgePrompt {
        name: "x".into(),
        system: String::new(),
        template: "{{{question}}} {ref_answer_1}".into(),
    };
    let question = question("writing");
    let mut turn = JudgedTurn { question: &question, reference: None, is_second: false };
    assert_eq!(prompt.single(&turn, &answer("m")).unwrap_err(), "the place {ref_answer_1} has no value");
    let reference = answer("r");
    turn.reference = Some(&reference);
    assert_eq!(prompt.single(&turn, &answer("m")).unwrap(), "{Q1?} r one");
}

#[test]
fn figures_leave_out_what_was_not_rated() {
    let one = |turn, score, category: &str| SingleJudgment {
        question_id: 1,
        category: category.into(),
        turn,
        score,
    };
    let (all, categories) = single_figures(&[
        one(1, Some(8.0), "math"),
        one(2, Some(4.0), "math"),
        one(1, None, "math"),
        one(1, Some(6.0), "stem"),
    ]);
    let named: Vec<(&str, f64)> = all.iter().map(|(name, average)| (name.as_str(), average.value)).collect();
    assert_eq!(named, [("average", 6.0), ("turn_1", 7.0), ("turn_2", 4.0)]);
    assert_eq!((categories[0].0.as_str(), categories[0].1.value, categories[1].1.value), ("math", 6.0, 6.0));
}

#[test]
fn a_win_takes_both_orders() {
    let one = |model_first, model_second| PairJudgment {
        question_id: 1,
        category: "math".into(),
        turn: 1,
        model_first,
        model_second,
    };
    use PairWinner::{A, B, Missing, Tie};
    let outcomes =
        [(A, B, Some(1.0)), (B, A, Some(0.0)), (A, A, Some(0.5)), (Tie, B, Some(0.5)), (A, Missing, None)];
    for (first, second, wanted) in outcomes {
        assert_eq!(one(first, second).outcome(), wanted);
    }
    let (all, _) = pair_figures(&[one(A, B), one(A, B), one(A, A), one(Missing, B)]);
    assert!((all[0].1.value - 2.5 / 3.0).abs() < 1e-12);
}
