//! The page from a server, which tells of changes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

/// The answer to a request, as it comes.
fn ask(address: &str, path: &str, host: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    BufReader::new(stream)
}

fn whole(mut answer: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_served_page_is_made_anew_and_its_events_tell_when() {
    let world = super::finished_run(&["--set", "iterations=1"]);
    let mut server =
        world.command(&["report", "out", "--serve", "--port", "0"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{line}");

    let page = whole(ask(&address, "/", &address));
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("data-live=\"events\""), "{page}");
    assert!(page.contains("finished, 1 of 1 iterations"));
    // A name of another's that leads here reads nothing.
    let refused = whole(ask(&address, "/", "elsewhere.example"));
    assert!(refused.starts_with("HTTP/1.1 403") && !refused.contains("<html"), "{refused}");
    assert!(whole(ask(&address, "/etc/passwd", "localhost")).starts_with("HTTP/1.1 404"));

    let events = ask(&address, "/events", "localhost");
    let mut events = events.lines().map(Result::unwrap);
    assert!(events.any(|line| line == "Content-Type: text/event-stream"));
    assert!(events.any(|line| line == "retry: 2000"));
    // The run goes on: another step of its training.
    let metrics = "out/iteration_01/train/metrics.jsonl";
    let mut text = String::from_utf8(world.bytes(metrics)).unwrap();
    let mut last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["step"] = (last["step"].as_u64().unwrap() + 1).into();
    last["loss"] = 12.34375.into();
    text.push_str(&format!("{last}\n"));
    world.write(metrics, &text);
    assert!(events.any(|line| line == "event: change"));
    assert!(whole(ask(&address, "/", "localhost")).contains("12.34375"));
    server.kill().unwrap();
    server.wait().unwrap();
}
