//! Rows through files: what is written is read, and what is wrong is named.
//!
//! Past 400 lines because the cases are one list, read side by side.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use selfplay_records::*;
use selfplay_records::{HasKind, Kind};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const ENDINGS: [&str; 5] = ["jsonl", "json", "jsonl.gz", "json.gz", "parquet"];

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 \n\r\t\"\\\\äß語😀\u{2028}]{0,12}"
}

fn words() -> impl Strategy<Value = String> {
    "[a-zß語]{1,8}"
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 1..6)
}

fn finite() -> impl Strategy<Value = f64> {
    prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO
}

fn finite32() -> impl Strategy<Value = f32> {
    prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    prop::collection::vec((words(), text()).prop_map(|(role, content)| Message::new(role, content)), 1..4)
}

fn prompt() -> impl Strategy<Value = Prompt> {
    let kinds = prop_oneof![
        text().prop_map(|prompt| Prompt { prompt: Some(prompt), ..Prompt::default() }),
        messages().prop_map(|messages| Prompt { messages: Some(messages), ..Prompt::default() }),
        (text(), ids()).prop_map(|(prompt, ids)| Prompt {
            prompt: Some(prompt),
            prompt_ids: Some(ids),
            ..Prompt::default()
        }),
    ];
    kinds.prop_map(|prompt| Prompt { prompt_id: "x".to_owned(), ..prompt })
}

fn response() -> impl Strategy<Value = Response> {
    let finish = prop::option::of(prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length)]);
    let tokens = prop::option::of(prop::collection::vec((any::<u32>(), finite32()), 0..5));
    (text(), tokens, finish, any::<bool>()).prop_map(|(text, tokens, finish_reason, is_rounded)| {
        let logprobs: Option<Vec<f32>> =
            tokens.as_ref().map(|tokens| tokens.iter().map(|(_, logprob)| *logprob).collect());
        // Of a response that rounded weights drew: by another name.
        let (logprobs, sampler_logprobs) = if is_rounded { (None, logprobs) } else { (logprobs, None) };
        let ids = tokens.map(|tokens| tokens.iter().map(|(id, _)| *id).collect());
        Response { text, ids, logprobs, sampler_logprobs, finish_reason }
    })
}

fn candidates() -> impl Strategy<Value = Candidates> {
    (prompt(), prop::collection::vec(response(), 0..4))
        .prop_map(|(prompt, responses)| Candidates { prompt, responses })
}

fn preference() -> impl Strategy<Value = Preference> {
    (0_usize..4, any::<bool>()).prop_flat_map(|(k, embeds)| {
        let square = move || prop::collection::vec(prop::collection::vec(finite(), k), k);
        let line = move || prop::collection::vec(finite(), k);
        let embeddings = prop::collection::vec(prop::collection::vec(finite32(), 3), k);
        (square(), square(), line(), line(), embeddings).prop_map(
            move |(scores, probabilities, mean_scores, mean_probabilities, embeddings)| Preference {
                prompt_id: "x".to_owned(),
                scores,
                probabilities,
                mean_scores,
                mean_probabilities,
                candidates_digest: embeds.then(|| "0123456789abcdef".to_owned()),
                embeddings: embeds.then_some(embeddings),
                advantages: embeds.then(|| vec![-0.5; k]),
                axis_advantages: embeds.then(|| vec![vec![-0.75, 0.25]; k]),
                axis_rewards: embeds.then(|| vec![vec![0.0, 1e-9]; k]),
            },
        )
    })
}

fn pair() -> impl Strategy<Value = Pair> {
    let texts = (messages(), messages(), messages());
    let tokens = prop::option::of((ids(), ids(), ids()));
    let numbers = prop::array::uniform10(prop::option::of(finite()));
    (prop::option::of(words()), texts, tokens, numbers).prop_map(
        |(prompt_id, (prompt, chosen, rejected), tokens, numbers)| {
            let (prompt_ids, chosen_ids, rejected_ids) =
                tokens.map_or((None, None, None), |(a, b, c)| (Some(a), Some(b), Some(c)));
            let [
                chosen_probs,
                chosen_probs_win,
                chosen_probs_lose,
                chosen_score,
                chosen_score_win,
                chosen_score_lose,
                ref_chosen_logps,
                ref_rejected_logps,
                initial_chosen_logps,
                initial_rejected_logps,
            ] = numbers;
            Pair {
                prompt_id,
                prompt: Some(prompt),
                chosen: Some(chosen),
                rejected: Some(rejected),
                prompt_ids,
                chosen_ids,
                rejected_ids,
                chosen_probs,
                chosen_probs_win,
                chosen_probs_lose,
                chosen_score,
                chosen_score_win,
                chosen_score_lose,
                ref_chosen_logps,
                ref_rejected_logps,
                initial_chosen_logps,
                initial_rejected_logps,
            }
        },
    )
}

fn extra() -> impl Strategy<Value = Map<String, Value>> {
    (prop::option::of(any::<i64>()), prop::option::of(text())).prop_map(|(number, note)| {
        let number = number.map(|number| ("zz_number".to_owned(), json!(number)));
        let note = note.map(|note| ("zz_note".to_owned(), json!({"text": note, "tags": ["a"]})));
        number.into_iter().chain(note).collect()
    })
}

fn token_row() -> impl Strategy<Value = TokenRow> {
    let flags = (prop::option::of(any::<bool>()), prop::option::of(any::<bool>()));
    let out = (prop::option::of(ids()), prop::option::of(text()));
    (any::<bool>(), text(), messages(), flags, out, extra()).prop_map(
        |(is_text, text, messages, flags, (ids, rendered), extra)| TokenRow {
            text: is_text.then_some(text),
            messages: (!is_text).then_some(messages),
            add_special_tokens: flags.0,
            add_generation_prompt: flags.1,
            ids,
            rendered,
            extra,
        },
    )
}

fn log_prob_row() -> impl Strategy<Value = LogProbRow> {
    let out = prop::option::of((finite(), prop::collection::vec(finite32(), 0..4)));
    (prop::option::of(text()), ids(), text(), out, extra()).prop_map(
        |(prompt, prompt_ids, response, out, extra)| LogProbRow {
            prompt_ids: prompt.is_none().then_some(prompt_ids),
            prompt,
            messages: None,
            response: Some(response),
            response_ids: None,
            logprob: out.as_ref().map(|(sum, _)| *sum),
            token_logprobs: out.map(|(_, each)| each),
            extra,
        },
    )
}

fn instruction() -> impl Strategy<Value = Instruction> {
    (messages(), text(), prop::option::of((ids(), ids()))).prop_map(|(mut messages, reply, tokens)| {
        messages.push(Message::assistant(reply));
        let (prompt_ids, response_ids) = tokens.map_or((None, None), |(a, b)| (Some(a), Some(b)));
        Instruction { messages, prompt_ids, response_ids }
    })
}

/// Writes and reads rows in each format; `name` gives each its own id where ids must differ.
fn round_trip<R: Row + PartialEq + std::fmt::Debug>(mut rows: Vec<R>, name: impl Fn(&mut R, usize)) {
    let folder = TempDir::new().unwrap();
    rows.iter_mut().enumerate().for_each(|(number, row)| name(row, number));
    for ending in ENDINGS {
        let path = folder.path().join(format!("rows.{ending}"));
        write_rows(&path, &rows).unwrap();
        assert_eq!(read_rows::<R>(&path).unwrap(), rows, "{ending}");
        assert_eq!(streamed::<R>(&path).unwrap(), rows, "{ending}, one by one");
    }
}

/// The rows of a file, read one by one.
fn streamed<R: Row>(path: &Path) -> Result<Vec<R>, RecordError> {
    let mut rows = Vec::new();
    stream_rows(path, &mut |number, row| {
        assert_eq!(number, rows.len());
        rows.push(row);
        Ok(())
    })
    .map(|()| rows)
}

/// A test for each kind of row: files of some generated ones give the same back. The closure sets what makes a row unlike others.
macro_rules! rows_come_back {
    ($($test:ident: $row:expr, $distinguish:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
            $(#[test]
            fn $test(rows in prop::collection::vec($row, 1..5)) {
                round_trip(rows, $distinguish);
            })*
        }
    };
}

rows_come_back! {
    prompts_come_back: prompt(), |row, number| row.prompt_id = format!("p{number}");
    candidates_come_back: candidates(), |row, number| row.prompt.prompt_id = format!("p{number}");
    preferences_come_back: preference(), |row, number| row.prompt_id = format!("p{number}");
    pairs_come_back: pair(), |_, _| {};
    token_rows_come_back: token_row(), |_, _| {};
    log_prob_rows_come_back: log_prob_row(), |_, _| {};
    instructions_come_back: instruction(), |_, _| {};
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = TempDir::new().unwrap();
        for ending in ENDINGS {
            let path = file(&folder, &format!("a.{ending}"), &bytes);
            let _ = read_rows::<Candidates>(&path);
            let _ = read_pairs(&path);
            let _ = read_prompts(&path, "prompt", OnBadPrompt::Skip);
        }
    }
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    atomic::write_bytes(&path, bytes).unwrap();
    path
}

fn error_of<T: std::fmt::Debug>(result: Result<T, RecordError>) -> String {
    let error = result.unwrap_err();
    assert!(error.kind() == Kind::Input, "{error}");
    error.to_string()
}

#[test]
fn more_rows_than_a_batch_come_back() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("prompts.parquet");
    let rows: Vec<Prompt> = (0..3000)
        .map(|number| Prompt {
            prompt_id: number.to_string(),
            prompt: Some(format!("prompt {number}")),
            ..Prompt::default()
        })
        .collect();
    write_rows(&path, &rows).unwrap();
    assert_eq!(read_rows::<Prompt>(&path).unwrap(), rows);
}

#[test]
fn no_rows_are_written_but_not_read() {
    let folder = TempDir::new().unwrap();
    for ending in ENDINGS {
        let path = folder.path().join(format!("pairs.{ending}"));
        write_rows::<Pair>(&path, &[]).unwrap();
        let error = error_of(read_rows::<Pair>(&path));
        assert!(error.ends_with("no rows, expected at least one row of pairs"), "{error}");
        assert_eq!(error, error_of(streamed::<Pair>(&path)));
        error_of(read_pairs(&path));
        error_of(read_values(&path));
        error_of(read_prompts(&path, "prompt", OnBadPrompt::Error));
    }
}

#[test]
fn the_wrong_field_is_named() {
    let folder = TempDir::new().unwrap();
    let good = r#"{"prompt_id": "a", "prompt": "q", "responses": [{"text": "x"}]}"#;
    let cases = [
        (
            r#"{"prompt": "q", "responses": "none"}"#,
            "field \"responses\": expected an array of objects with text, ids, logprobs, finish_reason, found a string",
        ),
        (
            r#"{"prompt": "q"}"#,
            "field \"responses\": expected an array of objects with text, ids, logprobs, finish_reason, found no such field",
        ),
        (r#"{"prompt": 7, "responses": []}"#, "field \"prompt\": expected a string, found 7"),
        (
            r#"{"responses": []}"#,
            "field \"prompt\": expected \"prompt\", \"messages\" or \"prompt_ids\", found none of them",
        ),
        (
            r#"{"prompt": "q", "responses": [{"text": "x"}, {"text": "y", "ids": [1, -2]}]}"#,
            "field \"responses[1].ids[1]\": expected an integer from 0 to 4294967295, found -2",
        ),
        (
            r#"{"prompt": "q", "responses": [{"ids": [1]}]}"#,
            "field \"responses[0]\": expected an object with \"text\", found none in it",
        ),
        (
            r#"{"prompt": "q", "responses": [{"text": "x", "finish_reason": "tired"}]}"#,
            "field \"responses[0].finish_reason\": expected \"stop\" or \"length\", found a string",
        ),
        (
            r#"{"prompt": "q", "responses": [{"text": "x", "ids": [1, 2], "logprobs": [-1.0]}]}"#,
            "field \"responses[0].logprobs\": expected one for each of the 2 ids, found 1",
        ),
        (
            r#"{"prompt": "q", "responses": [{"text": "x", "logprobs": [-1.0, -1e39]}]}"#,
            "field \"responses[0].logprobs[1]\": expected a finite number of 32 bits, found -inf",
        ),
        (
            r#"{"messages": [{"role": "user"}], "responses": []}"#,
            "field \"messages[0]\": expected an object with \"content\", found none in it",
        ),
        (
            r#"{"prompt_id": 1.5, "prompt": "q", "responses": []}"#,
            "field \"prompt_id\": expected a string or an integer, found 1.5",
        ),
        (r#"[1]"#, "row 1: expected a JSON object, found an array"),
        (r#"{"prompt": "q", "responses": [NaN]}"#, "JSON has no NaN"),
        (r#"{"prompt": "q""#, "not JSON: EOF while parsing an object at column 14"),
    ];
    for (bad, expected) in cases {
        // A blank line is no row.
        let path = file(&folder, "c.jsonl", format!("{good}\r\n\n{bad}\n").as_bytes());
        let error = error_of(read_rows::<Candidates>(&path));
        assert!(error.starts_with(&format!("{}: row 1: ", path.display())), "{error}");
        assert!(error.contains(expected), "{bad}\n  {error}\n  {expected}");
    }
    let path = file(&folder, "c.json", format!("[{good}, {}]", cases[0].0).as_bytes());
    assert!(error_of(read_rows::<Candidates>(&path)).contains("row 1: field \"responses\""));
    let path = file(&folder, "c.json", format!("[{good}, {good}, {{]").as_bytes());
    assert!(error_of(read_rows::<Candidates>(&path)).contains("row 2: not JSON"));
}

/// What is wrong in a long row is found by some trials, not by one for each of its values.
#[test]
fn the_last_of_many_values_is_named_soon() {
    let folder = TempDir::new().unwrap();
    let ids = "7,".repeat(200_000);
    let fields: String = (0..20_000).map(|n| format!("\"f{n}\": {n}, ")).collect();
    for (row, field) in [
        (format!("{{\"prompt_ids\": [{ids}-1], \"responses\": []}}"), "field \"prompt_ids[200000]\""),
        (
            format!("{{\"prompt\": \"q\", \"responses\": [{{\"text\": \"x\", \"ids\": [{ids}0.5]}}]}}"),
            "field \"responses[0].ids[200000]\"",
        ),
        // So many fields that not each of them is tried.
        (format!("{{{fields}\"prompt\": \"q\", \"responses\": 7}}"), "row 0: "),
    ] {
        let path = file(&folder, "c.jsonl", format!("{row}\n").as_bytes());
        let started = std::time::Instant::now();
        let error = error_of(read_rows::<Candidates>(&path));
        assert!(error.contains(field), "{error}");
        assert!(started.elapsed().as_secs() < 10, "{field}: {:?}", started.elapsed());
    }
}

#[test]
fn bytes_that_are_no_rows_are_refused() {
    let folder = TempDir::new().unwrap();
    let read = |name: &str, bytes: &[u8]| error_of(read_rows::<Prompt>(&file(&folder, name, bytes)));
    assert!(
        read("a.jsonl", b"{\"prompt\": \"\xff\"}")
            .contains("row 0: expected UTF-8, found other bytes from byte 12")
    );
    assert!(read("a.parquet", b"PAR1 no").contains("cannot be read as Parquet"));
    assert!(read("a.jsonl.gz", b"{\"prompt\": \"q\"}").contains("cannot be read: invalid gzip"));
    assert!(read("a.txt", b"prompt\nq\n").contains("unknown ending, expected .jsonl"));
    assert!(
        error_of(read_rows::<Prompt>(Path::new("absent.jsonl"))).contains("absent.jsonl: cannot be read")
    );
    let directory = folder.path().join("d.jsonl");
    atomic::create_dir_all(&directory).unwrap();
    error_of(read_rows::<Prompt>(&directory));
    // A mark that Windows writes before UTF-8 is no part of the text.
    let marked = file(&folder, "m.jsonl", b"\xEF\xBB\xBF{\"prompt\": \"q\"}");
    assert_eq!(read_rows::<Prompt>(&marked).unwrap()[0].prompt_id, "0");
}

#[test]
fn one_id_twice_is_refused() {
    let folder = TempDir::new().unwrap();
    let rows = "{\"prompt\": \"a\", \"prompt_id\": \"1\"}\n{\"prompt\": \"b\"}\n";
    let path = file(&folder, "p.jsonl", rows.as_bytes());
    let expected = "row 1: field \"prompt_id\": expected an id of its own, found \"1\" again (row 0)";
    for error in [
        error_of(read_rows::<Prompt>(&path)),
        error_of(streamed::<Prompt>(&path)),
        error_of(read_prompts(&path, "prompt", OnBadPrompt::Skip)),
    ] {
        assert!(error.contains(expected) && error.contains("row 1 has no prompt_id"), "{error}");
    }
}

#[test]
fn an_error_of_the_taker_ends_the_reading() {
    let folder = TempDir::new().unwrap();
    let line = "{\"prompt_ids\": [1], \"completion_ids\": [2]}\n";
    let path = file(&folder, "c.jsonl", [line, line, "not JSON\n"].concat().as_bytes());
    let mut taken = 0;
    let error = stream_rows(&path, &mut |number, _: Completion| {
        taken += 1;
        if number < 1 { Ok(()) } else { Err(RecordError::Empty { path: path.clone(), noun: "end" }) }
    });
    assert!(error_of(error).contains("end") && taken == 2);
    assert!(error_of(streamed::<Completion>(&path)).contains("row 2: not JSON"));
}

#[test]
fn prompts_of_any_column() {
    let folder = TempDir::new().unwrap();
    let rows = [
        json!({"instruction": "a", "messages": [{"role": "user", "content": "left"}]}),
        json!({"messages": [{"role": "user", "content": "b"}], "prompt_id": 17}),
        json!({"prompt_ids": [1, 2], "prompt": "left"}),
        json!({"instruction": [{"role": "system", "content": "s"}, {"from": "human", "value": "d"}]}),
    ];
    let text = rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let path = file(&folder, "p.jsonl", text.as_bytes());
    let read = read_prompts(&path, "instruction", OnBadPrompt::Error).unwrap();
    assert_eq!(read.skipped, 0);
    let [a, b, c, d] = &read.prompts[..] else { panic!("{read:?}") };
    assert_eq!((a.prompt_id.as_str(), a.prompt.as_deref(), &a.messages), ("0", Some("a"), &None));
    assert_eq!((b.prompt_id.as_str(), &b.messages), ("17", &Some(vec![Message::user("b")])));
    assert_eq!((c.prompt_id.as_str(), &c.prompt, &c.prompt_ids), ("2", &None, &Some(vec![1, 2])));
    assert_eq!(d.messages, Some(vec![Message::new("system", "s"), Message::user("d")]));
}

#[test]
fn bad_prompts_are_an_error_or_counted() {
    let folder = TempDir::new().unwrap();
    let bad = [
        ("{\"prompt\": \"\"}", "field \"prompt\": expected a text, found an empty string"),
        ("{\"prompt\": 3}", "field \"prompt\": expected a string or an array of messages, found 3"),
        ("{\"text\": \"a\"}", "found only [text]"),
        ("{\"prompt_ids\": []}", "field \"prompt_ids\": expected at least one token id"),
        (
            "{\"prompt_ids\": [-1]}",
            "field \"prompt_ids[0]\": expected an integer from 0 to 4294967295, found -1",
        ),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}",
            "ends before the assistant's turn",
        ),
        ("not json", "not JSON"),
    ];
    let mut all = String::from("{\"prompt\": \"good\"}\n");
    for (row, expected) in bad {
        let path = file(&folder, "p.jsonl", format!("{{\"prompt\": \"good\"}}\n{row}\n").as_bytes());
        let error = error_of(read_prompts(&path, "prompt", OnBadPrompt::Error));
        assert!(error.contains("row 1: ") && error.contains(expected), "{row}: {error}");
        all.push_str(row);
        all.push('\n');
    }
    all.push_str("{\"prompt\": \"last\"}\n");
    let path = file(&folder, "all.jsonl", all.as_bytes());
    let read = read_prompts(&path, "prompt", OnBadPrompt::Skip).unwrap();
    assert_eq!((read.skipped, read.prompts.len()), (bad.len(), 2));
    assert_eq!(read.prompts[1].prompt_id, (bad.len() + 1).to_string());
    let none = file(&folder, "none.jsonl", b"{\"prompt\": \"\"}");
    let error = error_of(read_prompts(&none, "prompt", OnBadPrompt::Skip));
    assert!(error.contains("none of the 1 rows can be used as prompts; row 0: field \"prompt\""), "{error}");
}

#[test]
fn ids_are_unique_in_all_files_of_a_split_and_kept_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let numbered =
        file(&folder, "0.jsonl", b"{\"prompt\": \"a\"}\n{\"prompt\": \"\"}\n{\"prompt\": \"c\"}\n");
    let named = file(&folder, "1.jsonl", b"{\"prompt_id\": 7, \"prompt\": \"d\"}\n{\"prompt\": \"e\"}\n");
    let read = read_prompt_files(&[&numbered, &named], "prompt", OnBadPrompt::Skip).unwrap();
    let ids: Vec<&str> = read.prompts.iter().map(|prompt| prompt.prompt_id.as_str()).collect();
    assert_eq!((ids.as_slice(), read.skipped), (["0", "2", "7", "4"].as_slice(), 1));
    let again = file(
        &folder,
        "2.jsonl",
        b"{\"prompt_id\": \"x\", \"prompt\": \"f\"}\n{\"prompt_id\": \"7\", \"prompt\": \"g\"}\n",
    );
    let error = error_of(read_prompt_files(&[&named, &again], "prompt", OnBadPrompt::Error));
    assert!(error.contains("2.jsonl: row 1") && error.contains("\"7\" again (row 0 of"), "{error}");
    assert!(error.contains("1.jsonl"), "{error}");
}

#[test]
fn other_fields_are_kept() {
    let folder = TempDir::new().unwrap();
    let line = r#"{"text":"a","source":{"page":3},"ids":[1],"score":0.1}"#;
    let path = file(&folder, "t.jsonl", line.as_bytes());
    let rows = read_rows::<TokenRow>(&path).unwrap();
    assert!(rows[0].adds_special_tokens() && !rows[0].adds_generation_prompt());
    for ending in ENDINGS {
        let out = folder.path().join(format!("out.{ending}"));
        write_rows(&out, &rows).unwrap();
        let again = &read_values(&out).unwrap()[0];
        assert_eq!(again["source"]["page"], json!(3));
        assert_eq!(again["score"], json!(0.1));
    }
}

#[test]
fn rows_that_cannot_be_stored_are_no_input_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.parquet");
    let pair = Pair {
        chosen_ids: Some(vec![1]),
        rejected_ids: Some(vec![2]),
        prompt_ids: Some(vec![3]),
        ..Pair::default()
    };
    let error =
        write_rows(&path, &[pair.clone(), Pair { chosen_probs: Some(f64::NAN), ..pair }]).unwrap_err();
    assert!(error.kind() != Kind::Input);
    assert!(error.to_string().contains("row 1: field \"chosen_probs\": expected a finite number"), "{error}");
    let row = |value: Value| TokenRow {
        text: Some("a".into()),
        extra: Map::from_iter([("mixed".to_owned(), value)]),
        ..TokenRow::default()
    };
    assert!(!path.exists());
    let unwritten = write_rows(&folder.path().join("no/such/a.jsonl"), &[row(json!(1))]).unwrap_err();
    assert_eq!(unwritten.kind(), Kind::Machine);
}

#[test]
fn fields_of_mixed_values_are_text_in_parquet_and_large_integers_stay() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("out.parquet");
    let row = |mixed: Value, number: Value| TokenRow {
        text: Some("a".into()),
        extra: Map::from_iter([("mixed".to_owned(), mixed), ("n".to_owned(), number)]),
        ..TokenRow::default()
    };
    let rows =
        [row(json!([1]), json!(u64::MAX)), row(json!({"a": 1}), json!(3)), row(json!("x"), json!(null))];
    write_rows(&path, &rows).unwrap();
    let back = read_values(&path).unwrap();
    let mixed: Vec<&Value> = back.iter().map(|row| &row["mixed"]).collect();
    assert_eq!(mixed, [&json!("[1]"), &json!("{\"a\":1}"), &json!("x")]);
    assert_eq!((&back[0]["n"], &back[1]["n"]), (&json!(u64::MAX), &json!(3)));
    let wide = TokenRow {
        text: Some("a".into()),
        extra: (0..20_000).map(|n| (format!("k{n}"), json!(n))).collect(),
        ..TokenRow::default()
    };
    let error = write_rows(&path, &[wide]).unwrap_err().to_string();
    assert!(error.contains("20001 columns"), "{error}");
}

#[test]
fn parquet_of_others_is_read() {
    let folder = TempDir::new().unwrap();
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parquet/prompts.parquet")).unwrap();
    let path = file(&folder, "other.parquet", &bytes);
    let read = read_prompts(&path, "instruction", OnBadPrompt::Error).unwrap().prompts;
    assert_eq!((read[0].prompt_id.as_str(), read[1].prompt.as_deref()), ("x", Some("b")));
    assert_eq!((&read[0].prompt_ids, &read[1].prompt_ids), (&Some(vec![5, 6]), &None));

    // Damage is an error, never a panic.
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xFF;
        let _ = read_values(&file(&folder, "damaged.parquet", &damaged));
        let _ = read_values(&file(&folder, "cut.parquet", &bytes[..at]));
    }
}

#[test]
fn gzip_of_several_parts_is_read_whole_and_a_cut_one_refused() {
    let folder = TempDir::new().unwrap();
    let part = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let bytes = [part("{\"prompt\": \"a\"}\n"), part("{\"prompt\": \"b\"}\n")].concat();
    assert_eq!(read_rows::<Prompt>(&file(&folder, "a.jsonl.gz", &bytes)).unwrap().len(), 2);
    let cut = file(&folder, "cut.jsonl.gz", &bytes[..bytes.len() - 9]);
    error_of(read_rows::<Prompt>(&cut));
}
