//! Words in lines of a terminal.

/// Characters of a line, as terminals have them at least.
const WIDTH: usize = 80;

/// Lines of at most `width` characters; a longer word has a line of its own.
pub(crate) fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Words in lines of 80 characters, each after `indent` spaces and with a line break.
pub(crate) fn wrapped(words: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    lines(words, WIDTH - indent.min(WIDTH / 2)).iter().map(|line| format!("{margin}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_before_eighty_and_a_longer_word_stands_alone() {
        let text = wrapped(&"word ".repeat(40), 2);
        assert!(text.lines().all(|line| line.starts_with("  word") && line.chars().count() <= 80), "{text}");
        assert_eq!(text.split_whitespace().count(), 40);
        let long = "x".repeat(100);
        assert_eq!(wrapped(&format!("a {long} b"), 0), format!("a\n{long}\nb\n"));
        assert_eq!(wrapped("", 0), "");
    }
}
