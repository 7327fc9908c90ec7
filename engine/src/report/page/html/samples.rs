//! Prompts and answers: held-out ones before and after, and those that the policy was trained on, with scores and the pair.

use selfplay_records::shown::cut;

use super::super::charts::NumberForm;
use super::super::escape::escape;
use super::super::model::{HeldOutSample, PageRun, PairRole, ReportPage, SampleAnswer, TrainedSample};

/// Characters of a text at most.
const MOST_CHARACTERS: usize = 1500;
/// Bytes of all texts of a page at most.
const MOST_BYTES: usize = 1_300_000;

/// The section.
pub(super) fn section(page: &ReportPage) -> String {
    let mut room = MOST_BYTES;
    let mut groups = String::new();
    for run in &page.runs {
        groups.push_str(&held_out(run, page.runs.len() > 1, &mut room));
    }
    for run in &page.runs {
        groups.push_str(&trained(run, page.runs.len() > 1, &mut room));
    }
    if groups.is_empty() {
        return String::new();
    }
    format!(
        "<h2 id=\"samples-title\">Samples</h2>\n\
         <p class=\"note\">A selection, spread evenly over all prompts; long texts are cut in the middle, where a note says so.</p>\n\
         <div class=\"search\"><label for=\"search\">Search prompts and answers</label>\n\
         <input id=\"search\" type=\"search\" autocomplete=\"off\"/> <span id=\"found\" role=\"status\"></span></div>\n{groups}"
    )
}

fn held_out(run: &PageRun, is_named: bool, room: &mut usize) -> String {
    let cards = fitting(run.held_out.rows.iter().map(held_out_card), room);
    let after = run.held_out.rows.iter().find_map(|row| row.after.as_ref().map(|(iteration, _)| *iteration));
    let title = match after {
        Some(iteration) => format!("Held-out prompts, before and after iteration {iteration}"),
        None => "Held-out prompts, answered by the starting policy".to_owned(),
    };
    group(&title, run, is_named, &cards, run.held_out.of, "prompts")
}

fn trained(run: &PageRun, is_named: bool, room: &mut usize) -> String {
    let cards = fitting(run.trained.rows.iter().map(trained_card), room);
    group(
        "Prompts that were trained on, with every candidate",
        run,
        is_named,
        &cards,
        run.trained.of,
        "pairs",
    )
}

/// Cards as long as there is room.
fn fitting(cards: impl Iterator<Item = String>, room: &mut usize) -> Vec<String> {
    cards
        .take_while(|card| match room.checked_sub(card.len()) {
            Some(left) => {
                *room = left;
                true
            }
            None => false,
        })
        .collect()
}

fn group(title: &str, run: &PageRun, is_named: bool, cards: &[String], of: usize, noun: &str) -> String {
    if cards.is_empty() {
        return String::new();
    }
    let name = if is_named { format!("{}: ", run.name) } else { String::new() };
    format!(
        "<details class=\"group\" open=\"open\"><summary><b>{}{}</b> <span>{} of {of} {noun}</span></summary>\n{}</details>\n",
        escape(&name),
        escape(title),
        cards.len(),
        cards.concat()
    )
}

fn held_out_card(row: &HeldOutSample) -> String {
    let after = row.after.as_ref().map_or_else(String::new, |(iteration, answer)| {
        let win = row.win.map(|win| format!("P(after ≻ before) {}", NumberForm::Percent.text(win)));
        answer_box(&format!("after iteration {iteration}"), "", answer, win)
    });
    card(
        &row.prompt_id,
        None,
        &row.prompt,
        &format!("<div class=\"two\">{}{after}</div>", answer_box("before", "", &row.before, None)),
    )
}

fn trained_card(row: &TrainedSample) -> String {
    let candidates: String = row
        .candidates
        .iter()
        .map(|one| {
            let (name, class) = match one.role {
                Some(PairRole::Chosen) => ("chosen", "chosen"),
                Some(PairRole::Rejected) => ("rejected", "rejected"),
                None => ("not in the pair", "other"),
            };
            let score = one.probability.map(|score| format!("mean P {}", NumberForm::Percent.text(score)));
            answer_box(name, class, one, score)
        })
        .collect();
    let pair =
        row.probability.map(|share| format!("P(chosen ≻ rejected) {}", NumberForm::Percent.text(share)));
    card(
        &row.prompt_id,
        Some(format!(
            "iteration {}{}",
            row.iteration,
            pair.map_or_else(String::new, |pair| format!(" · {pair}"))
        )),
        &row.prompt,
        &format!("<div class=\"many\">{candidates}</div>"),
    )
}

fn card(prompt_id: &str, note: Option<String>, prompt: &str, answers: &str) -> String {
    format!(
        "<article class=\"sample\"><p class=\"id\">{}{}</p><p class=\"prompt\">{}</p>{answers}</article>\n",
        escape(&cut(prompt_id, 80)),
        note.map_or_else(String::new, |note| format!(" · {}", escape(&note))),
        escape(&cut(prompt, MOST_CHARACTERS))
    )
}

fn answer_box(name: &str, class: &str, answer: &SampleAnswer, score: Option<String>) -> String {
    let mut notes: Vec<String> = Vec::new();
    notes.extend(score);
    notes.extend(
        answer
            .tokens
            .map(|tokens| format!("{tokens} tokens{}", if answer.is_limited { ", cut off" } else { "" })),
    );
    let text = match answer.text.is_empty() {
        true => "<em>empty</em>".to_owned(),
        false => escape(&cut(&answer.text, MOST_CHARACTERS)),
    };
    format!(
        "<div class=\"answer {class}\"><p class=\"who\"><b>{}</b> <span>{}</span></p><p class=\"text\">{text}</p></div>",
        escape(name),
        escape(&notes.join(" · "))
    )
}
