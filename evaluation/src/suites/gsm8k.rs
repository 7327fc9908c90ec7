//! GSM8K (arXiv 2110.14168) as lm-eval's task `gsm8k` scores it: eight-grade word problems, a few solved ones before each.
//!
//! **strict-match** reads the number behind the first `####`; **flexible-extract** the last thing that looks like a number. Both are compared
//! with the row's answer after commas, dollar signs, all up to `#### ` and a last period are taken out, and letters are made small.

use std::path::Path;

use selfplay_records::{FieldProblem, RecordError};

use super::data_row::DataRow;
use super::table_file::read_table;
use super::{fields, pattern};

/// Solved problems before each, where nothing else is said.
pub const FEWSHOT: usize = 5;
/// Tokens of an answer at most: lm-eval's own default.
pub const MAX_NEW_TOKENS: usize = 256;
/// What ends an answer.
pub const STOP: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];

/// What stands for a number that is not there.
const INVALID: &str = "[invalid]";

/// A problem with its solution, whose last line is `#### NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MathProblem {
    /// The problem.
    pub question: String,
    /// The solution.
    pub answer: String,
}

/// What was read out of a text, and whether it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtractedNumber {
    /// `[invalid]` where there is none.
    pub text: String,
    /// Whether it is the problem's answer.
    pub is_right: bool,
}

/// Reads `question` and `answer`.
///
/// # Errors
/// A file that does not read, a row without one of them.
pub fn read(path: &Path) -> Result<Vec<MathProblem>, RecordError> {
    let rows = read_table(path)?;
    let problem = |row: &DataRow| -> Result<MathProblem, FieldProblem> {
        let text = |name| fields::text(row, name).map(str::to_owned);
        Ok(MathProblem { question: text("question")?, answer: text("answer")? })
    };
    let read = |(number, row): (usize, &DataRow)| {
        problem(row).map_err(|problem| RecordError::Field { path: path.to_path_buf(), row: number, problem })
    };
    rows.iter().enumerate().map(read).collect()
}

/// The text that the model goes on from.
pub fn context(examples: &[&MathProblem], problem: &MathProblem) -> String {
    let solved = examples.iter().map(|one| format!("Question: {}\nAnswer: {}\n\n", one.question, one.answer));
    format!("{}Question: {}\nAnswer:", solved.collect::<String>(), problem.question)
}

/// The number behind `####`.
pub fn strict_match(text: &str, answer: &str) -> ExtractedNumber {
    let found = pattern::constant(r"#### (\-?[0-9\.\,]+)").and_then(|regex| {
        let captures = regex.captures(text).ok().flatten()?;
        captures.get(1).map(|number| number.as_str().trim().to_owned())
    });
    compared(found, answer)
}

/// The last thing that looks like a number.
pub fn flexible_extract(text: &str, answer: &str) -> ExtractedNumber {
    let found = pattern::find_all(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text);
    compared(found.last().map(|number| number.trim().to_owned()), answer)
}

fn compared(found: Option<String>, answer: &str) -> ExtractedNumber {
    let text = found.unwrap_or_else(|| INVALID.to_owned());
    let is_right = bare(&text) == bare(answer);
    ExtractedNumber { text, is_right }
}

/// A number without what does not matter of it.
fn bare(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = text.rfind("#### ").map_or(text.as_str(), |place| &text[place + 5..]);
    // Before a last line feed too, as Python's `$` is.
    let text = match text.strip_suffix('\n') {
        Some(line) if line.ends_with('.') => format!("{}\n", &line[..line.len() - 1]),
        _ => text.strip_suffix('.').unwrap_or(text).to_owned(),
    };
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_readings_differ_where_the_form_is_not_kept() {
        let answer = "She has 3 + 4 = <<3+4=7>>7 apples.\n#### 1,007";
        let of = |text: &str| (strict_match(text, answer).is_right, flexible_extract(text, answer).is_right);
        assert_eq!(of("so\n#### 1007"), (true, true));
        assert_eq!(of("#### 1,007. More: 12"), (true, false));
        assert_eq!(of("It is $1,007."), (false, true));
        assert_eq!(of("no number"), (false, false));
        assert_eq!(strict_match("none", answer).text, INVALID);
        assert_eq!(flexible_extract("a 5 b -3", "x\n#### -3").text, "-3");
    }

    #[test]
    fn examples_stand_before_the_problem() {
        let one = MathProblem { question: "1+1?".into(), answer: "#### 2".into() };
        let two = MathProblem { question: "2+2?".into(), answer: "#### 4".into() };
        assert_eq!(context(&[&one], &two), "Question: 1+1?\nAnswer: #### 2\n\nQuestion: 2+2?\nAnswer:");
    }
}
