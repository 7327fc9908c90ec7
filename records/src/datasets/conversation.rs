//! A conversation as the example that it is: it ends with the assistant's turn, and something stands before that.

use serde_json::Value;

use super::layout::RowFields;
use super::oddity::Oddity;
use crate::layout::{message, messages, present};
use crate::raw_row::found;
use crate::{FieldProblem, Message};

/// The turns up to the assistant's last; `None` where nothing is left to learn, which `odd` then says.
pub(super) fn answered(mut turns: Vec<Message>, odd: &mut Vec<Oddity>) -> Option<Vec<Message>> {
    let Some(last) = turns.iter().rposition(|turn| turn.role == "assistant") else {
        odd.push(Oddity::NoReply);
        return None;
    };
    if last + 1 < turns.len() {
        odd.push(Oddity::LaterTurns);
        turns.truncate(last + 1);
    }
    if turns[..last].iter().all(|turn| turn.role == "system" || turn.role == "assistant") {
        odd.push(Oddity::NoReply);
        return None;
    }
    match turns.last() {
        Some(reply) if reply.content.trim().is_empty() && !reply.has_more() => {
            odd.push(Oddity::EmptyReply);
            None
        }
        _ => Some(turns),
    }
}

/// Takes off turns of the assistant before the first question: ShareGPT's logs begin with them, and templates refuse them.
pub(super) fn without_leading_replies(mut turns: Vec<Message>, odd: &mut Vec<Oddity>) -> Vec<Message> {
    let systems = turns.iter().take_while(|turn| turn.role == "system").count();
    let leading = turns[systems..].iter().take_while(|turn| turn.role == "assistant").count();
    if leading > 0 && systems + leading < turns.len() {
        odd.push(Oddity::LeadingTurns);
        turns.drain(systems..systems + leading);
    }
    turns
}

/// One side of an exchange: a text, one message, or several.
pub(super) fn side(fields: &RowFields, field: &str, role: &str) -> Result<Vec<Message>, FieldProblem> {
    let expected = "a string or an array of messages";
    match present(fields, field) {
        Some(Value::String(text)) => Ok(vec![Message::new(role, text.as_str())]),
        Some(turns @ Value::Array(_)) => messages(field, turns),
        Some(turn @ Value::Object(_)) => Ok(vec![message(field, turn)?]),
        Some(other) => Err(FieldProblem::new(field, expected, found(other))),
        None => Err(FieldProblem::new(field, expected, "no such field")),
    }
}

/// The one field of several names that the row has; the first name where it has none. Two that hold different values are not
/// chosen between.
pub(super) fn one_of(fields: &RowFields, names: &[&'static str]) -> Result<&'static str, FieldProblem> {
    let there: Vec<&'static str> =
        names.iter().copied().filter(|name| present(fields, name).is_some()).collect();
    match there.as_slice() {
        [] => Ok(names.first().copied().unwrap_or_default()),
        [first, rest @ ..] if rest.iter().all(|name| fields.get(*name) == fields.get(*first)) => Ok(first),
        several => Err(FieldProblem::new(
            several[0],
            format!(
                "one of [{}]; say which by a column map, as in columns = {{{} = \"…\"}}",
                several.join(", "),
                names[0]
            ),
            "all of them",
        )),
    }
}

/// Whether the row has one of these fields.
pub(super) fn has_any(fields: &RowFields, names: &[&str]) -> bool {
    names.iter().any(|name| present(fields, name).is_some())
}

/// Whether the row has all of these fields.
pub(super) fn has_all(fields: &RowFields, names: &[&str]) -> bool {
    names.iter().all(|name| present(fields, name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(roles: &[&str]) -> Vec<Message> {
        roles.iter().map(|role| Message::new(*role, "x")).collect()
    }

    fn kept(roles: &[&str]) -> (Option<Vec<String>>, Vec<Oddity>) {
        let mut odd = Vec::new();
        let kept = answered(turns(roles), &mut odd);
        (kept.map(|turns| turns.into_iter().map(|turn| turn.role).collect()), odd)
    }

    #[test]
    fn a_conversation_is_cut_to_what_can_be_learnt() {
        let roles = |roles: &[&str]| Some(roles.iter().map(|role| (*role).to_owned()).collect::<Vec<_>>());
        assert_eq!(kept(&["user", "assistant"]), (roles(&["user", "assistant"]), vec![]));
        assert_eq!(
            kept(&["assistant", "user", "assistant", "user"]),
            (roles(&["assistant", "user", "assistant"]), vec![Oddity::LaterTurns])
        );
        let mut odd = Vec::new();
        let cut = without_leading_replies(turns(&["system", "assistant", "user", "assistant"]), &mut odd);
        assert_eq!(cut, turns(&["system", "user", "assistant"]));
        assert_eq!(odd, [Oddity::LeadingTurns]);
        for none in [&["user"][..], &["assistant"], &["system", "assistant", "user"], &[]] {
            assert_eq!(kept(none).0, None, "{none:?}");
            assert!(kept(none).1.contains(&Oddity::NoReply));
        }
    }

    #[test]
    fn an_empty_reply_is_left_out() {
        let mut odd = Vec::new();
        assert_eq!(answered(vec![Message::user("q"), Message::assistant(" \n")], &mut odd), None);
        assert_eq!(odd, [Oddity::EmptyReply]);
    }
}
