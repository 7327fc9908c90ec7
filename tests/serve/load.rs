//! Many requests, some cancelled and some malformed: none hangs, no page is lost. `tests/by_hand/serve_load.py` does ten
//! thousand of them.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::client::{Server, request};
use crate::world;

#[test]
fn cancelled_and_malformed_requests_leave_nothing_behind() {
    const REQUESTS: usize = 600;
    let world = world();
    let server = Server::start(&world, &["--model", "policy"]);
    let wanted = server.complete(json!({"n": 2})).json()["choices"].clone();
    let (next, cancelled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    match number {
                        REQUESTS.. => return,
                        _ if number % 20 == 0 => {
                            // Left in the middle of an answer.
                            let body = json!({"prompt": "a b", "max_tokens": 60, "n": 8, "ignore_eos": true,
                                              "stream": number % 40 == 0});
                            let headers = [("Content-Type", "application/json")];
                            let mut stream = server.connect();
                            let bytes = request("/v1/completions", &headers, body.to_string().as_bytes());
                            stream.write_all(&bytes).unwrap();
                            if number % 40 == 0 {
                                let _ = stream.read(&mut [0; 64]);
                            }
                            drop(stream);
                            cancelled.fetch_add(1, Ordering::Relaxed);
                        }
                        _ if number % 100 == 1 => {
                            assert_eq!(server.complete(json!({"n": "many"})).status, 400);
                        }
                        _ if number % 7 == 0 => {
                            let same = server.complete(json!({"n": 2})).json();
                            assert_eq!(same["choices"], wanted, "request {number}");
                        }
                        _ => {
                            let reply = server.complete(json!({
                                "n": 1 + number % 3, "seed": number, "max_tokens": 1 + number % 30,
                                "stream": number % 5 == 0,
                            }));
                            assert_eq!(reply.status, 200, "request {number}: {reply:?}");
                        }
                    }
                }
            });
        }
    });
    assert_eq!(cancelled.load(Ordering::Relaxed), REQUESTS / 20);
    server.await_metric("selfplay_model_outstanding", 0);
    server.await_metric("selfplay_model_running", 0);
    server.await_metric("selfplay_model_free_pages", server.metric("selfplay_model_pages"));
    assert!(server.metric("selfplay_model_aborted_total") > 0, "no request was cancelled in its middle");
    assert_eq!(server.end(libc::SIGINT), 130);
}

#[test]
fn a_full_queue_answers_429_and_a_signal_lets_answers_end() {
    let world = world();
    let server = Server::start(&world, &["--model", "policy", "--queue", "2"]);
    let ids: Vec<u32> = (0..40).map(|n| 5 + n % 19).collect();
    let body = json!({"prompt": ids, "max_tokens": 20, "ignore_eos": true, "n": 2});
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = |_| {
            let (server, body) = (&server, &body);
            scope.spawn(move || {
                (0..30).map(|_| server.post("/v1/completions", body).status).collect::<Vec<_>>()
            })
        };
        let asked: Vec<_> = (0..12).map(ask).collect();
        asked.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");

    let headers = [("Content-Type", "application/json")];
    let long = json!({"prompt": "a", "max_tokens": 60, "ignore_eos": true, "n": 2, "stream": true});
    let mut stream = server.connect();
    stream.write_all(&request("/v1/completions", &headers, long.to_string().as_bytes())).unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).unwrap();
    server.signal(libc::SIGTERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("[DONE]"), "an answer in progress ends whole: {rest}");
    assert_eq!(server.end(0), 143);
}
