//! Clients that mean harm: they get a 4xx or are closed, and others are served meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Server, parse, request};
use crate::world;

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

#[test]
fn hostile_clients_are_refused_and_others_are_served() {
    let world = world();
    let limits = ["--read-timeout", "2", "--connections", "60", "--max-body", "1"];
    let server = Server::start(&world, &[["--model", "policy"].as_slice(), &limits].concat());
    let served = || assert_eq!(server.complete(json!({})).status, 200);
    served();

    // Bodies: too long, of another kind, no JSON, no UTF-8, too deep.
    let path = "/v1/completions";
    let mut claims =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n").into_bytes();
    claims.extend_from_slice(b"Content-Length: 104857600\r\n\r\n{\"prompt\": \"");
    assert_eq!(parse(&server.raw(&claims)).status, 413, "refused by its length, before it is sent");
    let endless = [
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n").as_bytes(),
        b"Transfer-Encoding: chunked\r\n\r\n",
        &b"10000\r\n".iter().copied().chain([b'a'; 0x10000]).chain(*b"\r\n").collect::<Vec<u8>>().repeat(40),
    ]
    .concat();
    let answer = parse(&server.raw(&endless));
    assert!(answer.status == 413 || answer.status == 0, "{answer:?}");
    let body = json!({"prompt": "a"}).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        assert_eq!(server.post_with(path, &[("Content-Type", kind)], body.as_bytes()).status, 415, "{kind}");
    }
    for body in
        [&b"\xff\xfe{"[..], b"{\"prompt\": \"\xc3\x28\"}", b"", b"nul\0l", b"{\"prompt\": \"\\ud800\"}"]
    {
        assert_eq!(server.post_with(path, &JSON, body).status, 400, "{body:?}");
    }
    let deep = [&b"{\"prompt\":"[..], "[".repeat(100_000).as_bytes(), b"}"].concat();
    assert_eq!(server.post_with(path, &JSON, &deep).status, 400);
    served();

    // Heads: too many lines, too long, no HTTP.
    let bomb: String = (0..5000).map(|n| format!("X-{n}: y\r\n")).collect();
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{bomb}\r\n");
    let status = parse(&server.raw(head.as_bytes())).status;
    assert!(status == 431 || status == 0, "{status}");
    let long = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let status = parse(&server.raw(long.as_bytes())).status;
    assert!(status == 431 || status == 0, "{status}");
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"SELECT 1;\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let status = parse(&server.raw(bytes)).status;
        assert!(status == 400 || status == 0 || status == 505, "{status}");
    }
    // Two lengths are two readings of one request.
    let smuggled =
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\n{}{}";
    assert_eq!(parse(&server.raw(smuggled)).status, 400);
    served();

    // Slow heads and bodies end by their time; a head that comes byte by byte too.
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..10).map(|_| server.connect()).collect();
    let whole = request(path, &JSON, body.as_bytes());
    for (number, stream) in slow.iter_mut().enumerate() {
        let part = if number % 2 == 0 { 20 } else { whole.len() - 3 };
        stream.write_all(&whole[..part]).unwrap();
    }
    served();
    for (number, stream) in slow.iter_mut().enumerate() {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let status = parse(&answer).status;
        assert!(status == 408 || (number % 2 == 0 && status == 0), "{number}: {status}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    served();

    // More connections than there are places: those beyond are closed, and places come back.
    let crowd: Vec<TcpStream> = (0..300).filter_map(|_| TcpStream::connect(server.address).ok()).collect();
    std::thread::sleep(Duration::from_millis(500));
    drop(crowd);
    server_recovers(&server);
    assert!(server.metric("selfplay_refused_connections_total") > 100);
    served();
    assert_eq!(server.end(libc::SIGTERM), 143);
}

fn server_recovers(server: &Server) {
    let until = Instant::now() + Duration::from_secs(20);
    while server.get("/health").status != 200 {
        assert!(Instant::now() < until, "the server is not back");
        std::thread::sleep(Duration::from_millis(50));
    }
}
