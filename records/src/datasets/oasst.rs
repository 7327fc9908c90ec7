//! OpenAssistant's trees: a row with a whole tree (`prompt` with `replies`), or a row for each message (`message_id`, `parent_id`,
//! `message_tree_id`), those of a tree being neighbours, as they are published.

use std::collections::HashMap;

use serde_json::Value;

use super::conversation::has_all;
use super::layout::{GroupProblem, RowFields};
use crate::error::RowProblem;
use crate::layout::{optional_text, present, text};
use crate::raw_row::found;
use crate::{FieldProblem, Message};

/// Columns of both forms.
pub(super) const FIELDS: [&str; 8] =
    ["prompt", "message_id", "parent_id", "message_tree_id", "text", "role", "rank", "deleted"];

/// Levels of a tree at most; published ones have some twelve.
const MOST_LEVELS: usize = 256;
/// Bytes of all conversations of a tree at most; published ones have some hundred thousand.
const MOST_BYTES: usize = 1 << 30;

/// Whether a row is a message of a tree, or a tree.
pub(super) fn fits(fields: &RowFields) -> bool {
    let nested = fields.get("prompt").is_some_and(|prompt| prompt.get("replies").is_some());
    nested || has_all(fields, &["message_id", "message_tree_id", "text", "role"])
}

/// What the messages of a tree have in common.
pub(super) fn key(fields: &RowFields) -> Option<String> {
    let nested = fields.get("prompt").is_some_and(Value::is_object);
    let tree = present(fields, "message_tree_id").filter(|_| !nested)?;
    tree.as_str().map(str::to_owned)
}

/// A tree: the messages, parents before their replies.
pub(super) struct Tree(Vec<MessageNode>);

struct MessageNode {
    message: Message,
    /// 0 is the best of its siblings.
    rank: Option<f64>,
    is_deleted: bool,
    replies: Vec<usize>,
}

/// The better and the worse reply to a conversation.
pub(super) struct Ranked {
    pub(super) prompt: Vec<Message>,
    pub(super) chosen: String,
    pub(super) rejected: String,
}

/// The tree of some rows.
pub(super) fn tree(rows: &[RowFields]) -> Result<Tree, GroupProblem> {
    let at = |place: usize| move |problem: FieldProblem| GroupProblem { place, problem: problem.into() };
    let mut tree = Tree(Vec::new());
    match rows {
        [only] if only.get("prompt").is_some_and(Value::is_object) => {
            let prompt = only.get("prompt").unwrap_or(&Value::Null);
            tree.add_nested(prompt, None, 0).map_err(at(0))?;
        }
        _ => {
            let mut places = HashMap::new();
            let mut levels = Vec::with_capacity(rows.len());
            for (place, row) in rows.iter().enumerate() {
                let parent = match optional_text(row, "parent_id").map_err(at(place))? {
                    None if place == 0 => None,
                    None => {
                        return Err(at(place)(wrong_parent(
                            "one message of a tree without a parent",
                            "a second one",
                        )));
                    }
                    Some(parent) => Some(*places.get(parent).ok_or_else(|| {
                        at(place)(wrong_parent(
                            "the id of a message of the same tree in a row before",
                            "another",
                        ))
                    })?),
                };
                let level: usize = parent.map_or(0, |parent: usize| levels[parent] + 1);
                if level >= MOST_LEVELS {
                    return Err(at(place)(wrong_parent(
                        format!("a tree of at most {MOST_LEVELS} levels"),
                        "a deeper one",
                    )));
                }
                levels.push(level);
                places.insert(text(row, "message_id").map_err(at(place))?.to_owned(), place);
                tree.add(row, parent).map_err(at(place))?;
            }
        }
    }
    Ok(tree)
}

fn wrong_parent(expected: impl std::fmt::Display, found: &str) -> FieldProblem {
    FieldProblem::new("parent_id", expected, found)
}

impl Tree {
    /// Adds a message; its place.
    fn add(&mut self, message: &RowFields, parent: Option<usize>) -> Result<usize, FieldProblem> {
        let role = match text(message, "role")? {
            "prompter" | "user" => "user",
            "assistant" => "assistant",
            other => return Err(FieldProblem::new("role", "prompter or assistant", format!("{other:?}"))),
        };
        let rank = match present(message, "rank") {
            None => None,
            Some(rank) => {
                Some(rank.as_f64().ok_or_else(|| FieldProblem::new("rank", "a number", found(rank)))?)
            }
        };
        let place = self.0.len();
        self.0.push(MessageNode {
            message: Message::new(role, text(message, "text")?),
            rank,
            is_deleted: message.get("deleted").and_then(Value::as_bool).unwrap_or(false),
            replies: Vec::new(),
        });
        if let Some(parent) = parent {
            self.0[parent].replies.push(place);
        }
        Ok(place)
    }

    fn add_nested(&mut self, value: &Value, parent: Option<usize>, level: usize) -> Result<(), FieldProblem> {
        let wrong =
            |found: String| FieldProblem::new("prompt", "messages with text, role and replies", found);
        let Value::Object(message) = value else { return Err(wrong(found(value))) };
        if level >= MOST_LEVELS {
            return Err(wrong(format!("more than {MOST_LEVELS} levels")));
        }
        let place = self.add(message, parent)?;
        match present(message, "replies") {
            None => Ok(()),
            Some(Value::Array(replies)) => {
                replies.iter().try_for_each(|reply| self.add_nested(reply, Some(place), level + 1))
            }
            Some(other) => Err(wrong(found(other))),
        }
    }

    /// Replies of a role that were not deleted, the best first.
    fn replies(&self, node: usize, role: &str) -> Vec<usize> {
        let is_kept = |place: &usize| self.0[*place].message.role == role && !self.0[*place].is_deleted;
        let mut replies: Vec<usize> = self.0[node].replies.iter().copied().filter(is_kept).collect();
        let rank = |place: &usize| self.0[*place].rank.unwrap_or(f64::INFINITY);
        replies.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        replies
    }

    /// The conversations that take the best reply to each question.
    ///
    /// # Errors
    /// They take too many bytes.
    pub(super) fn conversations(&self) -> Result<Vec<Vec<Message>>, GroupProblem> {
        let mut all = Gathered::new(MOST_BYTES);
        if !self.0.is_empty() {
            self.follow(0, &mut Vec::new(), &mut all)?;
        }
        Ok(all.examples)
    }

    /// Whether a conversation through this question was found.
    fn follow(
        &self,
        question: usize,
        path: &mut Vec<Message>,
        all: &mut Gathered<Vec<Message>>,
    ) -> Result<bool, GroupProblem> {
        let before = path.len();
        path.push(self.0[question].message.clone());
        let best = self.replies(question, "assistant").first().copied();
        if let Some(best) = best {
            path.push(self.0[best].message.clone());
            let mut goes_on = false;
            for question in self.replies(best, "user") {
                goes_on |= self.follow(question, path, all)?;
            }
            if !goes_on {
                all.add(path, |path| path.to_vec())?;
            }
        }
        path.truncate(before);
        Ok(best.is_some())
    }

    /// The best and the worst of the ranked replies to each question.
    ///
    /// # Errors
    /// They take too many bytes with the conversations before them.
    pub(super) fn ranked(&self) -> Result<Vec<Ranked>, GroupProblem> {
        let mut all = Gathered::new(MOST_BYTES);
        if !self.0.is_empty() {
            self.rank_below(0, &mut Vec::new(), &mut all)?;
        }
        Ok(all.examples)
    }

    fn rank_below(
        &self,
        question: usize,
        path: &mut Vec<Message>,
        all: &mut Gathered<Ranked>,
    ) -> Result<(), GroupProblem> {
        let before = path.len();
        path.push(self.0[question].message.clone());
        let replies = self.replies(question, "assistant");
        let ranked: Vec<usize> =
            replies.iter().copied().filter(|reply| self.0[*reply].rank.is_some()).collect();
        if let [best, .., worst] = ranked.as_slice()
            && self.0[*best].rank != self.0[*worst].rank
        {
            let text = |place: usize| self.0[place].message.content.clone();
            let (chosen, rejected) = (text(*best), text(*worst));
            all.add(path, |path| Ranked { prompt: path.to_vec(), chosen, rejected })?;
        }
        for reply in replies {
            path.push(self.0[reply].message.clone());
            for question in self.replies(reply, "user") {
                self.rank_below(question, path, all)?;
            }
            path.pop();
        }
        path.truncate(before);
        Ok(())
    }
}

/// What is made of a tree: each example repeats the conversation before it.
struct Gathered<T> {
    examples: Vec<T>,
    left: usize,
}

impl<T> Gathered<T> {
    fn new(most_bytes: usize) -> Self {
        Self { examples: Vec::new(), left: most_bytes }
    }

    /// Adds what is made of a conversation, if there is room for it.
    fn add(&mut self, path: &[Message], make: impl FnOnce(&[Message]) -> T) -> Result<(), GroupProblem> {
        let bytes: usize = path.iter().map(|message| message.content.len() + size_of::<Message>()).sum();
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                self.examples.push(make(path));
                Ok(())
            }
            None => {
                let most = format!("a tree whose conversations take at most {} MiB in all", MOST_BYTES >> 20);
                let problem = FieldProblem::new("text", most, "a larger one").into();
                Err(GroupProblem { place: 0, problem })
            }
        }
    }
}

impl From<RowProblem> for GroupProblem {
    fn from(problem: RowProblem) -> Self {
        Self { place: 0, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_many_conversations_takes_so_much_memory_and_no_more() {
        let text = "x".repeat(1000);
        let rows = (0..21).map(|number| {
            // A question, a reply to it, and nineteen questions after that.
            let (parent, role) = match number {
                0 => (None, "prompter"),
                1 => (Some(0), "assistant"),
                _ => (Some(1), "prompter"),
            };
            let parent = parent.map(|id: usize| id.to_string());
            let row = serde_json::json!({"message_id": number.to_string(), "parent_id": parent, "message_tree_id": "0",
                "text": text, "role": role});
            row.as_object().unwrap().clone()
        });
        let mut rows: Vec<RowFields> = rows.collect();
        for number in 2..21 {
            let id = (100 + number).to_string();
            let reply = serde_json::json!({"message_id": id, "parent_id": number.to_string(), "message_tree_id": "0",
                "text": text, "role": "assistant"});
            rows.push(reply.as_object().unwrap().clone());
        }
        let Ok(tree) = tree(&rows) else { panic!("a tree") };
        let within = |most: usize| {
            let mut all = Gathered::new(most);
            tree.follow(0, &mut Vec::new(), &mut all)
                .map(|_| all.examples.len())
                .map_err(|fault| fault.problem.to_string())
        };
        assert_eq!(within(MOST_BYTES), Ok(19));
        assert_eq!(within(19 * 4 * (1000 + size_of::<Message>())), Ok(19));
        assert!(within(19 * 4 * 1000).unwrap_err().contains("1024 MiB in all"));
    }
}
