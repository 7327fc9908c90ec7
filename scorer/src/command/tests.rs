//! Programs that are right, slow, silent, wrong, or die half-way: small shell scripts.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use selfplay_records::{HasKind, Kind, Prompt, Response};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::prompt_check::any_text;
use crate::{Compared, Contest};

/// Reads `id`, the prompt_id of the row that was read into `row`.
const ID: &str = r#"id=${row#*\"prompt_id\":\"}; id=${id%%\"*}"#;

/// A shell script that does `each` for every row that it reads; `$id` is the row's prompt_id, `$dir` a folder for its notes.
struct Script {
    folder: TempDir,
    settings: CommandSettings,
}

impl Script {
    fn whole(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("dir='{}'\n{text}", folder.path().display());
        let words = ["sh", "-c", &text].map(str::to_owned);
        Self { folder, settings: CommandSettings { timeout_s: 20.0, ..CommandSettings::of(&words) } }
    }

    fn each(each: &str) -> Self {
        Self::whole(&format!("while IFS= read -r row; do\n{ID}\n{each}\ndone"))
    }

    /// Answers that response 0 is better by the row's prompt_id.
    fn honest() -> Self {
        Self::each(
            "echo $id >> $dir/asked; echo \"{\\\"scores\\\": [$id, 0], \\\"prompt_id\\\": \\\"$id\\\"}\"",
        )
    }

    fn model(&self) -> Box<dyn PreferenceModel> {
        self.model_that_keeps(None)
    }

    fn model_that_keeps(&self, path: Option<&Path>) -> Box<dyn PreferenceModel> {
        load(&self.settings, 1.0, KeptAnswers::at(path)).unwrap()
    }

    fn failure(&self, rows: &[Candidates]) -> String {
        let error = self.model().compare_all(rows).unwrap_err();
        assert!(error.kind() == Kind::Machine, "{error}");
        error.to_string()
    }

    /// The lines of one of its notes.
    fn notes(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn rows(count: usize) -> Vec<Candidates> {
    (0..count).map(|number| row(&number.to_string())).collect()
}

fn row(prompt_id: &str) -> Candidates {
    let response = |text: &str| Response { text: text.to_owned(), ..Response::default() };
    Candidates {
        prompt: Prompt { prompt_id: prompt_id.to_owned(), prompt: Some("x".to_owned()), ..Prompt::default() },
        responses: vec![response("a\nb"), response("\"c\"")],
    }
}

fn is_alive(pid: &str) -> bool {
    // A process that was killed and waits for its parent is none.
    let status = fs::read_to_string(Path::new("/proc").join(pid).join("status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[track_caller]
fn ends(pids: &[String]) {
    assert!(!pids.is_empty(), "nothing was started");
    let until = Instant::now() + Duration::from_secs(5);
    while pids.iter().any(|pid| is_alive(pid)) {
        assert!(Instant::now() < until, "{pids:?} outlive us");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn answers_come_in_the_rows_order_whoever_gave_them() {
    for concurrency in [1, 3] {
        let mut script = Script::honest();
        script.settings.concurrency = concurrency;
        script.settings.tau = 2.0;
        let model = script.model();
        let mut counts = Vec::new();
        let mut progress = |answered| {
            counts.push(answered);
            ControlFlow::Continue(())
        };
        let Compared::All(compared) = model.compare(&rows(20), &mut progress).unwrap() else { panic!() };
        for (number, row) in compared.iter().enumerate() {
            assert_eq!(row.prompt_id, number.to_string());
            assert_eq!(row.scores, [[0.0, number as f64 / 2.0], [0.0 - number as f64 / 2.0, 0.0]]);
        }
        assert!(counts.is_sorted() && counts.first() == Some(&0) && counts.last() == Some(&20), "{counts:?}");
        let mut asked = script.notes("asked");
        asked.sort_by_key(|id| id.parse::<usize>().unwrap());
        assert_eq!(asked, (0..20).map(|number| number.to_string()).collect::<Vec<_>>(), "each once");
        // The same processes are asked on.
        assert_eq!(model.compare_all(&rows(3)).unwrap(), compared[..3]);
    }
}

#[test]
fn a_row_is_given_with_its_other_fields_and_a_table_is_taken() {
    let script =
        Script::each("printf '%s\\n' \"$row\" >> $dir/rows; echo '{\"table\": [[0, 0.9], [0.4, 0]]}'");
    let mut asked = row("p");
    let fields = json!({"prompt_id": 7, "responses": [], "constraint": {"n": 3}, "answer": "4"});
    asked.prompt.keep_others(fields.as_object().unwrap().clone());
    let compared = script.model().compare_all(&[asked]).unwrap();
    assert!((compared[0].probabilities[0][1] - 0.75).abs() < 1e-12, "{compared:?}");
    let given: serde_json::Value = serde_json::from_str(&script.notes("rows")[0]).unwrap();
    let want = json!({
        "prompt_id": "p", "prompt": "x", "responses": ["a\nb", "\"c\""], "constraint": {"n": 3}, "answer": "4",
    });
    assert_eq!(given, want);

    let contest = Contest { prompt: row("q").prompt, first: "a".into(), second: "b".into() };
    let doubled = load(&script.settings, 2.0, KeptAnswers::at(None)).unwrap();
    let p = doubled.win_probabilities(std::slice::from_ref(&contest)).unwrap()[0];
    assert!((p - 0.75).abs() < 1e-12, "the win rate is not of what is stored");
    assert!((doubled.compare_all(&[row("q")]).unwrap()[0].scores[0][1] - 2.0 * 3.0_f64.ln()).abs() < 1e-9);
}

#[test]
fn a_program_that_dies_is_started_anew_and_asked_what_it_did_not_answer() {
    let dies = "echo $id >> $dir/asked
        if [ $id = 3 ] && [ ! -e $dir/died ]; then : > $dir/died; echo 'no more' >&2; exit 7; fi
        echo \"{\\\"scores\\\": [$id, 0]}\"";
    let script = Script::each(dies);
    let compared = script.model().compare_all(&rows(6)).unwrap();
    assert_eq!(compared[5].scores[0][1], 5.0);
    assert_eq!(script.notes("asked"), ["0", "1", "2", "3", "3", "4", "5"]);

    let mut script = Script::each(dies);
    script.settings.retries = 0;
    let problem = script.failure(&rows(6));
    for words in ["score.command", "prompt_id \"3\"", "exit status: 7", "no more"] {
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_program_that_always_dies_is_asked_as_often_as_it_may_be() {
    for (retries, times) in [(0, 1), (2, 3)] {
        let mut script = Script::each("echo $id >> $dir/asked; exit 0");
        script.settings.retries = retries;
        let problem = script.failure(&rows(2));
        assert!(problem.contains("ended without an answer"), "{problem}");
        assert_eq!(script.notes("asked").len(), times);
    }
    // One that ends between two rows was asked nothing, also where it takes its time.
    for ends in ["", "; sleep 0.1", "; IFS= read -r row"] {
        let text = format!("IFS= read -r row; {ID}; echo \"{{\\\"scores\\\": [$id, 0]}}\"{ends}");
        let mut script = Script::whole(&text);
        script.settings.retries = 0;
        assert_eq!(script.model().compare_all(&rows(4)).unwrap()[3].scores[0][1], 3.0, "{ends}");
    }
}

#[test]
fn a_silent_program_is_ended_after_its_time() {
    for text in
        ["sleep 100", "while IFS= read -r row; do :; done", "exec <&-; sleep 100", "exec >&-; sleep 100"]
    {
        let mut script = Script::whole(&format!("echo $$ >> $dir/pids\n{text}"));
        script.settings.timeout_s = 0.3;
        // More than a pipe holds.
        let mut long = row("long");
        long.responses[0].text = "x".repeat(1 << 20);
        let started = Instant::now();
        let problem = script.failure(&[long]);
        assert!(started.elapsed() < Duration::from_secs(10), "{text}");
        assert!(
            problem.contains("no answer within 0.3 s") || problem.contains("closed"),
            "{text}: {problem}"
        );
        assert_eq!(script.notes("pids").len(), 2, "{text}: it is asked twice");
        ends(&script.notes("pids"));
    }
}

#[test]
fn wrong_answers_end_the_work_at_once() {
    for (answer, words) in [
        ("echo hello", "no JSON object"),
        ("echo '{\"scores\": [1]}'", "a list of 2"),
        ("echo '{\"scores\": [NaN, 1]}'", "no NaN"),
        ("echo '{\"scores\": [1, 2]}'; echo '{\"scores\": [1, 2]}'", "more lines"),
        ("echo 'loading' ; echo '{\"scores\": [1, 2]}'", "loading"),
        ("cat /dev/zero", "more than 16 MiB"),
        ("printf '{\"scores\": [1,'; exit 1", "ended without an answer"),
    ] {
        let script = Script::each(&format!("echo $id >> $dir/asked; {answer}"));
        let problem = script.failure(&rows(2));
        assert!(problem.contains("score.command") && problem.contains(words), "{answer}: {problem}");
        let asked = if answer.contains("exit") { 2 } else { 1 };
        assert_eq!(script.notes("asked").len(), asked, "{answer}");
    }
    // A second line after the last row, when no other row follows.
    let late = Script::each("echo '{\"scores\": [1, 2]}'; if [ $id = 2 ]; then echo more; fi");
    assert!(late.failure(&rows(3)).contains("more lines"));
    // The last line needs no end where the program has ended.
    let torn = Script::whole("IFS= read -r row; printf '{\"scores\": [1, 2]}'");
    assert_eq!(torn.model().compare_all(&rows(1)).unwrap()[0].scores[1][0], 1.0);
}

#[test]
fn a_stop_keeps_what_was_answered_and_ends_the_programs() {
    let mut script = Script::each(
        "[ -e $dir/begun ] || echo $$ >> $dir/pids; [ $id = 4 ] && sleep 100; echo \"{\\\"scores\\\": [$id, 0]}\"",
    );
    script.settings.concurrency = 2;
    let model = script.model();
    let started = Instant::now();
    let mut stopping = |answered| {
        let is_late = answered >= 5 && started.elapsed() > Duration::from_millis(500);
        if is_late { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let Compared::Stopped(front) = model.compare(&rows(30), &mut stopping).unwrap() else { panic!() };
    assert_eq!(front.len(), 4, "row 4 sleeps");
    assert!(started.elapsed() < Duration::from_secs(10));
    drop(model);
    ends(&script.notes("pids"));
}

#[test]
fn rows_that_were_answered_are_not_asked_about_again() {
    let script = Script::honest();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let rows = rows(12);
    // Five answers, then a stop; whoever comes later is loaded anew.
    let mut stop = |answered| if answered == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let Compared::Stopped(_) = script.model_that_keeps(Some(&path)).compare(&rows, &mut stop).unwrap() else {
        panic!("not stopped")
    };
    let kept = fs::read_to_string(&path).unwrap().lines().count();
    let asked = script.notes("asked").len();
    assert!(kept == 5 && asked <= 6, "{kept} kept, {asked} asked");
    let wanted = script.model().compare_all(&rows).unwrap();
    let before = script.notes("asked").len();
    assert_eq!(before, asked + 12, "nothing is kept where no file is named");
    assert_eq!(script.model_that_keeps(Some(&path)).compare_all(&rows).unwrap(), wanted);
    assert_eq!(script.notes("asked")[before..], ["5", "6", "7", "8", "9", "10", "11"]);
    // A row with another response is another question.
    let mut other = rows;
    other[3].responses[0].text = "new".into();
    script.model_that_keeps(Some(&path)).compare_all(&other).unwrap();
    assert_eq!(script.notes("asked").len(), before + 7 + 1);
}

#[test]
fn what_a_program_has_started_ends_with_it() {
    let script = Script::whole(
        "sleep 1000 & echo $! >> $dir/pids\nIFS= read -r row; echo '{\"scores\": [1, 2]}'; cat >/dev/null",
    );
    let model = script.model();
    model.compare_all(&rows(1)).unwrap();
    drop(model);
    ends(&script.notes("pids"));
}

#[test]
fn a_program_that_is_not_there_is_told_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    selfplay_records::atomic::write_bytes(&folder.path().join("plain"), b"echo").unwrap();
    for (first, words) in [
        ("no-such-program-of-ours".to_owned(), "no such program in PATH"),
        (path("absent"), "no such program"),
        (path("plain"), "chmod +x"),
        (folder.path().display().to_string(), "is a folder"),
    ] {
        let found = load(&CommandSettings::of(&[first]), 1.0, KeptAnswers::at(None));
        let Err(error) = found else { panic!("it is not there") };
        assert!(error.kind() == Kind::Input && error.to_string().contains(words), "{error}");
    }
    let ids_only = Prompt { prompt_ids: Some(vec![1]), ..Prompt::default() };
    assert!(any_text().check(&ids_only).unwrap_err().kind() == Kind::Input);
}
