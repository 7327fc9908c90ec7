use std::path::Path;
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
        take: &mut AnswerTaker<'_>,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), ScoreError> {
        for (place, turns) in conversations.iter().enumerate() {
            if go_on().is_break() {
                break;
            }
            self.asked.lock().unwrap().push(turns.clone());
            take(place, (self.says)(turns).to_owned())?;
        }
        Ok(())
    }

    fn footprint(&self) -> Footprint {
        Footprint::elsewhere()
    }
}

fn judge(says: fn(&[Message]) -> &'static str) -> (Judge, &'static Scripted) {
    let script: &'static Scripted = Box::leak(Box::new(Scripted { says, asked: Mutex::default() }));
    judge_of(script, None)
}

fn judge_of(script: &'static Scripted, kept: Option<&Path>) -> (Judge, &'static Scripted) {
    let writer = KeptWriter::new(Box::new(script), kept);
    let source = VerdictSource::Writer { writer, most_tokens: 8 };
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

#[test]
fn what_was_written_before_a_stop_is_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    // The second order of each pair gives no verdict before it is asked again.
    let says: fn(&[Message]) -> &'static str =
        |turns| match (turns.len(), place(turns, "zebra") < place(turns, "yacht")) {
            (1, false) => "Hard to say.",
            (_, true) => "[[A]]",
            _ => "[[B]]",
        };
    let rows =
        [row("1", &["zebra", "yacht"]), row("2", &["a zebra", "a yacht"]), row("3", &["zebras", "yachts"])];
    let (plain, _) = judge(says);
    let wanted = plain.compare_all(&rows).unwrap();
    let script: &'static Scripted = Box::leak(Box::new(Scripted { says, asked: Mutex::default() }));
    let mut questions = 0;
    // Stopped after each answer in turn, by a judge that is loaded anew: a new process.
    for answered in 1..=6 {
        let (judge, _) = judge_of(script, Some(&path));
        let mut stop = |_: usize| {
            if script.asked.lock().unwrap().len() > questions {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let compared = judge.compare(&rows, &mut stop).unwrap();
        questions = script.asked.lock().unwrap().len();
        assert_eq!(questions, answered.min(6) + if answered == 6 { 3 } else { 0 });
        assert_eq!(matches!(compared, Compared::All(_)), answered == 6);
    }
    let (judge, _) = judge_of(script, Some(&path));
    assert_eq!(judge.compare_all(&rows).unwrap(), wanted);
    let asked = script.asked.lock().unwrap();
    assert_eq!(asked.len(), 9, "six questions and three asked again, each once");
}
