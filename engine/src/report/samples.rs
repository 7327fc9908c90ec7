//! `selfplay show --samples N`: held-out prompts, the starting policy's answer beside the newest policy's.

use selfplay_records::shown::{quoted, visible};
use selfplay_records::{Candidates, Prompt, read_rows};

use crate::error::EngineError;
use crate::run::dir::RunDir;

/// Characters of one of the two columns: both fit 80, with what stands between.
const COLUMN: usize = 38;

/// The first `count` held-out prompts, before and after.
///
/// # Errors
/// When the run has no answers yet, or a file does not read.
pub fn side_by_side(run: &RunDir, iterations: usize, count: usize) -> Result<String, EngineError> {
    let done: Vec<usize> =
        (0..=iterations).filter(|number| run.evaluation(*number).samples_file().is_file()).collect();
    let (Some(&before), Some(&after)) = (done.first(), done.last()) else {
        let problem = format!(
            "{}: no held-out answers yet; a run that has evaluated its start is wanted",
            run.root().display()
        );
        return Err(EngineError::Input(problem));
    };
    let old: Vec<Candidates> = read_rows(&run.evaluation(before).samples_file())?;
    let new: Vec<Candidates> = read_rows(&run.evaluation(after).samples_file())?;
    let title = |number: usize| if number == 0 { "start".to_owned() } else { format!("iteration {number}") };
    let mut text = String::new();
    for (old, new) in old.iter().zip(&new).take(count) {
        let id = quoted(&old.prompt.prompt_id);
        text.push_str(&format!("── prompt {id}: {}\n", visible(&question(&old.prompt))));
        text.push_str(&beside(&title(before), &title(after)));
        let answer = |row: &Candidates| row.responses.first().map(|one| one.text.clone()).unwrap_or_default();
        text.push_str(&beside(&answer(old), &answer(new)));
        text.push('\n');
    }
    Ok(text)
}

/// The prompt's text; the last turn of a conversation.
pub(super) fn question(prompt: &Prompt) -> String {
    let last =
        prompt.messages.as_ref().and_then(|messages| messages.last()).map(|message| message.content.clone());
    prompt.prompt.clone().or(last).unwrap_or_else(|| "(token ids only)".to_owned())
}

/// Two texts in two columns.
fn beside(left: &str, right: &str) -> String {
    let (left, right) = (wrap(left), wrap(right));
    let empty = String::new();
    let mut text = String::new();
    for line in 0..left.len().max(right.len()) {
        let (one, other) = (left.get(line).unwrap_or(&empty), right.get(line).unwrap_or(&empty));
        let padding = " ".repeat(COLUMN.saturating_sub(one.chars().count()));
        text.push_str(format!("{one}{padding} │ {other}").trim_end());
        text.push('\n');
    }
    text
}

/// Lines of at most [`COLUMN`] characters, broken at white space where there is any.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    // Shown as it is printed, so that the columns stand.
    let text = visible(text).replace('\t', "    ");
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_inclusive(' ') {
            for piece in pieces(word) {
                if line.chars().count() + piece.trim_end().chars().count() > COLUMN {
                    lines.push(std::mem::take(&mut line).trim_end().to_owned());
                }
                line.push_str(&piece);
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// A word longer than a column is cut.
fn pieces(word: &str) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    characters.chunks(COLUMN).map(|piece| piece.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_wrap_and_keep_every_word() {
        let text = "word ".repeat(40) + &"x".repeat(130);
        let lines = wrap(&text);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMN));
        let joined: String = lines.concat().chars().filter(|c| !c.is_whitespace()).collect();
        assert_eq!(joined, text.chars().filter(|c| !c.is_whitespace()).collect::<String>());
        assert_eq!(wrap("a\n\nb"), ["a", "", "b"]);
        assert_eq!(wrap("a\u{1b}[2J\tb"), ["a\\u001b[2J    b"]);
    }

    #[test]
    fn columns_stand_beside_each_other() {
        let text = beside("one", "two\nthree");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("one") && lines[0].ends_with("│ two"));
        assert_eq!(lines[0].find('│'), lines[1].find('│'));
    }
}
