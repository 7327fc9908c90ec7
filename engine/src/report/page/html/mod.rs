//! The page around the charts: one file of HTML, in which style and script stand.
//!
//! ```text
//! overview   what was gained, run by run      curves          over iterations and steps
//! samples    prompts and answers              distributions   lengths and scores of candidates
//! settings   keys, machine, time and memory
//! page.css, page.js                           table      a table that scrolls by itself where it is wide
//! ```

mod curves;
mod distributions;
mod overview;
mod samples;
mod settings;
mod table;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::escape::escape;
use super::model::ReportPage;

/// What tells a page of ours from another file.
pub(crate) const GENERATOR: &str = "<meta name=\"generator\" content=\"selfplay report";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Colours that the style has for runs and stages.
const COLOURS: usize = 7;

/// The page; `is_live` where a server gives it and tells of changes.
pub(crate) fn render(page: &ReportPage, is_live: bool) -> String {
    let sections = sections(page);
    let names: Vec<&str> = page.runs.iter().map(|run| run.name.as_str()).collect();
    let title = format!("{} · selfplay", names.join(", "));
    let live = if is_live { " data-live=\"events\"" } else { "" };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         {GENERATOR} {}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\"/>\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body{live}>\n\
         <a class=\"skip\" href=\"#main\">To the content</a>\n{}\
         <main id=\"main\">\n{}</main>\n\
         <footer><p>Made by selfplay {}. The page holds everything that it shows and asks no server for anything.</p></footer>\n\
         <div id=\"tip\" role=\"status\" aria-live=\"polite\" hidden=\"hidden\"></div>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        policy(is_live),
        escape(&title),
        header(page, &sections),
        body(&sections),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The page's own style and script, and nothing else; a live page may ask the server that it came from.
fn policy(is_live: bool) -> String {
    let hash = |text: &str| format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())));
    let connect = if is_live { "&#39;self&#39;" } else { "&#39;none&#39;" };
    format!(
        "default-src &#39;none&#39;; style-src &#39;{}&#39;; script-src &#39;{}&#39;; connect-src {connect}; base-uri &#39;none&#39;; form-action &#39;none&#39;",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// The places of the page, and which colour is which run.
fn header(page: &ReportPage, sections: &[(&str, String)]) -> String {
    let places = [
        ("overview", "Overview"),
        ("iterations", "Iterations"),
        ("training", "Training"),
        ("distributions", "Distributions"),
        ("samples", "Samples"),
        ("cost", "Time and memory"),
        ("settings", "Settings"),
    ];
    let links: String = places
        .iter()
        .filter(|(id, _)| sections.iter().any(|(present, _)| present == id))
        .map(|(id, name)| format!("<li><a href=\"#{id}\">{name}</a></li>"))
        .collect();
    let runs: String = page
        .runs
        .iter()
        .enumerate()
        .map(|(number, run)| {
            let state = if run.is_finished { "done" } else { "open" };
            format!(
                "<li><svg viewBox=\"0 0 12 12\" class=\"key\" aria-hidden=\"true\"><rect class=\"part f{}\" width=\"12\" height=\"12\"/></svg>\
                 <b>{}</b> <span class=\"state {state}\">{}</span> <code>{}</code></li>\n",
                number % COLOURS,
                escape(&run.name),
                escape(&run.state),
                escape(&run.directory)
            )
        })
        .collect();
    format!(
        "<header>\n<h1>selfplay <span>report</span></h1>\n<ul class=\"runs\">{runs}</ul>\n\
         <nav aria-label=\"Places of this page\"><ul>{links}</ul></nav>\n</header>\n"
    )
}

/// The sections that have something to tell.
fn sections(page: &ReportPage) -> Vec<(&'static str, String)> {
    let all = [
        ("overview", overview::section(page)),
        ("iterations", curves::iterations(page)),
        ("training", curves::training(page)),
        ("distributions", distributions::section(page)),
        ("samples", samples::section(page)),
        ("cost", settings::cost(page)),
        ("settings", settings::section(page)),
    ];
    all.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

fn body(sections: &[(&str, String)]) -> String {
    let section = |(id, text): &(&str, String)| {
        format!("<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n{text}</section>\n")
    };
    sections.iter().map(section).collect()
}

#[cfg(test)]
mod tests;
