use std::sync::Mutex;

use selfplay_records::{Prompt, Response};

use super::*;
use crate::{Compared, Contest};

/// Says what its script says of a conversation, and notes what it was asked.
struct Scripted {
    says: fn(&[Message]) -> &'static str,
    asked: Mutex<Vec<Vec<Message>>>,
}

impl ChatWriter for &'static Scripted {
    fn write(
        &self,
        conversations: &[Vec<Message>],
        _: usize,
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<String>, ScoreError> {
        let mut answers = Vec::new();
        for turns in conversations {
            if progress(answers.len()).is_break() {
                break;
            }
            self.asked.lock().unwrap().push(turns.clone());
            answers.push((self.says)(turns).to_owned());
        }
        Ok(answers)
    }

    fn footprint(&self) -> Footprint {
        Footprint::elsewhere()
    }
}

fn judge(says: fn(&[Message]) -> &'static str) -> (Judge, &'static Scripted) {
    let script: &'static Scripted = Box::leak(Box::new(Scripted { says, asked: Mutex::default() }));
    let source = VerdictSource::Writer { writer: Box::new(script), most_tokens: 8 };
    (Judge { rubric: Rubric::load(None, VerdictForm::Text).unwrap(), source, factor: 1.0 }, script)
}

fn row(id: &str, texts: &[&str]) -> Candidates {
    let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
    Candidates {
        prompt: Prompt { prompt_id: id.to_owned(), prompt: Some("Say it.".into()), ..Prompt::default() },
        responses: texts.iter().map(response).collect(),
    }
}

fn place(turns: &[Message], text: &str) -> usize {
    turns[0].content.find(text).unwrap()
}

#[test]
fn both_orders_are_asked_and_equal_texts_are_not() {
    // Prefers "good" wherever it stands, and the first where neither is there.
    let (judge, script) = judge(|turns| {
        let text = &turns[0].content;
        match text.find("good") {
            Some(at) if at > text.find("<answer_b>").unwrap() => "So: [[B]]",
            _ => "So: [[A]]",
        }
    });
    let table = &judge.compare_all(&[row("p", &["good", "bad", "worse", "bad"])]).unwrap()[0];
    assert!(table.probabilities[0][1] > 0.999_99 && table.probabilities[2][0] < 0.000_01);
    // The first in both orders: no preference. The same texts: none either.
    assert_eq!((table.scores[1][2], table.scores[1][3]), (0.0, 0.0));
    // Twelve ordered pairs less the two of "bad" and "bad".
    assert_eq!(script.asked.lock().unwrap().len(), 10);
}

#[test]
fn an_answer_without_a_verdict_is_asked_about_once_more() {
    let (judge, script) = judge(|turns| match (turns.len(), place(turns, "zebra") < place(turns, "yacht")) {
        (1, _) => "Hard to say.",
        (3, true) => "[[A]]",
        _ => "I cannot.",
    });
    let outcomes = judge
        .outcomes(&[Contest { prompt: row("p", &[]).prompt, first: "zebra".into(), second: "yacht".into() }])
        .unwrap();
    // A for the zebra first; no verdict at all the other way round: ½.
    assert_eq!(outcomes[0].shown, Some([1.0, 0.5]));
    assert!((outcomes[0].score - logit(0.75)).abs() < 1e-12);
    let asked = script.asked.lock().unwrap();
    assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 3, 3]);
    assert_eq!((asked[2][1].content.as_str(), asked[2][2].content.as_str()), ("Hard to say.", AGAIN_BY_TEXT));
}

#[test]
fn a_stop_keeps_the_rows_that_are_complete() {
    let (judge, script) = judge(|_| "[[A]]");
    let rows = [row("1", &["a", "b"]), row("2", &["c", "d"]), row("3", &["e", "f"])];
    let mut calls = 0;
    let compared = judge
        .compare(&rows, &mut |_| {
            calls += 1;
            if calls > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    let Compared::Stopped(front) = compared else { panic!("not stopped") };
    assert_eq!(front.len(), 1, "two of three answers are row 1's");
    assert_eq!(script.asked.lock().unwrap().len(), 3);
}
