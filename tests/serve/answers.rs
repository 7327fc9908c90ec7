//! What a request's answer is: the same bytes whatever else runs, whole or streamed, and what its fields say.

use serde_json::{Value, json};

use super::client::Server;
use crate::world;

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap();
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

/// A streamed completion's texts and ids, choice by choice.
fn streamed(events: &[Value], choices: usize) -> (Vec<String>, Vec<Vec<u64>>) {
    let (mut texts, mut ids) = (vec![String::new(); choices], vec![Vec::new(); choices]);
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["text"].as_str().unwrap());
        let own = choice["token_ids"].as_array().cloned().unwrap_or_default();
        ids[index].extend(own.iter().map(|id| id.as_u64().unwrap()));
    }
    (texts, ids)
}

#[test]
fn answers_are_what_their_fields_say() {
    let world = world();
    let server = Server::start(&world, &["--model", "policy", "--name", "tiny"]);
    assert_eq!(server.get("/health").status, 200);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(models["data"][0]["root"], world.path("policy").canonicalize().unwrap().to_str().unwrap());

    // A seed gives the same bytes, streamed too, and beside others.
    let alone = server.complete(json!({"n": 3})).json();
    assert_eq!(texts(&alone).len(), 3);
    assert_ne!(texts(&alone)[0], texts(&alone)[1]);
    let crowd: Vec<Value> = std::thread::scope(|scope| {
        let ask = |number: usize| {
            let server = &server;
            let others =
                move || server.complete(json!({"prompt": "d e", "seed": number, "max_tokens": 40})).json();
            let same = move || server.complete(json!({"n": 3})).json();
            scope.spawn(move || if number.is_multiple_of(3) { same() } else { others() })
        };
        let asked: Vec<_> = (0..12).map(ask).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for answer in crowd.iter().step_by(3) {
        assert_eq!(answer["choices"], alone["choices"]);
    }
    let stream = server.complete(json!({"n": 3, "stream": true, "stream_options": {"include_usage": true}}));
    let events = stream.events();
    assert!(stream.body.ends_with("data: [DONE]\n\n"), "{}", stream.body);
    let (parts, ids) = streamed(&events, 3);
    assert_eq!(parts, texts(&alone));
    for (choice, ids) in alone["choices"].as_array().unwrap().iter().zip(ids) {
        assert_eq!(choice["token_ids"], json!(ids));
    }
    assert_eq!(events.last().unwrap()["usage"], alone["usage"]);

    // They are the candidates of `selfplay sample` by the same key.
    world.write("one.jsonl", "{\"prompt_id\": \"p\", \"prompt\": \"a b c\"}\n");
    let sets = ["--set", "sample.num_samples=3", "--set", "sample.max_new_tokens=8", "--set", "seed=7"];
    let rules = ["--set", "sample.temperature=1.0", "--set", "sample.top_p=1.0"];
    world.sample("one.jsonl", "out.jsonl", &[sets.as_slice(), rules.as_slice()].concat()).ok();
    let row = world.rows("out.jsonl").remove(0);
    let chat = server.post(
        "/v1/chat/completions",
        &json!({"messages": [{"role": "user", "content": "a b c"}], "n": 3, "max_tokens": 8, "seed": 7, "iteration": 1,
                "prompt_id": "p", "return_token_ids": true}),
    );
    for (choice, response) in
        chat.json()["choices"].as_array().unwrap().iter().zip(row["responses"].as_array().unwrap())
    {
        assert_eq!(choice["token_ids"], response["ids"]);
        assert_eq!(choice["message"]["content"], response["text"]);
    }

    // Echo with log-probs scores the prompt; token ids are the same prompt as their text.
    let scored = server.complete(json!({"echo": true, "max_tokens": 0, "logprobs": 2})).json();
    let found = &scored["choices"][0];
    assert_eq!(found["text"], "a b c");
    assert_eq!(found["finish_reason"], "length");
    assert_eq!(scored["usage"]["completion_tokens"], 0);
    let logprobs = &found["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 3);
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["token_logprobs"][1].as_f64().unwrap() < 0.0);
    let top = logprobs["top_logprobs"][1].as_object().unwrap();
    assert!((2..=3).contains(&top.len()), "{top:?}");
    let ids = found["prompt_token_ids"].clone();
    let both = server
        .complete(json!({"prompt": [ids, ids], "echo": true, "max_tokens": 1, "logprobs": 2, "seed": 7}));
    let both = both.json();
    for choice in both["choices"].as_array().unwrap() {
        let rows = &choice["logprobs"]["token_logprobs"];
        assert_eq!(rows.as_array().unwrap().len(), 4);
        assert_eq!(rows.as_array().unwrap()[..3], logprobs["token_logprobs"].as_array().unwrap()[..]);
    }
    // A response's own log-probs are those of its text, scored as a prompt.
    let drawn = server.complete(json!({"logprobs": 1})).json();
    let drawn = &drawn["choices"][0];
    let all: Vec<Value> = [&drawn["prompt_token_ids"], &drawn["token_ids"]]
        .iter()
        .flat_map(|ids| ids.as_array().unwrap().clone())
        .collect();
    let again = server.complete(json!({"prompt": all, "echo": true, "max_tokens": 0, "logprobs": 1})).json();
    let again = again["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    for (own, scored) in drawn["logprobs"]["token_logprobs"].as_array().unwrap().iter().zip(&again[3..]) {
        assert_eq!(own, scored);
    }

    // Greedy, stop texts, and what a stop leaves out.
    let greedy = server.complete(json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true})).json();
    let text = &texts(&greedy)[0];
    let stop = text.split_whitespace().nth(2).unwrap();
    for stream in [false, true] {
        let reply = server.complete(
            json!({"temperature": 0, "max_tokens": 12, "ignore_eos": true, "stop": [stop], "stream": stream}),
        );
        let got =
            if stream { streamed(&reply.events(), 1).0.remove(0) } else { texts(&reply.json()).remove(0) };
        assert_eq!(got, text[..text.find(stop).unwrap()]);
    }
    server.await_metric("selfplay_model_outstanding", 0);
    server.await_metric("selfplay_model_free_pages", server.metric("selfplay_model_pages"));
    assert_eq!(server.end(libc::SIGINT), 130);
}

#[test]
fn a_wrong_request_is_refused_with_its_field_and_the_server_goes_on() {
    let world = world();
    let server = Server::start(&world, &["--model", "policy", "--max-tokens", "30", "--queue", "20"]);
    for (fields, status, told) in [
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"n": 0}), 400, "n: expected"),
        (json!({"tempratur": 1}), 400, "tempratur"),
        (json!({"logit_bias": {"3": 1}}), 400, "logit_bias"),
        (json!({"presence_penalty": 1}), 400, "presence_penalty"),
        (json!({"prompt": []}), 400, "prompt"),
        (json!({"prompt": [1, 2, 9999]}), 400, "outside the vocabulary"),
        (json!({"prompt": [1, -2]}), 400, "prompt"),
        (json!({"prompt": vec![5; 64]}), 400, "context of 64"),
        (json!({"prompt": ""}), 400, "no tokens"),
        (json!({"stop": [""]}), 400, "stop"),
        (json!({"stop": vec!["x"; 65]}), 400, "stop"),
        (json!({"max_tokens": 31}), 400, "max_tokens"),
        (json!({"n": 21}), 400, "at most 20"),
        (json!({"model": "gpt-4"}), 404, "served are policy"),
        (json!({"best_of": 3}), 400, "best_of"),
    ] {
        let reply = server.complete(fields.clone());
        assert_eq!(reply.status, status, "{fields}: {reply:?}");
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(told), "{fields}: {message}");
    }
    for (messages, told) in [
        (json!([]), "one turn"),
        (json!("hi"), "messages"),
        (json!([{"role": "user"}]), "content"),
        (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "images"),
    ] {
        let reply = server.post("/v1/chat/completions", &json!({"messages": messages}));
        assert_eq!(reply.status, 400, "{messages}: {reply:?}");
        assert!(reply.body.contains(told), "{messages}: {reply:?}");
    }
    assert_eq!(server.get("/nothing").status, 404);
    assert_eq!(server.get("/v1/completions").status, 405);
    assert_eq!(server.complete(json!({})).status, 200);
    assert_eq!(server.end(libc::SIGTERM), 143);
}
