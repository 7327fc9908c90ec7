//! A client against a companion that answers out of order, dies half-way, is silent, writes what is no answer, or cannot load its model: shell
//! scripts that speak the protocol.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use selfplay_client::{
    Answers, ChatRequest, Client, ClientSettings, CompanionSettings, GenerationOptions, Transcript,
};
use selfplay_records::{HasKind, Kind, Message};

/// Answers question `$q` under its number `$id`.
const ANSWER: &str = r#"printf '{"id":%s,"answer":{"choices":[{"message":{"role":"assistant","content":"a%s"},"finish_reason":"stop"}]}}\n' "$id" "$q""#;

/// A script that is ready at once, notes each question in `asked` and does `each` for it.
fn script(folder: &Path, each: &str) -> ClientSettings {
    let each = each.replace("ANSWER", ANSWER);
    whole(
        folder,
        &format!(
            r#"echo '{{"ready": {{"protocol": 1}}}}'
while IFS= read -r line; do
  id=${{line#*\"id\":}}; id=${{id%%[,\}}]*}}
  q=${{line#*\"content\":\"q}}; q=${{q%%\"*}}
  echo "$q" >> "$dir/asked"
  {each}
done
echo gone >> "$dir/gone""#
        ),
    )
}

fn whole(folder: &Path, text: &str) -> ClientSettings {
    let text = format!("dir='{}'\necho \"$@\" >> \"$dir/starts\"\n{text}", folder.display());
    let words = ["sh", "-c", &text, "companion"].map(str::to_owned);
    let companion = CompanionSettings::of("sample.companion", Some(&words), "some/model");
    ClientSettings {
        companion: Some(companion),
        concurrency: 4,
        timeout_s: 20.0,
        ..ClientSettings::default()
    }
}

fn questions(count: usize) -> Vec<ChatRequest> {
    let options = GenerationOptions { model: "m".into(), ..Default::default() };
    (0..count)
        .map(|place| ChatRequest::new(vec![Message::user(format!("q{place}"))], options.clone()))
        .collect()
}

fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn notes(folder: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Asks `count` questions, keeps the answers in a transcript, and sees that each has its own.
fn all_answered(settings: &ClientSettings, folder: &Path, count: usize) {
    let transcript = Transcript::open(&folder.join("t.jsonl")).unwrap();
    let client = Client::new(settings, Some(transcript)).unwrap();
    let Answers::All(answers) = client.chat(&questions(count), &mut go_on).unwrap() else { panic!() };
    let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
    assert_eq!(texts, (0..count).map(|place| format!("a{place}")).collect::<Vec<_>>());
}

fn failure(settings: &ClientSettings, kind: Kind) -> String {
    let settings = ClientSettings { retries: 1, ..settings.clone() };
    let error = Client::new(&settings, None).unwrap().chat(&questions(1), &mut go_on).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

#[test]
fn answers_out_of_order_reach_their_questions_and_the_end_of_the_input_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    // Every second question is answered before the one that came first.
    let settings = script(
        folder.path(),
        r#"if [ -z "$held" ]; then held=$id; held_q=$q; else ANSWER; id=$held; q=$held_q; ANSWER; held=; fi"#,
    );
    all_answered(&settings, folder.path(), 20);
    assert_eq!(notes(folder.path(), "asked").len(), 20);
    assert_eq!(notes(folder.path(), "starts"), ["--model some/model"]);
    assert_eq!(notes(folder.path(), "gone"), ["gone"]);
    // A second run asks nothing, and starts nothing.
    all_answered(&settings, folder.path(), 20);
    assert_eq!(notes(folder.path(), "starts").len(), 1);
}

#[test]
fn what_a_companion_that_dies_has_not_answered_is_asked_again_and_nothing_else() {
    for (fault, last_words) in [
        ("echo out of memory >&2; exit 3", "no answer before the end"),
        ("echo 'loading 7/9'; sleep 60", "no line of a companion"),
        ("printf '{\"id\":%s,\"ans' \"$id\"; exit 0", "a torn line"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let each = format!(
            "if [ \"$q\" = 7 ] && [ ! -e \"$dir/fault\" ]; then : > \"$dir/fault\"; {fault}; fi; ANSWER"
        );
        let settings = script(folder.path(), &each);
        all_answered(&settings, folder.path(), 20);
        let asked = notes(folder.path(), "asked");
        let times = |place: usize| asked.iter().filter(|one| **one == place.to_string()).count();
        let again: Vec<usize> = (0..20).filter(|&place| times(place) > 1).collect();
        assert_eq!(times(7), 2, "{last_words}: {asked:?}");
        // Four at a time, and no more than these were open.
        assert!(again.len() <= 4 && again.iter().all(|&place| times(place) == 2), "{last_words}: {asked:?}");
        assert_eq!(notes(folder.path(), "starts").len(), 2, "{last_words}");
        let kept = fs::read_to_string(folder.path().join("t.jsonl")).unwrap();
        assert_eq!(kept.lines().count(), 20);
    }
}

#[test]
fn a_slow_companion_is_waited_for_while_it_gives_signs_of_life_and_a_silent_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let slow = script(
        folder.path(),
        r#"for one in 1 2 3 4; do sleep 0.3; printf '{"id":%s,"progress":{"completion_tokens":%s}}\n' "$id" $one; done; ANSWER"#,
    );
    let settings = ClientSettings { timeout_s: 0.8, ..slow };
    all_answered(&settings, folder.path(), 1);
    assert_eq!(notes(folder.path(), "starts").len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let settings = ClientSettings { timeout_s: 0.3, ..script(folder.path(), "sleep 60") };
    let started = Instant::now();
    let text = failure(&settings, Kind::Machine);
    assert!(
        text.contains("sh: chat/completions: no sign of life within 0.3 s") && text.contains("after 2 tries"),
        "{text}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(notes(folder.path(), "starts").len(), 2);
}

#[test]
fn what_no_other_try_changes_ends_the_work_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refusing = script(
        folder.path(),
        r#"printf '{"id":%s,"error":{"message":"a prompt of 9999 tokens","temporary":false}}\n' "$id""#,
    );
    let text = failure(&refusing, Kind::Input);
    assert!(
        text.starts_with("sample.companion: ") && text.contains("refuses a request: a prompt of 9999 tokens"),
        "{text}"
    );
    for (start, kind, words) in [
        (
            r#"echo '{"error":{"message":"some/model: no such file or folder"}}'; exit 1"#,
            Kind::Input,
            "no such file or folder",
        ),
        (
            "echo unknown architecture >&2; exit 4",
            Kind::Machine,
            "before it was ready; the last on its standard error: unknown architecture",
        ),
        (r#"echo '{"ready":{"protocol":2}}'; sleep 60"#, Kind::Input, "speaks protocol 2, and 1 is wanted"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = failure(&whole(folder.path(), start), kind);
        assert!(text.contains(words), "{text}");
        // Once: it would take as long, and end the same way.
        assert_eq!(notes(folder.path(), "starts").len(), 1, "{words}");
    }
    let nowhere = CompanionSettings::of("sample.companion", None, PathBuf::from("m").display().to_string());
    let nowhere = CompanionSettings { words: vec!["no-such-companion".into()], ..nowhere };
    let settings = ClientSettings { companion: Some(nowhere), ..ClientSettings::default() };
    let error = Client::new(&settings, None).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("no such program in PATH"), "{error}");
}
