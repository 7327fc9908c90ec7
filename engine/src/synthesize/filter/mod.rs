//! What is left out without asking anyone: unanswered, cut, short, long, the same answers, near duplicates.

mod minhash;

use std::collections::HashSet;

use self::minhash::{NearDuplicates, Shingles};
use super::row::{LeftOut, LeftOutReason, SynthesizedRow};
use super::seeds::Seed;
use crate::recipe::{SynthesisFilter, SynthesisMethod};

/// Rows that stay and rows that don't, each in their order.
#[derive(Debug, Default)]
pub(super) struct Filtered {
    pub(super) kept: Vec<SynthesizedRow>,
    pub(super) left_out: Vec<LeftOut>,
}

/// Applies the filters. Of near duplicates the first stays; requests that were made are held against the seeds too, which
/// come first.
pub(super) fn apply(
    filter: &SynthesisFilter,
    method: SynthesisMethod,
    seeds: &[Seed],
    rows: Vec<SynthesizedRow>,
) -> Filtered {
    let mut filtered = Filtered::default();
    let mut known = NearDuplicates::new(filter.similarity());
    if matches!(method, SynthesisMethod::Examples | SynthesisMethod::EvolInstruct) {
        for seed in seeds {
            known.add(&format!("seed {}", seed.id), Shingles::of(seed.instruction()));
        }
    }
    for row in rows {
        let fault = fault(filter, &row).map(|reason| (reason, refused(&row))).or_else(|| {
            let shingles = Shingles::of(row.instruction());
            match known.find(&shingles) {
                Some(other) => Some((LeftOutReason::NearDuplicate, Some(format!("of {other}")))),
                None => {
                    known.add(&row.id, shingles);
                    None
                }
            }
        });
        match fault {
            None => filtered.kept.push(row),
            Some((reason, detail)) => filtered.left_out.push(LeftOut::new(row, reason, detail)),
        }
    }
    filtered
}

fn refused(row: &SynthesizedRow) -> Option<String> {
    row.answers().find_map(|answer| answer.refused.clone())
}

fn fault(filter: &SynthesisFilter, row: &SynthesizedRow) -> Option<LeftOutReason> {
    if refused(row).is_some() {
        return Some(LeftOutReason::Unanswerable);
    }
    if row.answers().any(|answer| answer.is_cut) {
        return Some(LeftOutReason::Cut);
    }
    let length = |text: &str| text.trim().chars().count();
    let prompt = length(row.instruction());
    let answers: Vec<usize> = row.answers().map(|answer| length(&answer.text)).collect();
    let above = |value: usize, most: Option<usize>| most.is_some_and(|most| value > most);
    if prompt < filter.min_prompt_characters
        || answers.iter().any(|&answer| answer < filter.min_response_characters)
    {
        return Some(LeftOutReason::TooShort);
    }
    if above(prompt, filter.max_prompt_characters)
        || answers.iter().any(|&answer| above(answer, filter.max_response_characters))
    {
        return Some(LeftOutReason::TooLong);
    }
    let texts: HashSet<&str> = row.answers().map(|answer| answer.text.trim()).collect();
    (texts.len() < answers.len()).then_some(LeftOutReason::SameAnswers)
}

#[cfg(test)]
mod tests {
    use selfplay_records::Message;

    use super::super::row::Answer;
    use super::*;

    fn row(id: &str, prompt: &str, response: &str, rejected: Option<&str>) -> SynthesizedRow {
        SynthesizedRow {
            id: id.into(),
            prompt: vec![Message::user(prompt)],
            response: Answer::given(response),
            rejected: rejected.map(Answer::given),
            seed: None,
            reference: None,
        }
    }

    #[test]
    fn each_fault_is_named_and_nothing_is_lost() {
        let filter = SynthesisFilter {
            min_prompt_characters: 3,
            max_response_characters: Some(10),
            ..SynthesisFilter::default()
        };
        let mut cut = row("cut", "name a lake please", "a", None);
        cut.response.is_cut = true;
        let mut refused = row("refused", "name a mountain please", "", None);
        refused.response.refused = Some("too long".into());
        let rows = vec![
            row("good", "name a river please", "Rhine", None),
            row("short", "ab", "Rhine", None),
            row("empty", "name a town please", " \n", None),
            row("long", "name a country please", "Rhine and Danube", None),
            row("same", "name a city please", "Rome", Some("Rome ")),
            row("pair", "name a sea please", "North", Some("East")),
            row("again", "Name a RIVER, please!", "Elbe", None),
            row("seeded", "Name a tree please.", "Oak", None),
            cut,
            refused,
        ];
        let count = rows.len();
        let seed = Seed { id: "7".into(), messages: vec![Message::user("name a tree please")], answer: None };
        let filtered =
            apply(&filter, SynthesisMethod::EvolInstruct, std::slice::from_ref(&seed), rows.clone());
        let kept: Vec<&str> = filtered.kept.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(kept, ["good", "pair"]);
        assert_eq!(kept.len() + filtered.left_out.len(), count);
        let reason =
            |id: &str| filtered.left_out.iter().find(|left| left.row.id == id).map(|left| left.reason);
        for (id, wanted) in [
            ("short", LeftOutReason::TooShort),
            ("empty", LeftOutReason::TooShort),
            ("long", LeftOutReason::TooLong),
            ("same", LeftOutReason::SameAnswers),
            ("again", LeftOutReason::NearDuplicate),
            ("seeded", LeftOutReason::NearDuplicate),
            ("cut", LeftOutReason::Cut),
            ("refused", LeftOutReason::Unanswerable),
        ] {
            assert_eq!(reason(id), Some(wanted), "{id}");
        }
        // A method that answers seeds does not hold its rows against them.
        let filtered = apply(&filter, SynthesisMethod::StrongWeak, &[seed], rows);
        assert!(filtered.kept.iter().any(|row| row.id == "seeded"));
    }
}
