//! A client against a server that is slow, cuts connections, says 429 and 500, sends what is no JSON, and answers out of order.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use selfplay_client::{
    Answers, ChatRequest, Client, ClientError, ClientSettings, CompletionPrompt, CompletionRequest,
    GenerationOptions, JsonRequest, Transcript,
};
use selfplay_records::{HasKind, Kind, Message};
use selfplay_testing::{StubReply, StubRequest, StubServer};
use serde_json::{Value, json};

fn settings(server: &StubServer) -> ClientSettings {
    ClientSettings { concurrency: 4, timeout_s: 0.5, ..ClientSettings::of(format!("{}/v1", server.address)) }
}

fn client(settings: &ClientSettings, transcript: &Path) -> Client {
    Client::new(settings, Some(Transcript::open(transcript).unwrap())).unwrap()
}

/// The number of a question "q17".
fn number(request: &StubRequest) -> usize {
    request.body["messages"][0]["content"].as_str().unwrap()[1..].parse().unwrap()
}

fn questions(count: usize) -> Vec<ChatRequest> {
    let options = GenerationOptions { model: "m".into(), ..Default::default() };
    (0..count)
        .map(|place| ChatRequest::new(vec![Message::user(format!("q{place}"))], options.clone()))
        .collect()
}

fn answer(text: &str) -> StubReply {
    StubReply::json(&json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }))
}

fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn texts(answers: Answers<selfplay_client::ChatAnswer>) -> Vec<String> {
    match answers {
        Answers::All(answers) => answers.into_iter().map(|answer| answer.text).collect(),
        Answers::Stopped(_) => panic!("nothing stopped it"),
    }
}

/// Each kind of trouble once, then the answer; later questions are answered sooner.
fn troubled(request: &StubRequest) -> StubReply {
    let number = number(request);
    let good = answer(&format!("a{number}"));
    match (number % 7, request.time) {
        (0, 1) => StubReply::text(429, "slow down").header("Retry-After", "0.2"),
        (1, 1) => StubReply::text(500, "oops"),
        (2, 1) => good.cut(20),
        (3, 1) => StubReply::text(200, "{\"choices\": [{\"mess"),
        (4, 1) => StubReply::json(&json!({"choices": []})),
        (5, 1) => good.after(Duration::from_secs(2)),
        _ => good.after(Duration::from_millis(40 - number as u64)),
    }
}

#[test]
fn every_trouble_passes_nothing_is_lost_and_a_second_run_asks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let transcript = folder.path().join("t.jsonl");
    let server = StubServer::start(troubled);
    let asking = client(&settings(&server), &transcript);
    let wanted: Vec<String> = (0..21).map(|number| format!("a{number}")).collect();
    assert_eq!(texts(asking.chat(&questions(21), &mut go_on).unwrap()), wanted);
    let usage = asking.usage();
    assert_eq!((usage.asked, usage.replayed, usage.retried), (21, 0, 18));
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (210, 63));
    // Four of ours at a time, and the three late ones, which the client had left by then.
    assert!((2..=4 + 3).contains(&server.most_at_work()), "{}", server.most_at_work());
    let before = server.requests().len();
    // Questions with a kind of trouble are asked twice, the others once.
    assert_eq!(before, 21 + 18);
    drop(asking);

    let lines = std::fs::read_to_string(&transcript).unwrap();
    assert_eq!(lines.lines().count(), 21);
    let again = client(&settings(&server), &transcript);
    assert_eq!(texts(again.chat(&questions(21), &mut go_on).unwrap()), wanted);
    assert_eq!(server.requests().len(), before);
    let usage = again.usage();
    assert_eq!((usage.asked, usage.replayed, usage.prompt_tokens), (0, 21, 210));
    assert_eq!(std::fs::read_to_string(&transcript).unwrap(), lines);
}

#[test]
fn a_refusal_ends_the_work_at_once_and_what_was_answered_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let transcript = folder.path().join("t.jsonl");
    let mended = Arc::new(AtomicBool::new(false));
    let of_server = Arc::clone(&mended);
    let server = StubServer::start(move |request| match number(request) {
        9 if !of_server.load(Ordering::SeqCst) => {
            StubReply::text(400, r#"{"error": {"message": "too long a prompt"}}"#)
        }
        number => answer(&format!("a{number}")),
    });
    let error = client(&settings(&server), &transcript).chat(&questions(30), &mut go_on).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    let text = error.to_string();
    assert!(text.contains("refused (400): too long a prompt"), "{text}");
    assert!(text.contains("of 30 answers are kept in"), "{text}");
    let asked: Vec<usize> = server.requests().iter().map(number).collect();
    // One try alone, and no new question after it: four at a time were on their way at most.
    assert_eq!(asked.iter().filter(|&&number| number == 9).count(), 1);
    assert!(asked.len() <= 9 + 4 + 1 && asked.len() >= 10, "{asked:?}");
    mended.store(true, Ordering::SeqCst);
    let answers = client(&settings(&server), &transcript).chat(&questions(30), &mut go_on).unwrap();
    assert_eq!(texts(answers).len(), 30);
    // Nothing that was answered is asked again.
    assert_eq!(server.requests().len(), 31);
}

#[test]
fn one_refused_request_stands_beside_answers_and_nothing_but_refusals_end_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let transcript = folder.path().join("t.jsonl");
    let server = StubServer::start(|request| match number(request) {
        9 => StubReply::text(400, r#"{"error": {"message": "longer than the context"}}"#),
        12 => StubReply::text(422, r#"{"detail": "not this one"}"#),
        30 => StubReply::text(401, "no key"),
        number => answer(&format!("a{number}")),
    });
    let asking = client(&settings(&server), &transcript);
    let Answers::All(answers) = asking.chat_each(&questions(30), &mut go_on).unwrap() else { panic!() };
    for (place, answer) in answers.iter().enumerate() {
        match (place, answer) {
            (9, Err(words)) => assert_eq!(words, "refused (400): longer than the context"),
            (12, Err(words)) => assert_eq!(words, "refused (422): not this one"),
            (_, answer) => assert_eq!(answer.as_ref().unwrap().text, format!("a{place}")),
        }
    }
    assert_eq!(std::fs::read_to_string(&transcript).unwrap().lines().count(), 28);
    // The key concerns all requests.
    let error = asking.chat_each(&questions(31), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("401") && error.kind() == Kind::Input, "{error}");
    // So does what every request is refused for, be they few or many: the others are not asked.
    let server = StubServer::start(|_| StubReply::text(400, "unknown field top_p"));
    for (count, most) in [(3, 3), (200, 16 + 4)] {
        let asking = client(&settings(&server), &folder.path().join(format!("{count}.jsonl")));
        let before = server.requests().len();
        let error = asking.chat_each(&questions(count), &mut go_on).unwrap_err();
        assert!(error.to_string().contains("unknown field top_p"), "{error}");
        assert!(server.requests().len() - before <= most, "{count}");
    }
}

#[test]
fn a_server_that_stays_broken_is_given_up_with_a_clear_report() {
    let server = StubServer::start(|_| StubReply::text(503, r#"{"message": "loading the model"}"#));
    let settings = ClientSettings { retries: 1, ..settings(&server) };
    let error = Client::new(&settings, None).unwrap().chat(&questions(1), &mut go_on).unwrap_err();
    let wanted =
        format!("{}/v1/chat/completions: status 503: loading the model, after 2 tries", server.address);
    assert_eq!(error.to_string(), wanted);
    assert_eq!(error.kind(), Kind::Machine);
    assert_eq!(server.requests().len(), 2);
    // A port that no one listens on.
    let nobody = ClientSettings { retries: 0, ..ClientSettings::of("http://127.0.0.1:1/v1") };
    let error = Client::new(&nobody, None).unwrap().chat(&questions(1), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("connection refused, after 1 tries"), "{error}");
}

#[test]
fn a_stop_keeps_what_is_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let transcript = folder.path().join("t.jsonl");
    let server = StubServer::start(|request| {
        answer(&format!("a{}", number(request))).after(Duration::from_millis(250))
    });
    let settings = ClientSettings { timeout_s: 5.0, ..settings(&server) };
    let mut stop = |answered| if answered >= 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let asking = client(&settings, &transcript);
    let Answers::Stopped(front) = asking.chat(&questions(40), &mut stop).unwrap() else { panic!() };
    assert!((4..40).contains(&front.len()), "{}", front.len());
    drop(asking);
    let asked = server.requests().len();
    assert_eq!(Transcript::open(&transcript).unwrap().len(), asked);
    let answers = client(&settings, &transcript).chat(&questions(40), &mut go_on).unwrap();
    assert_eq!(texts(answers).last().map(String::as_str), Some("a39"));
    assert_eq!(server.requests().len(), 40);
}

#[test]
fn a_pause_that_the_server_asks_for_is_waited_and_holds_everyone_back() {
    let refused_at = Arc::new(Mutex::new(None::<Instant>));
    let early = Arc::new(AtomicUsize::new(0));
    let (at, counted) = (Arc::clone(&refused_at), Arc::clone(&early));
    let server = StubServer::start(move |request| {
        let mut at = at.lock().unwrap();
        if number(request) == 0 && request.time == 1 {
            *at = Some(Instant::now());
            return StubReply::text(429, "").header("Retry-After", "1");
        }
        // 0.3 s are for what had been sent when the refusal came.
        if at.is_some_and(|at| {
            (Duration::from_millis(300)..Duration::from_millis(900)).contains(&at.elapsed())
        }) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        answer("ok").after(Duration::from_millis(100))
    });
    let started = Instant::now();
    let asking = Client::new(&settings(&server), None).unwrap();
    assert_eq!(texts(asking.chat(&questions(24), &mut go_on).unwrap()).len(), 24);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(early.load(Ordering::SeqCst), 0);
}

#[test]
fn a_dead_endpoint_is_made_up_for_by_another_and_equal_requests_are_one() {
    let server = StubServer::start(|request| answer(&format!("a{}", number(request))));
    let mut settings = settings(&server);
    settings.endpoints.insert(0, "http://127.0.0.1:1/v1".to_owned());
    let asking = Client::new(&settings, None).unwrap();
    let mut twice = questions(3);
    twice.extend(questions(3));
    assert_eq!(texts(asking.chat(&twice, &mut go_on).unwrap()), ["a0", "a1", "a2", "a0", "a1", "a2"]);
    assert_eq!(server.requests().len(), 3);
    twice[3].number = 1;
    let asking = Client::new(&settings, None).unwrap();
    asking.chat(&twice, &mut go_on).unwrap();
    assert_eq!(server.requests().len(), 3 + 4);
}

#[test]
fn the_key_is_sent_to_the_server_and_written_nowhere() {
    // PATH stands in every environment; a directory list has the characters of a key.
    let path = std::env::var("PATH").unwrap();
    let server = StubServer::start(|request| {
        let sent = request.authorization.clone().unwrap_or_default();
        match request.path.as_str() {
            "/v1/models" => {
                StubReply::json(&json!({"data": [{"id": "m", "root": "/models/m"}, {"id": "n"}]}))
            }
            "/v1/completions" => {
                assert_eq!(request.method, "POST");
                StubReply::json(&json!({"choices": [{"text": sent, "token_ids": request.body["prompt"]}]}))
            }
            _ => StubReply::text(403, format!("{{\"error\": \"{sent} is no key of mine\"}}")),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let transcript = folder.path().join("t.jsonl");
    let settings = ClientSettings { api_key_env: Some("PATH".into()), ..settings(&server) };
    let asking = client(&settings, &transcript);
    let models = asking.models().unwrap().remove(0);
    assert_eq!((models[0].name.as_str(), models[0].root.as_deref()), ("m", Some("/models/m")));
    assert_eq!((models[1].name.as_str(), models[1].root.as_deref()), ("n", None));
    let options = GenerationOptions { model: "m".into(), ..Default::default() };
    let request = CompletionRequest::new(CompletionPrompt::Ids(vec![5, 6]), options);
    let Answers::All(answers) = asking.complete(&[request], &mut go_on).unwrap() else { panic!() };
    assert_eq!(
        (answers[0].text.as_str(), answers[0].token_ids.clone()),
        ("Bearer [hidden]", Some(vec![5, 6]))
    );
    let error = asking.chat(&questions(1), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("[hidden] is no key of mine; check the key that api_key_env names"));
    assert!(server.requests().iter().all(|request| request.authorization == Some(format!("Bearer {path}"))));
    for text in [
        error.to_string(),
        format!("{error:?}"),
        format!("{asking:?}"),
        std::fs::read_to_string(transcript).unwrap(),
    ] {
        assert!(!text.contains(&path), "{text}");
    }
}

#[test]
fn any_json_can_be_asked_for_and_a_redirect_is_not_followed() {
    let server = StubServer::start(|request| match request.path.as_str() {
        "/reward" => StubReply::json(&json!({"scores": [request.body["texts"].as_array().map(Vec::len)]})),
        _ => StubReply::text(307, "").header("Location", "/reward"),
    });
    let asking = Client::new(&ClientSettings::of(format!("{}/reward", server.address)), None).unwrap();
    let request = JsonRequest { path: String::new(), body: json!({"texts": ["a", "b"]}), number: 0 };
    let read = |_, answer: &Value| answer["scores"][0].as_f64().ok_or_else(|| "no score".to_owned());
    assert_eq!(asking.ask(vec![request.clone()], read, &mut go_on).unwrap(), Answers::All(vec![2.0]));
    let elsewhere = Client::new(&ClientSettings::of(format!("{}/old", server.address)), None).unwrap();
    let error = elsewhere.ask(vec![request], read, &mut go_on).unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status: 307, .. }), "{error}");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_endpoint_that_lacks_the_model_is_left_out_while_another_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let lacking = StubServer::start(|_| StubReply::text(404, r#"{"error": {"message": "no such model"}}"#));
    let server = StubServer::start(|request| answer(&format!("a{}", number(request))));
    let mut both = settings(&server);
    both.endpoints.insert(0, format!("{}/v1", lacking.address));
    let asking = client(&both, &folder.path().join("t.jsonl"));
    assert_eq!(texts(asking.chat(&questions(12), &mut go_on).unwrap()).len(), 12);
    // Those that were on their way when the first was refused, four at a time.
    assert!((1..=4).contains(&lacking.requests().len()), "{}", lacking.requests().len());
    assert_eq!(server.requests().len(), 12);
    // Where none has it, that is the end.
    both.endpoints = vec![format!("{}/v1", lacking.address); 2];
    let error = client(&both, &folder.path().join("u.jsonl")).chat(&questions(3), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("refused (404): no such model"), "{error}");
    assert_eq!(error.kind(), Kind::Input);
}

#[test]
fn what_an_endpoint_gave_can_be_taken_back_until_it_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let transcript = folder.path().join("t.jsonl");
    let slowly =
        |name: &'static str| StubServer::start(move |_| answer(name).after(Duration::from_millis(30)));
    let (good, bad) = (slowly("good"), slowly("bad"));
    let mut both = settings(&good);
    both.endpoints.push(format!("{}/v1", bad.address));
    let asking = client(&both, &transcript);
    let first = texts(asking.chat(&questions(8), &mut go_on).unwrap());
    let of_bad = first.iter().filter(|text| *text == "bad").count();
    assert_eq!(asking.given(), [8 - of_bad, of_bad]);
    assert!(of_bad > 0);
    assert_eq!(asking.take_back(1).unwrap(), of_bad);
    asking.set_left_out(1, true);
    assert!(texts(asking.chat(&questions(8), &mut go_on).unwrap()).iter().all(|text| text == "good"));
    // Only those were asked again.
    assert_eq!(good.requests().len() + bad.requests().len(), 8 + of_bad);
    asking.believe();
    assert_eq!((asking.given(), asking.take_back(0).unwrap()), (vec![0, 0], 0));
    drop(asking);
    // Another process finds the answers that counted in the end.
    let again = client(&both, &transcript);
    assert!(texts(again.chat(&questions(8), &mut go_on).unwrap()).iter().all(|text| text == "good"));
    assert_eq!(again.usage().replayed, 8);
    // One that was taken back and never asked again is not there.
    let lost = client(&both, &folder.path().join("u.jsonl"));
    lost.set_left_out(1, true);
    lost.chat(&questions(2), &mut go_on).unwrap();
    assert_eq!(lost.take_back(0).unwrap(), 2);
    drop(lost);
    assert!(Transcript::open(&folder.path().join("u.jsonl")).unwrap().is_empty());
}
