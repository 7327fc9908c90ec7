//! The same held-out prompts, answered by the starting policy and by the newest.

use std::collections::HashMap;

use selfplay_records::{Candidates, read_rows};

use super::super::super::samples::question;
use super::super::model::{HeldOutSample, SampleAnswer, SampleTable};
use super::candidates::answer;
use crate::error::EngineError;
use crate::json_file::read_json;
use crate::run::dir::RunDir;
use crate::run::summary::EvaluationWins;

/// `count` of the prompts, spread evenly over them.
///
/// # Errors
/// A file that does not read.
pub(super) fn read(
    run: &RunDir,
    iterations: usize,
    count: usize,
) -> Result<SampleTable<HeldOutSample>, EngineError> {
    let start = run.start().samples_file();
    if !start.is_file() {
        return Ok(SampleTable::default());
    }
    let before: Vec<Candidates> = read_rows(&start)?;
    let newest = (1..=iterations).rev().find(|number| run.evaluation(*number).samples_file().is_file());
    let after: Vec<Candidates> = match newest {
        Some(number) => read_rows(&run.evaluation(number).samples_file())?,
        None => Vec::new(),
    };
    let wins = match newest.map(|number| run.evaluation(number).wins_file()) {
        Some(file) if file.is_file() => read_json::<EvaluationWins>(&file)?.first,
        _ => Vec::new(),
    };
    let wins = wins_by_prompt(&after, &before, &wins);
    let answered: HashMap<&str, &Candidates> =
        after.iter().map(|row| (row.prompt.prompt_id.as_str(), row)).collect();
    let (of, shown) = (before.len(), count.min(before.len()));
    let first = |row: &Candidates| row.responses.first().map_or_else(SampleAnswer::default, answer);
    let rows = (0..shown).map(|place| {
        let row = &before[place * of / shown];
        let id = row.prompt.prompt_id.as_str();
        HeldOutSample {
            prompt_id: id.to_owned(),
            prompt: question(&row.prompt),
            before: first(row),
            after: newest.zip(answered.get(id).map(|row| first(row))),
            win: wins.get(id).copied(),
        }
    });
    Ok(SampleTable { rows: rows.collect(), of })
}

/// P(the first new answer ≻ the first old one) of each prompt: `wins` has one for each contest, as `evaluate` makes them.
fn wins_by_prompt<'a>(new: &'a [Candidates], old: &[Candidates], wins: &[f64]) -> HashMap<&'a str, f64> {
    let mut found = HashMap::new();
    let mut at = 0;
    for (new, old) in new.iter().zip(old).filter(|(new, old)| new.prompt.prompt_id == old.prompt.prompt_id) {
        if let Some(&win) = wins.get(at) {
            found.insert(new.prompt.prompt_id.as_str(), win);
        }
        at += new.responses.len().min(old.responses.len());
    }
    // Another number of contests: the file is of other answers.
    if at == wins.len() { found } else { HashMap::new() }
}
