//! A file counts as there when its size and hash are right; troubles that pass are waited for, within bounds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::server::{Hub, Reply, sha256};
use super::{LOGPROBS, Site};

const WEIGHTS: &str = "model.safetensors";

/// Everything that the cache calls a blob has the hash of its name.
#[track_caller]
fn nothing_damaged(site: &Site) {
    for (name, bytes) in site.blobs() {
        assert!(name.ends_with(".incomplete") || name == sha256(&bytes), "{name}");
    }
}

#[test]
fn a_model_of_the_hub_is_fetched_once_and_shared() {
    let site = Site::new();
    let mut files = site.policy();
    files.insert("empty.jinja".to_owned(), Vec::new());
    let hub = Hub::new(files);
    site.logprobs(&hub).ok();
    assert_eq!(site.blobs()[&sha256(b"")], b"");
    let first = std::fs::read(site.world.path("out.jsonl")).unwrap();
    let listings = || hub.requests().iter().filter(|request| request.lists()).count();
    assert_eq!(listings(), 1, "{:?}", hub.requests());
    let asked = hub.requests().len();
    site.logprobs(&hub).ok();
    // main is asked for anew, and the files are there.
    assert_eq!(hub.requests().len(), asked + 1);
    let offline = site.logprobs_with(&hub, &[("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:1")]);
    offline.ok();
    assert_eq!(std::fs::read(site.world.path("out.jsonl")).unwrap(), first);
    let commit = "a".repeat(40);
    assert_eq!(std::fs::read_to_string(site.cached().join("refs/main")).unwrap(), commit);
    let link = std::fs::read_link(site.cached().join("snapshots").join(&commit).join(WEIGHTS)).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../blobs/{}", sha256(&site.policy()[WEIGHTS])));
}

#[test]
fn a_mirror_below_a_path_is_asked_and_nobody_else() {
    let site = Site::new();
    let hub = Hub::new(site.policy());
    let mirror = format!("{}/mirror/", hub.endpoint);
    site.logprobs_with(&hub, &[("HF_ENDPOINT", &mirror)]).ok();
    let requests = hub.requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.mirrored), "{requests:?}");
    assert!(site.blobs().contains_key(&sha256(&site.policy()[WEIGHTS])));
}

#[test]
fn files_that_git_keeps_are_checked_by_git_s_hash() {
    // git hash-object of "{}\n"
    let (good, bad) =
        ("0967ef424bce6791893e9a57bb952f80fd536e93", "0967ef424bce6791893e9a57bb952f80fd536e94");
    for (etag, is_right) in [(good, true), (bad, false)] {
        let site = Site::new();
        let mut files = site.policy();
        files.insert("generation_config.json".to_owned(), b"{}\n".to_vec());
        let hub = Hub::with(files, move |request, reply| {
            if request.path.ends_with("generation_config.json") { reply.header("ETag", etag) } else { reply }
        });
        let outcome = site.logprobs(&hub);
        if is_right {
            outcome.ok();
            assert_eq!(site.blobs()[good], b"{}\n");
        } else {
            outcome.failed(&["came damaged", "generation_config.json", good, bad]);
            assert!(!site.blobs().keys().any(|name| name.starts_with(bad)));
        }
    }
}

#[test]
fn a_cut_download_goes_on_at_its_length() {
    let site = Site::new();
    let hub = Hub::with(site.policy(), |request, reply| {
        let half = reply.body.len() / 2;
        if request.fetches(WEIGHTS) && half > 1000 { Reply { cut: Some(half), ..reply } } else { reply }
    });
    site.logprobs(&hub).ok();
    nothing_damaged(&site);
    let size = site.policy()[WEIGHTS].len();
    let ranges: Vec<_> = hub
        .requests()
        .iter()
        .filter(|request| request.fetches(WEIGHTS))
        .map(|request| request.range.clone())
        .collect();
    assert_eq!(ranges[..2], [None, Some(format!("bytes={}-", size / 2))]);
}

#[test]
fn a_download_that_is_always_cut_is_reported_and_kept() {
    let site = Site::new();
    let hub = Hub::with(site.policy(), |request, reply| {
        // Announced whole, and cut by the connection's end.
        let length = reply.body.len().to_string();
        match request.fetches(WEIGHTS) {
            true if request.range.is_none() => {
                Reply { cut: Some(100), ..reply }.header("Content-Length", length)
            }
            true => Reply { cut: Some(0), ..reply },
            false => reply,
        }
    });
    site.logprobs(&hub).failed(&[WEIGHTS, "try again"]);
    nothing_damaged(&site);
    assert_eq!(site.blobs()[&format!("{}.incomplete", sha256(&site.policy()[WEIGHTS]))].len(), 100);
    // The next command goes on there, and a hub that answers with the whole file is understood.
    let hub = Hub::with(site.policy(), |request, reply| {
        let whole = request.range.as_deref() == Some("bytes=100-");
        if whole { Reply::status(503).header("Retry-After", "1") } else { reply }
    });
    site.logprobs(&hub).failed(&["(503)"]);
    let files = site.policy();
    let hub = Hub::with(site.policy(), move |request, reply| match request.range.as_deref() {
        Some("bytes=100-") => Reply { body: files[WEIGHTS].clone(), ..reply }.whole_file(),
        _ => reply,
    });
    site.logprobs(&hub).ok();
    nothing_damaged(&site);
}

#[test]
fn what_comes_damaged_is_not_kept() {
    type Damage = fn(Reply) -> Reply;
    let damages: [(Damage, &str); 5] = [
        (
            |mut reply| {
                let middle = reply.body.len() / 2;
                reply.body[middle] ^= 1;
                reply
            },
            "hash",
        ),
        (
            |reply| Reply { body: b"<html>Too many requests</html>".to_vec(), ..reply }.whole_file(),
            "30 bytes",
        ),
        (
            |mut reply| {
                reply.body.extend_from_slice(b"more");
                reply.whole_file()
            },
            "bytes, and the hub names",
        ),
        // The length is not announced.
        (
            |mut reply| {
                reply.body.extend_from_slice(b"more");
                Reply { cut: Some(reply.body.len()), ..reply }
            },
            "more than",
        ),
        (|reply| Reply { status: 206, ..reply }.header("Content-Range", "bytes 7-9/10"), "began at byte 7"),
    ];
    for (damage, word) in damages {
        let site = Site::new();
        let hub = Hub::with(
            site.policy(),
            move |request, reply| {
                if request.fetches(WEIGHTS) { damage(reply) } else { reply }
            },
        );
        site.logprobs(&hub).failed(&["came damaged", word]);
        assert!(!site.blobs().keys().any(|name| name.contains(&sha256(&site.policy()[WEIGHTS]))));
        // A hub that works is enough to go on.
        site.logprobs(&Hub::new(site.policy())).ok();
    }
}

#[test]
fn a_part_that_another_program_left_damaged_is_fetched_anew() {
    let site = Site::new();
    let name = format!("{}.incomplete", sha256(&site.policy()[WEIGHTS]));
    std::fs::create_dir_all(site.cached().join("blobs")).unwrap();
    site.world.write(&format!("hf/hub/models--o--n/blobs/{name}"), "not the beginning of these weights");
    site.logprobs(&Hub::new(site.policy())).ok();
    nothing_damaged(&site);
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    let site = Site::new();
    let hub = Hub::with(site.policy(), |request, reply| {
        let stalls = request.fetches(WEIGHTS) && request.range.is_none();
        if stalls { Reply { cut: Some(100), stalls: true, ..reply } } else { reply }
    });
    let outcome = site.logprobs_with(&hub, &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]).ok();
    assert!(outcome.took < Duration::from_secs(15), "{:?}", outcome.took);
    assert!(hub.requests().iter().any(|request| request.range.as_deref() == Some("bytes=100-")));
    nothing_damaged(&site);
}

#[test]
fn the_first_signal_ends_a_download() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let site = Site::new();
        let hub = Hub::with(site.policy(), |request, reply| {
            if request.fetches(WEIGHTS) { Reply { cut: Some(100), stalls: true, ..reply } } else { reply }
        });
        let mut child = site.command(&hub, &LOGPROBS).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while !hub.requests().iter().any(|request| request.fetches(WEIGHTS)) {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
        let sent = Instant::now();
        let kill =
            std::process::Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(status));
        assert!(sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
    }
}

#[test]
fn troubles_that_pass_are_waited_for() {
    for status in [429, 500, 503] {
        let site = Site::new();
        let hub = Hub::with(site.policy(), move |request, reply| {
            let busy = request.time == 1 && (request.lists() || request.path.ends_with("config.json"));
            if busy { Reply::status(status).header("Retry-After", "1") } else { reply }
        });
        site.logprobs(&hub).ok();
    }
}

#[test]
fn a_hub_in_trouble_is_asked_a_few_times_and_told_as_what_it_is() {
    for (status, word) in [(429, "the hub is busy (429): try again later"), (500, "(500)"), (503, "(503)")] {
        let site = Site::new();
        let hub = Hub::with(site.policy(), move |_, _| Reply::status(status).header("Retry-After", "1"));
        let outcome = site.logprobs(&hub).failed(&["o/n", word]);
        assert!(!outcome.stderr.contains("no such folder"), "{}", outcome.stderr);
        assert!((3..=10).contains(&hub.requests().len()), "{}", hub.requests().len());
    }
    // A pause that is longer than anyone waits is not waited for.
    let site = Site::new();
    let hub = Hub::with(site.policy(), |_, _| Reply::status(429).header("Retry-After", "86400"));
    let outcome = site.logprobs(&hub).failed(&["(429)"]);
    assert!(outcome.took < Duration::from_secs(5));
    let outcome = site.logprobs_with(&hub, &[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    outcome.failed(&["http://127.0.0.1:1 cannot be reached", "connection refused"]);
}

#[test]
fn what_the_hub_does_not_have_is_the_user_s_matter() {
    for status in [401, 403, 404] {
        let site = Site::new();
        let hub = Hub::with(site.policy(), move |_, _| Reply::status(status));
        site.logprobs(&hub).refused(&["o/n", &format!("({status})"), "HF_TOKEN"]);
        assert_eq!(hub.requests().len(), 1);
    }
}

#[test]
fn a_second_process_waits_for_the_first() {
    let site = Site::new();
    static FREE: AtomicBool = AtomicBool::new(false);
    let hub = Hub::with(site.policy(), |request, reply| {
        while request.fetches(WEIGHTS) && !FREE.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        reply
    });
    let mut first = site.command(&hub, &LOGPROBS).spawn().unwrap();
    let started = Instant::now();
    while !hub.requests().iter().any(|request| request.fetches(WEIGHTS)) {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut arguments = LOGPROBS;
    arguments[6] = "second.jsonl";
    let mut second = site.command(&hub, &arguments).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(second.try_wait().unwrap().is_none());
    FREE.store(true, Ordering::SeqCst);
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    assert_eq!(hub.requests().iter().filter(|request| request.fetches(WEIGHTS)).count(), 1);
}

impl Reply {
    /// With the status of a whole file.
    fn whole_file(mut self) -> Self {
        self.status = 200;
        self.headers.retain(|(name, _)| name != "Content-Range");
        self
    }
}
