//! A line that a program wrote, as numbers.

use selfplay_records::Candidates;
use selfplay_records::shown::quoted;
use serde_json::{Map, Value};

use crate::logit::logit;

/// How a program judges the K responses of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Judgement {
    /// A reward for each.
    Scores(Vec<f64>),
    /// P(i ≻ j), \[K]\[K]; what stands on the diagonal is not read.
    Table(Vec<Vec<f64>>),
}

impl Judgement {
    /// s(i ≻ j).
    pub(crate) fn score(&self, i: usize, j: usize, tau: f64) -> f64 {
        match self {
            Self::Scores(rewards) => (rewards[i] - rewards[j]) / tau,
            Self::Table(table) => logit((table[i][j] + 1.0 - table[j][i]) / 2.0),
        }
    }

    /// P(0 ≻ 1) as both halves of a table of two have it.
    pub(crate) fn shown(&self) -> Option<[f64; 2]> {
        match self {
            Self::Scores(_) => None,
            Self::Table(table) => Some([table[0][1], 1.0 - table[1][0]]),
        }
    }
}

/// The judgement of a row.
///
/// # Errors
/// What is wrong with the line, and what would be right.
pub(super) fn judgement(line: &[u8], row: &Candidates) -> Result<Judgement, String> {
    let fields = fields(line, row)?;
    of_fields(&fields, row).map_err(|problem| match problem {
        AnswerProblem::Neither(words) => format!("{words}: {}", shown(line)),
        AnswerProblem::Wrong(words) => words,
    })
}

/// The judgement in a server's answer.
///
/// # Errors
/// As [`judgement`].
pub(crate) fn judgement_of(answer: &Value, row: &Candidates) -> Result<Judgement, String> {
    let Value::Object(fields) = answer else { return Err("answered with no JSON object".to_owned()) };
    check_id(fields, row)?;
    let mut fields = fields.clone();
    if !fields.contains_key("scores")
        && let Some(rewards) = fields.remove("rewards")
    {
        fields.insert("scores".to_owned(), rewards);
    }
    of_fields(&fields, row).map_err(|problem| match problem {
        AnswerProblem::Neither(words) | AnswerProblem::Wrong(words) => words,
    })
}

/// What is wrong with an answer's fields.
enum AnswerProblem {
    /// Neither form is there.
    Neither(String),
    /// A form that is wrong.
    Wrong(String),
}

fn of_fields(fields: &Map<String, Value>, row: &Candidates) -> Result<Judgement, AnswerProblem> {
    let k = row.responses.len();
    match (fields.get("scores"), fields.get("table")) {
        (Some(scores), None) => scores_of(scores, k).map(Judgement::Scores).map_err(AnswerProblem::Wrong),
        (None, Some(table)) => table_of(table, k).map(Judgement::Table).map_err(AnswerProblem::Wrong),
        (Some(_), Some(_)) => {
            let words = "answered with both \"scores\" and \"table\"; one of them is wanted";
            Err(AnswerProblem::Wrong(words.to_owned()))
        }
        (None, None) => {
            let words = format!("answered with neither \"scores\": [{k}] nor \"table\": [{k}][{k}]");
            Err(AnswerProblem::Neither(words))
        }
    }
}

/// Which responses of a row are right.
///
/// # Errors
/// As [`judgement`].
pub(super) fn verdicts(line: &[u8], row: &Candidates) -> Result<Vec<bool>, String> {
    let fields = fields(line, row)?;
    let k = row.responses.len();
    let right = fields.get("right").and_then(Value::as_array);
    let verdicts: Option<Vec<bool>> =
        right.filter(|items| items.len() == k).and_then(|items| items.iter().map(Value::as_bool).collect());
    verdicts.ok_or_else(|| {
        format!("answered without \"right\": a list of {k} times true or false: {}", shown(line))
    })
}

fn fields(line: &[u8], row: &Candidates) -> Result<Map<String, Value>, String> {
    let fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(format!("answered with no JSON object: {}", shown(line))),
        Err(error) => {
            let text = String::from_utf8_lossy(line);
            let hint = if ["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
                "; JSON has no NaN and no Infinity, and every score must be a finite number"
            } else {
                ""
            };
            let error = error.to_string().replace(" at line 1 column ", " at column ");
            return Err(format!("answered with no JSON object ({error}{hint}): {}", shown(line)));
        }
    };
    check_id(&fields, row)?;
    Ok(fields)
}

/// That an answer with an id has the row's.
fn check_id(fields: &Map<String, Value>, row: &Candidates) -> Result<(), String> {
    let answered = match fields.get("prompt_id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => return Ok(()),
    };
    if answered != row.prompt.prompt_id {
        return Err(format!(
            "answered prompt_id {:?} in its place; answers are wanted one a row, in the rows' order",
            quoted(&answered)
        ));
    }
    Ok(())
}

fn scores_of(value: &Value, k: usize) -> Result<Vec<f64>, String> {
    let items = list(value, k, "scores")?;
    items.iter().enumerate().map(|(i, item)| number(item, &format!("scores[{i}]"))).collect()
}

fn table_of(value: &Value, k: usize) -> Result<Vec<Vec<f64>>, String> {
    let rows = list(value, k, "table")?;
    let row = |(i, row): (usize, &Value)| -> Result<Vec<f64>, String> {
        let items = list(row, k, &format!("table[{i}]"))?;
        let entry = |(j, item): (usize, &Value)| -> Result<f64, String> {
            if i == j {
                return Ok(0.5);
            }
            let name = format!("table[{i}][{j}]");
            let p = number(item, &name)?;
            if (0.0..=1.0).contains(&p) {
                return Ok(p);
            }
            Err(format!("answered with {name} = {p}; a probability from 0 to 1 is wanted"))
        };
        items.iter().enumerate().map(entry).collect()
    };
    rows.iter().enumerate().map(row).collect()
}

fn list<'a>(value: &'a Value, k: usize, name: &str) -> Result<&'a [Value], String> {
    let found = match value.as_array() {
        Some(items) if items.len() == k => return Ok(items),
        Some(items) => format!("{} numbers", items.len()),
        None => shown(value.to_string().as_bytes()),
    };
    Err(format!("answered with {name} of {found}; a list of {k} is wanted, one for each response"))
}

fn number(value: &Value, name: &str) -> Result<f64, String> {
    match value.as_f64() {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(format!(
            "answered with {name} = {}; a finite number is wanted",
            shown(value.to_string().as_bytes())
        )),
    }
}

/// A line inside a message.
fn shown(line: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(line))
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Prompt, Response};

    use super::*;

    fn row(k: usize) -> Candidates {
        let prompt = Prompt { prompt_id: "p".to_owned(), ..Prompt::default() };
        Candidates { prompt, responses: vec![Response::default(); k] }
    }

    #[test]
    fn scores_and_tables_become_s() {
        let scores = judgement(br#"{"scores": [1, 0.25], "note": "x", "prompt_id": "p"}"#, &row(2)).unwrap();
        assert_eq!(scores.score(0, 1, 1.0), 0.75);
        assert_eq!(scores.score(1, 0, 0.5), -1.5);
        // P = (0.9 + 1 − 0.4)/2 = 0.75, whose logit is ln 3; the diagonal is not read.
        let table = judgement(br#"{"table": [[null, 0.9], [0.4, 7]]}"#, &row(2)).unwrap();
        assert!((table.score(0, 1, 0.1) - 3.0_f64.ln()).abs() < 1e-12);
        assert!((table.score(0, 1, 0.1) + table.score(1, 0, 0.1)).abs() < 1e-12);
        let sure = judgement(br#"{"table": [[0, 1], [0, 0]]}"#, &row(2)).unwrap();
        assert!((sure.score(0, 1, 1.0) - 13.815_509_557_963_774).abs() < 1e-6);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, words) in [
            ("hello", "no JSON object"),
            ("[1, 2]", "no JSON object"),
            ("{\"scores\": [NaN, 1]}", "no NaN"),
            ("{\"scores\": [1e999, 1]}", "out of range"),
            ("{\"scores\": [1]}", "of 1 numbers; a list of 2"),
            ("{\"scores\": [1, 2, 3]}", "of 3 numbers"),
            ("{\"scores\": [1, null]}", "scores[1] = null"),
            ("{\"scores\": [1, \"2\"]}", "scores[1] = \"2\""),
            ("{\"scores\": 1}", "a list of 2"),
            ("{\"table\": [[0, 1.5], [0, 0]]}", "table[0][1] = 1.5"),
            ("{\"table\": [[0, 0.5], [0]]}", "table[1] of 1 numbers"),
            ("{\"table\": [[0, 0.5]]}", "table of 1"),
            ("{\"scores\": [1, 2], \"table\": []}", "both"),
            ("{\"score\": [1, 2]}", "neither \"scores\": [2]"),
            ("{\"scores\": [1, 2], \"prompt_id\": \"q\"}", "answered prompt_id \"q\""),
            ("{\"scores\": [1, 2], \"prompt_id\": 7}", "answered prompt_id \"7\""),
            ("\u{1b}[2J{", "\\u001b"),
        ] {
            let problem = judgement(line.as_bytes(), &row(2)).unwrap_err();
            assert!(problem.contains(words), "{line}: {problem}");
            assert!(!problem.contains('\u{1b}'));
        }
    }

    #[test]
    fn verdicts_are_one_for_each_response() {
        let right = verdicts(br#"{"right": [true, false], "scores": [1, 0]}"#, &row(2)).unwrap();
        assert_eq!(right, [true, false]);
        for line in ["{\"right\": [true]}", "{\"right\": [1, 0]}", "{\"scores\": [1, 0]}"] {
            assert!(verdicts(line.as_bytes(), &row(2)).unwrap_err().contains("a list of 2"), "{line}");
        }
    }
}
