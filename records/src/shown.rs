//! Texts of files as messages and tables show them: control characters visible, long texts cut.
//!
//! A file may hold anything: an escape sequence that renames the terminal's window, a line end followed by what looks
//! like a message of ours, a right-to-left override, sixty megabytes of one letter. [`visible`] is for whole messages and
//! tables at the place where they are printed, [`quoted`] for a text of a file inside a message.

use std::borrow::Cow;
use std::fmt::Write;

/// Characters of a file's text that a message quotes at most.
const MOST_QUOTED: usize = 300;

/// `text` with control characters written as JSON writes them (`\u001b`), which keeps JSON valid. Line ends and tabs,
/// the layout of messages and tables, stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_hidden(character) && !matches!(character, '\n' | '\t'))
}

/// `text` as one line of at most some hundred characters, for a message: line ends are shown as `\n` as well, and the
/// middle of a long text is left out.
pub fn quoted(text: &str) -> String {
    cut(&escaped(&cut(text, MOST_QUOTED), is_hidden), MOST_QUOTED).into_owned()
}

/// At most `most` characters of `text`: its beginning and its end, with the number of those left out between them.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.char_indices().nth(most).is_none() {
        return Cow::Borrowed(text);
    }
    let (head, tail) = (most - most / 4, most / 4);
    let count = text.chars().count();
    let start = text.char_indices().nth(head).map_or(text.len(), |(at, _)| at);
    let end =
        if tail == 0 { text.len() } else { text.char_indices().rev().nth(tail - 1).map_or(0, |(at, _)| at) };
    Cow::Owned(format!(
        "{} … ({} characters left out) … {}",
        &text[..start],
        count - head - tail,
        &text[end..]
    ))
}

/// Characters that move the cursor, change what stands before or after them, or cannot be seen.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

fn escaped(text: &str, hides: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hides) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            character if !hides(character) => out.push(character),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a text cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_layout_stays() {
        assert_eq!(visible("a\u{1b}]0;x\u{7}\n\tb\r"), "a\\u001b]0;x\\u0007\n\tb\\r");
        assert_eq!(
            visible("\u{9b}2J\u{7f}\u{202e}\u{2066}\u{feff}"),
            "\\u009b2J\\u007f\\u202e\\u2066\\ufeff"
        );
        // A tag character lies outside the first plane: two units, as JSON has it.
        assert_eq!(visible("\u{e0041}"), "\\udb40\\udc41");
        // Letters of every script, and what joins an emoji or a Persian word, are no control characters.
        for same in ["Übung 数学 فارسی", "👩\u{200d}🔬", "می\u{200c}خواهم"] {
            assert_eq!(visible(same), same);
        }
        let json = serde_json::to_string("\u{9b}\u{7f}\u{202e}").unwrap();
        assert_eq!(serde_json::from_str::<String>(&visible(&json)).unwrap(), "\u{9b}\u{7f}\u{202e}");
    }

    #[test]
    fn a_quoted_text_is_one_short_line() {
        assert_eq!(quoted("one\nselfplay: all good"), "one\\nselfplay: all good");
        let long = quoted(&"a".repeat(60_000_000));
        assert!(long.chars().count() < 400, "{}", long.len());
        assert!(long.contains("characters left out"), "{long}");
        let hidden = quoted(&"\u{1b}".repeat(5000));
        assert!(hidden.chars().count() < 400 && !hidden.contains('\u{1b}'), "{hidden}");
    }

    #[test]
    fn a_cut_keeps_both_ends() {
        assert_eq!(cut("abcdefgh", 8), "abcdefgh");
        assert_eq!(cut("äbcdefghi", 8), "äbcdef … (1 characters left out) … hi");
        assert_eq!(cut("abcd", 0), " … (4 characters left out) … ");
    }
}
