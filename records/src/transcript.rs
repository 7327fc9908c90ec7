//! Transcripts as Anthropic's hh-rlhf has them: `\n\nHuman: … \n\nAssistant: …`.
//!
//! Departures: texts are trimmed, and turns of one speaker in a row, which the data has, become one turn with a blank
//! line between, because chat templates want the speakers to alternate.

use crate::Message;

const SPEAKERS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];

/// Whether `text` begins as a transcript does.
pub(crate) fn is_transcript(text: &str) -> bool {
    let text = text.trim_start();
    SPEAKERS.iter().any(|(mark, _)| text.starts_with(mark.trim_start()))
}

/// The turns of a prompt that is a transcript: one that begins with the mark as hh-rlhf has it, a blank line before the
/// speaker, or that the assistant has a turn in. A text that merely begins with the word "Human:" is none.
pub(crate) fn prompt_turns(text: &str) -> Option<Vec<Message>> {
    let has_mark = SPEAKERS.iter().any(|(mark, _)| text.starts_with(mark));
    if has_mark || text.contains(SPEAKERS[1].0) { Some(turns(text)?.turns) } else { None }
}

/// A transcript's turns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TranscriptTurns {
    pub(crate) turns: Vec<Message>,
    /// Whether turns of one speaker in a row became one.
    pub(crate) is_joined: bool,
}

/// The transcript's turns; `None` where it does not begin with a speaker.
pub(crate) fn turns(text: &str) -> Option<TranscriptTurns> {
    if !is_transcript(text) {
        return None;
    }
    let whole = format!("\n\n{}", text.trim_start());
    let mut turns: Vec<Message> = Vec::new();
    let mut is_joined = false;
    let mut marks = marks(&whole).peekable();
    while let Some(mark) = marks.next() {
        let end = marks.peek().map_or(whole.len(), |next| next.at);
        let content = whole[mark.at + mark.length..end].trim();
        match turns.last_mut() {
            Some(last) if last.role == mark.role => {
                is_joined = true;
                if !last.content.is_empty() && !content.is_empty() {
                    last.content.push_str("\n\n");
                }
                last.content.push_str(content);
            }
            _ => turns.push(Message::new(mark.role, content)),
        }
    }
    Some(TranscriptTurns { turns, is_joined })
}

struct Mark {
    at: usize,
    length: usize,
    role: &'static str,
}

/// The marks of a text, in their order.
fn marks(text: &str) -> impl Iterator<Item = Mark> + '_ {
    text.match_indices('\n').filter_map(move |(at, _)| {
        let (mark, role) = SPEAKERS.iter().find(|(mark, _)| text[at..].starts_with(mark))?;
        Some(Mark { at, length: mark.len(), role })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_its_turns() {
        let text = "\n\nHuman: Hi\n\nhow are you?\n\nAssistant: Fine.\n\nHuman: Good\n\nAssistant:";
        let expected = vec![
            Message::user("Hi\n\nhow are you?"),
            Message::assistant("Fine."),
            Message::user("Good"),
            Message::assistant(""),
        ];
        assert_eq!(turns(text), Some(TranscriptTurns { turns: expected, is_joined: false }));
    }

    #[test]
    fn one_speaker_in_a_row_is_one_turn() {
        let text = "Human: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: \n\nAssistant: d";
        let turns = turns(text).unwrap();
        assert_eq!(turns.turns, [Message::user("a\n\nb"), Message::assistant("c\n\nd")]);
        assert!(turns.is_joined);
    }

    #[test]
    fn a_prompt_that_begins_with_a_speakers_name_keeps_it() {
        assert_eq!(prompt_turns("Human: are you there?"), None);
        assert_eq!(prompt_turns("Assistant: x"), None);
        assert_eq!(prompt_turns("\n\nHuman: hi"), Some(vec![Message::user("hi")]));
        let turns = vec![Message::user("hi"), Message::assistant("")];
        assert_eq!(prompt_turns("Human: hi\n\nAssistant:"), Some(turns));
    }

    #[test]
    fn a_blank_line_more_belongs_to_no_mark() {
        let turns = turns("Human: a\n\n\nAssistant:\n\nHuman:b").unwrap().turns;
        assert_eq!(turns, [Message::user("a"), Message::assistant(""), Message::user("b")]);
    }

    /// One speaker is looked for as often as the other, wherever there is only one of them.
    #[test]
    fn many_turns_are_read_in_one_pass() {
        let text = "\n\nHuman:a".repeat(1 << 18);
        let started = std::time::Instant::now();
        assert_eq!(turns(&text).unwrap().turns.len(), 1);
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "Hello", "Human says", "x\n\nHuman: a"] {
            assert_eq!(turns(text), None, "{text:?}");
        }
    }
}
