//! What a server sends is data: no path, no secret, no other commit's file comes of it.

use std::collections::BTreeMap;

use selfplay_testing::Outcome;
use serde_json::json;

use super::server::{Hub, Reply};
use super::{Site, names_below};

#[test]
fn an_etag_is_a_hash_or_is_refused() {
    for etag in ["PRECIOUS", "../../../../precious", "aaaa", "", "..", &"A".repeat(64)] {
        let site = Site::new();
        site.world.write("precious", "mine");
        let etag = etag.replace("PRECIOUS", site.world.path("precious").to_str().unwrap());
        let hub = Hub::with(site.policy(), move |request, reply| {
            if request.lists() { reply } else { reply.header("ETag", format!("\"{etag}\"")) }
        });
        site.logprobs(&hub).failed(&["ETag", "hash"]);
        assert_eq!(std::fs::read_to_string(site.world.path("precious")).unwrap(), "mine");
        assert!(names_below(&site.world.path("hf")).is_empty(), "{:?}", names_below(&site.world.path("hf")));
    }
}

#[test]
fn a_commit_is_a_hash_and_the_listing_s_or_is_refused() {
    for commit in ["../../../../outside", "main", "", &"b".repeat(40)] {
        let site = Site::new();
        let header = commit.to_owned();
        let hub = Hub::with(site.policy(), move |request, reply| {
            if request.lists() { reply } else { reply.header("X-Repo-Commit", header.clone()) }
        });
        site.logprobs(&hub).failed(&["commit"]);
        assert!(names_below(&site.world.path("hf")).is_empty() && !site.world.path("outside").exists());

        let sha = commit.to_owned();
        let hub = Hub::with(site.policy(), move |request, reply| match request.lists() {
            true if sha != "b".repeat(40) => Reply {
                body: json!({"sha": sha, "siblings": [{"rfilename": "config.json"}]})
                    .to_string()
                    .into_bytes(),
                ..reply
            },
            true => Reply { body: b"<html>".to_vec(), ..reply },
            false => reply,
        });
        site.logprobs(&hub).failed(&["listing"]);
        assert!(names_below(&site.world.path("hf")).is_empty() && !site.world.path("outside").exists());
    }
}

#[test]
fn a_name_of_the_listing_leads_nowhere_else() {
    let rows = b"{\"prompt\": \"a b\"}\n".to_vec();
    for name in [
        "../../../../../train.jsonl",
        "/tmp/x/train.jsonl",
        "a\\..\\train/b.jsonl",
        "train\u{1b}/train.jsonl",
        "a//train.jsonl",
    ] {
        let site = Site::new();
        site.world.write("recipe.toml", &site.world.recipe().replace("prompts.jsonl", "hf://datasets/o/d"));
        let before = site.world.names();
        let hub = Hub::new(BTreeMap::from([(name.to_owned(), rows.clone())]));
        let outcome = Outcome::of(&mut site.command(&hub, &["run", "recipe.toml", "-o", "run"]));
        let outcome = outcome.failed(&["file name", "o/d"]);
        assert!(!outcome.stderr.contains('\u{1b}'), "{}", outcome.stderr);
        assert_eq!(site.world.names(), before, "{name}");
    }
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let site = Site::new();
    let other = Hub::new(site.policy());
    let cdn = other.endpoint.clone();
    let hub = Hub::with(site.policy(), move |request, reply| {
        if request.lists() {
            return reply;
        }
        let name = request.path.rsplit('/').next().unwrap();
        let etag = reply.headers.iter().find(|(name, _)| name == "ETag").unwrap().1.clone();
        Reply { body: Vec::new(), ..reply }
            .with_status(302)
            .header("X-Linked-Etag", etag)
            .header("Location", format!("{cdn}/cdn/{name}"))
    });
    site.logprobs_with(&hub, &[("HF_TOKEN", "secret-token\n")]).ok();
    assert!(
        hub.requests().iter().all(|request| request.authorization.as_deref() == Some("Bearer secret-token"))
    );
    assert!(!other.requests().is_empty());
    assert!(other.requests().iter().all(|request| request.authorization.is_none()));
}

#[test]
fn the_token_follows_redirects_on_the_hub_itself() {
    let site = Site::new();
    let hub = Hub::with(site.policy(), |request, reply| {
        if request.path.starts_with("/o/n/") {
            let moved = request.path.replacen("/o/n/", "/moved/n/", 1);
            return Reply::status(307).header("Location", moved);
        }
        reply
    });
    site.logprobs_with(&hub, &[("HF_TOKEN", "secret-token")]).ok();
    assert!(hub.requests().iter().any(|request| request.path.starts_with("/moved/")));
    assert!(hub.requests().iter().all(|request| request.authorization.is_some()));
}

#[test]
fn the_token_file_is_read_as_everywhere() {
    let site = Site::new();
    std::fs::create_dir(site.world.path("hf")).unwrap();
    site.world.write("hf/token", "of-the-file\n");
    let hub = Hub::new(site.policy());
    site.logprobs(&hub).ok();
    assert_eq!(hub.requests()[0].authorization.as_deref(), Some("Bearer of-the-file"));
}

#[test]
fn no_message_holds_a_secret() {
    let site = Site::new();
    let hub = Hub::new(site.policy());
    site.logprobs_with(&hub, &[("HF_TOKEN", "secret-token\r")]).ok();
    let outcome = site.logprobs_with(&hub, &[("HF_TOKEN", "secret-tokené")]);
    assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);
    outcome.refused(&["HF_TOKEN", "character that no token has"]);
    for endpoint in ["http://user:pass-word@127.0.0.1:1", "http://user:pass-word@:x", "user:pass-word@host"] {
        let outcome = site.logprobs_with(&hub, &[("HF_ENDPOINT", endpoint), ("SELFPLAY_LOG", "trace")]);
        assert!(matches!(outcome.status, Some(1 | 2)), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("pass-word"), "{}", outcome.stderr);
    }
}

#[test]
fn a_redirect_that_leads_nowhere_is_reported() {
    for location in [None, Some("file:///etc/passwd"), Some("http://a\\b/"), Some("")] {
        let site = Site::new();
        let hub = Hub::with(site.policy(), move |request, reply| {
            if request.lists() {
                return reply;
            }
            let reply = Reply { body: Vec::new(), ..reply }.with_status(302);
            match location {
                Some(location) => reply.header("Location", location),
                None => reply,
            }
        });
        site.logprobs(&hub).failed(&["redirect (302)"]);
    }
    let site = Site::new();
    let hub =
        Hub::with(site.policy(), |request, _| Reply::status(302).header("Location", request.path.clone()));
    site.logprobs(&hub).failed(&["redirects"]);
    assert!(hub.requests().len() < 20);
}

impl Reply {
    fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}
