//! Names by which a command knows what commands of its kind wrote: it deletes and replaces nothing else.

use selfplay_scorer::{ANSWERS, TRANSCRIPT};

/// The name that an unfinished file or folder will have, `.NAME.tmp-PID`; any other name as it is.
pub(crate) fn finished_name(name: &str) -> &str {
    let unfinished = || {
        let (start, number) = name.strip_prefix('.')?.rsplit_once(".tmp-")?;
        (!number.is_empty() && is_digits(number)).then_some(start)
    };
    unfinished().unwrap_or(name)
}

/// Whether there is nothing but digits.
pub(crate) fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What services answered, and what was computed here question by question: `transcript.jsonl`, `answers.jsonl`, and `transcript_0.jsonl`
/// of an ensemble's member.
pub(crate) fn is_transcript(name: &str) -> bool {
    [TRANSCRIPT, ANSWERS].into_iter().any(|log| {
        let start = log.trim_end_matches(".jsonl");
        let rest = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(".jsonl"));
        let number = rest.and_then(|rest| rest.strip_prefix('_'));
        name == log || number.is_some_and(|digits| !digits.is_empty() && is_digits(digits))
    })
}

/// `STEP-00000.jsonl`: finished answers of a step.
pub(crate) fn is_step_shard(name: &str) -> bool {
    let parts = name.strip_suffix(".jsonl").and_then(|name| name.rsplit_once('-'));
    parts.is_some_and(|(step, digits)| !step.is_empty() && digits.len() >= 5 && is_digits(digits))
}
