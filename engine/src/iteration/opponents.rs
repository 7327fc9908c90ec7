//! Opponents: the candidates of earlier iterations that compete with an iteration's own (`pair.opponents`).
//!
//! They answer the same prompt, which is known by its content: splits that share no prompt have none. They stand after the
//! iteration's own candidates, the newest iteration's first, wherever candidates are compared or paired; shards on disk stay as they were
//! sampled.

use std::collections::{HashMap, HashSet};

use selfplay_records::{Candidates, Prompt, Response};

use super::workspace::Iteration;
use crate::error::EngineError;
use crate::stages::{Shards, Workspace};

/// Earlier responses by the content of their prompt.
#[derive(Debug, Default)]
pub struct Opponents(HashMap<String, Vec<Response>>);

impl Opponents {
    /// Those of an iteration; none where the recipe wants none, and of the first iteration.
    ///
    /// # Errors
    /// A shard of an earlier iteration that does not read; no prompt that an earlier iteration has answered.
    pub fn of(iteration: &Iteration<'_>) -> Result<Self, EngineError> {
        let (session, number) = (iteration.session, iteration.number);
        let most = iteration.recipe().pair.opponents.unwrap_or(0);
        let earlier = (1..number).rev().take(most);
        let wanted: HashSet<String> = session.inputs.training[number - 1].iter().map(content).collect();
        let mut by_prompt: HashMap<String, Vec<Response>> = HashMap::new();
        for before in earlier {
            let shards = Shards::new(session.run.iteration(before).candidates(), session.shards(before));
            for shard in 0..shards.count() {
                for row in shards.read::<Candidates>(shard)? {
                    let prompt = content(&row.prompt);
                    if wanted.contains(&prompt) {
                        by_prompt.entry(prompt).or_default().extend(row.responses);
                    }
                }
            }
        }
        if most > 0 && number > 1 && by_prompt.is_empty() {
            return Err(EngineError::input(format!(
                "pair.opponents = {most}: no prompt of iteration {number} is one of an earlier iteration's, so that it has no opponents; \
                 name the same file for several of prompts.splits, or leave the key out"
            )));
        }
        Ok(Self(by_prompt))
    }

    /// Adds to each row the earlier responses to its prompt.
    pub fn join(&self, rows: &mut [Candidates]) {
        if self.0.is_empty() {
            return;
        }
        for row in rows {
            if let Some(earlier) = self.0.get(&content(&row.prompt)) {
                row.responses.extend(earlier.iter().cloned());
            }
        }
    }
}

/// What a prompt asks, whatever its id is.
fn content(prompt: &Prompt) -> String {
    let messages = prompt.messages.as_ref().and_then(|messages| serde_json::to_string(messages).ok());
    let ids = || prompt.prompt_ids.as_ref().map(|ids| format!("ids {ids:?}"));
    let text = || prompt.prompt.as_ref().map(|text| format!("text {text}"));
    messages.or_else(text).or_else(ids).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, text: &str, responses: &[&str]) -> Candidates {
        let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
        Candidates {
            prompt: Prompt { prompt_id: id.into(), prompt: Some(text.into()), ..Prompt::default() },
            responses: responses.iter().map(response).collect(),
        }
    }

    #[test]
    fn opponents_stand_after_a_prompt_s_own_candidates() {
        let earlier = row("7", "a", &["old 0", "old 1"]);
        let opponents = Opponents(HashMap::from([(content(&earlier.prompt), earlier.responses)]));
        // The same prompt by another id; another prompt by the same id.
        let mut rows = [row("0", "a", &["new"]), row("7", "b", &["other"])];
        opponents.join(&mut rows);
        let texts = |row: &Candidates| row.responses.iter().map(|one| one.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&rows[0]), ["new", "old 0", "old 1"]);
        assert_eq!(texts(&rows[1]), ["other"]);
    }

    #[test]
    fn prompts_are_told_apart_by_what_they_ask() {
        let text = Prompt { prompt: Some("a".into()), prompt_ids: Some(vec![1]), ..Prompt::default() };
        let ids = Prompt { prompt_ids: Some(vec![1]), ..Prompt::default() };
        assert_eq!(
            content(&text),
            content(&Prompt { prompt_id: "9".into(), prompt_ids: None, ..text.clone() })
        );
        assert_ne!(content(&text), content(&ids));
    }
}
