//! Which prompts an iteration trains on, and which are held out for measuring.
//!
//! With `eval.prompts` the held-out prompts are that file's. Without it they are `eval.max_prompts` of the **first**
//! split (at most a fifth of it), so that every iteration is measured on the same prompts; they are chosen by a hash
//! of their content, whatever the seed. Held-out prompts are kept out of every split by content, before
//! `prompts.max_prompts` takes the first of the rest.

use std::collections::BTreeSet;

use selfplay_records::Prompt;
use sha2::{Digest, Sha256};

/// Of a split, at most one in this many prompts is held out.
const HELD_OUT_SHARE: usize = 5;

/// A prompt's content, whatever its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// Of the token ids where the prompt has them (they win over text), else of its conversation.
    pub fn of(prompt: &Prompt) -> Self {
        let mut hasher = Sha256::new();
        if let Some(ids) = &prompt.prompt_ids {
            hasher.update(b"ids");
            ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        } else if let Some(messages) = &prompt.messages {
            for message in messages {
                for part in [&message.role, &message.content] {
                    hasher.update((part.len() as u64).to_le_bytes());
                    hasher.update(part.as_bytes());
                }
            }
        } else if let Some(text) = &prompt.prompt {
            // A prompt string is one user message.
            for part in ["user", text.as_str()] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        Self(hasher.finalize().into())
    }
}

/// Prompts of the first split to hold out where the recipe names none, in the split's order.
pub fn hold_out(split: &[Prompt], wanted: usize) -> Vec<Prompt> {
    let count = wanted.min(split.len() / HELD_OUT_SHARE);
    let mut order: Vec<ContentHash> = split.iter().map(ContentHash::of).collect();
    order.sort_unstable();
    order.dedup();
    let chosen: BTreeSet<ContentHash> = order.into_iter().take(count).collect();
    let mut seen = BTreeSet::new();
    let first_of_kind = |prompt: &&Prompt| {
        let hash = ContentHash::of(prompt);
        chosen.contains(&hash) && seen.insert(hash)
    };
    split.iter().filter(first_of_kind).cloned().collect()
}

/// The split without held-out prompts, cut to `max_prompts`.
pub fn training(split: Vec<Prompt>, held_out: &[Prompt], max_prompts: Option<usize>) -> Vec<Prompt> {
    let excluded: BTreeSet<ContentHash> = held_out.iter().map(ContentHash::of).collect();
    let kept = split.into_iter().filter(|prompt| !excluded.contains(&ContentHash::of(prompt)));
    kept.take(max_prompts.unwrap_or(usize::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use selfplay_records::Message;

    use super::*;

    fn split(count: usize) -> Vec<Prompt> {
        let prompt = |row: usize| Prompt {
            prompt_id: row.to_string(),
            prompt: Some(format!("question {row}")),
            ..Prompt::default()
        };
        (0..count).map(prompt).collect()
    }

    #[test]
    fn held_out_and_training_prompts_share_nothing() {
        let all = split(100);
        let held_out = hold_out(&all, 10);
        assert_eq!(held_out.len(), 10);
        let rest = training(all.clone(), &held_out, None);
        assert_eq!(rest.len(), 90);
        assert!(rest.iter().all(|prompt| !held_out.contains(prompt)));
        // The same ones from a shuffled file, and none of them in another split under another id.
        let mut reversed = all;
        reversed.reverse();
        let ids = |prompts: &[Prompt]| prompts.iter().map(|p| p.prompt_id.clone()).collect::<BTreeSet<_>>();
        assert_eq!(ids(&hold_out(&reversed, 10)), ids(&held_out));
        let renamed = held_out.iter().map(|p| Prompt { prompt_id: "x".into(), ..p.clone() }).collect();
        assert!(training(renamed, &held_out, None).is_empty());
    }

    #[test]
    fn a_small_split_keeps_four_fifths() {
        assert_eq!(hold_out(&split(20), 200).len(), 4);
        assert_eq!(hold_out(&split(4), 200).len(), 0);
        assert_eq!(training(split(20), &hold_out(&split(20), 200), Some(3)).len(), 3);
    }

    #[test]
    fn a_string_and_its_message_are_the_same_prompt() {
        let text = Prompt { prompt: Some("hi".into()), ..Prompt::default() };
        let list = Prompt { messages: Some(vec![Message::user("hi")]), ..Prompt::default() };
        let ids = Prompt { prompt_ids: Some(vec![1]), ..text.clone() };
        assert_eq!(ContentHash::of(&text), ContentHash::of(&list));
        assert_ne!(ContentHash::of(&text), ContentHash::of(&ids));
    }
}
