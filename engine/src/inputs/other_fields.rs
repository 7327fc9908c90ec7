//! The other fields of a prompt's row, for programs of the user's that are given them. Files of candidates in a run don't have them:
//! they are taken from the prompts again.

use std::collections::HashMap;

use selfplay_records::{Candidates, Prompt};

/// Gives candidates that were read from disk the other fields of the prompts that they answer.
pub(crate) fn take_up(rows: &mut [Candidates], prompts: &[Prompt]) {
    let with_others = prompts.iter().filter(|prompt| prompt.others.is_some());
    let known: HashMap<&str, &Prompt> =
        with_others.map(|prompt| (prompt.prompt_id.as_str(), prompt)).collect();
    if known.is_empty() {
        return;
    }
    for row in rows {
        if let Some(prompt) = known.get(row.prompt.prompt_id.as_str()) {
            row.prompt.others.clone_from(&prompt.others);
        }
    }
}
