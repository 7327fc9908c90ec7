//! Where a response stops: stop ids, and stop strings seen while the text grows.
//!
//! A stop string may begin within one token and end within another, and a token may hold part of a character. The
//! text is therefore decoded from a few tokens back, as Hugging Face's text-generation-inference does it: decoding
//! the newest token alone would lose SentencePiece's leading space.

use selfplay_model::{Codec, ModelError};
use selfplay_records::Problems;

use crate::{SampleError, Stop};

/// Token ids to text, with special tokens left out.
pub trait TextDecoder: Sync {
    /// The text of some ids.
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError>;

    /// The id of the special token that is written so.
    fn special_id(&self, text: &str) -> Option<u32>;
}

impl TextDecoder for Codec {
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.tokenizer.decode(ids, true)
    }

    fn special_id(&self, text: &str) -> Option<u32> {
        let id = self.tokenizer.token_to_id(text)?;
        let hidden = self.tokenizer.decode(&[id], true).is_ok_and(|text| text.is_empty());
        hidden.then_some(id)
    }
}

/// What ends a response: the model's stop ids together with stop ids and strings of one's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopRule {
    /// Sorted.
    ids: Vec<u32>,
    texts: Vec<String>,
    /// Bytes of the longest text.
    longest: usize,
}

impl StopRule {
    /// The rule of the model's ids and one's own stops. A stop string that is written like a special token, which no
    /// decoded text shows, stops at that token's id.
    ///
    /// Fails when an id of `stops` is outside the vocabulary, or a text is empty; the key is `stop[place]`.
    pub fn new(
        text: &dyn TextDecoder,
        model_ids: &[u32],
        stops: &[Stop],
        vocab_size: usize,
    ) -> Result<Self, SampleError> {
        let mut rule = Self { ids: model_ids.to_vec(), ..Self::default() };
        let mut problems = Problems::default();
        for (place, stop) in stops.iter().enumerate() {
            match stop {
                Stop::Id(id) if *id as usize >= vocab_size => problems.value(
                    format!("stop[{place}]"),
                    id,
                    format!("expected a token id below the model's vocabulary of {vocab_size}"),
                ),
                Stop::Id(id) => rule.ids.push(*id),
                // An empty text would be found in every response.
                Stop::Text(stop) if stop.is_empty() => {
                    problems.value(
                        format!("stop[{place}]"),
                        "\"\"",
                        "expected a text of one character or more",
                    );
                }
                Stop::Text(stop) => {
                    rule.ids.extend(text.special_id(stop));
                    rule.texts.push(stop.clone());
                }
            }
        }
        problems.into_result(SampleError::Settings)?;
        rule.ids.sort_unstable();
        rule.ids.dedup();
        rule.longest = rule.texts.iter().map(String::len).max().unwrap_or(0);
        Ok(rule)
    }

    /// Whether the token ends a response.
    pub fn is_stop_id(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// The ids that end a response, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The texts that end a response.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether there is any text to look for.
    pub fn has_texts(&self) -> bool {
        !self.texts.is_empty()
    }

    /// Byte offset at which the first stop string in `text` begins.
    pub fn find(&self, text: &str) -> Option<usize> {
        self.texts.iter().filter_map(|stop| text.find(stop.as_str())).min()
    }
}

/// The state of the search in one response's text.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextStop {
    /// Decoding starts at this token, so that the next ones get their spaces right.
    from: usize,
    /// Tokens before this one are in `tail` already.
    read: usize,
    /// The end of the text read: one byte less than the longest stop string, so no stop string is found twice.
    tail: String,
}

impl TextStop {
    /// Processes the newest of `ids`; true when a stop string is complete.
    pub(crate) fn push(
        &mut self,
        ids: &[u32],
        rule: &StopRule,
        text: &dyn TextDecoder,
    ) -> Result<bool, SampleError> {
        /// A character has four bytes; with more tokens than this pending, they are no character.
        const PENDING: usize = 4;
        const BROKEN: char = char::REPLACEMENT_CHARACTER;
        let known = text.decode(&ids[self.from..self.read])?;
        let longer = text.decode(&ids[self.from..])?;
        let fresh = &longer[common_prefix(&known, &longer)..];
        let mut seen = format!("{}{fresh}", self.tail);
        if rule.find(seen.trim_end_matches(BROKEN)).is_some() {
            return Ok(true);
        }
        if fresh.ends_with(BROKEN) && ids.len() - self.read < PENDING {
            return Ok(false);
        }
        let mut cut = seen.len().saturating_sub(rule.longest.saturating_sub(1));
        while !seen.is_char_boundary(cut) {
            cut -= 1;
        }
        self.tail = seen.split_off(cut);
        self.from = self.read;
        self.read = ids.len();
        Ok(false)
    }
}

/// Bytes of the longest common prefix, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let equal = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    equal.map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;
    use crate::backend::fake::FakeText;

    fn rule(stops: &[&str]) -> StopRule {
        let stop: Vec<Stop> = stops.iter().map(|&text| Stop::Text(text.to_owned())).collect();
        StopRule::new(&FakeText, &[], &stop, 256).unwrap()
    }

    /// The number of tokens (bytes, in the fake) after which the text stops.
    fn stops_after(stops: &[&str], bytes: &[u8]) -> Option<usize> {
        let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
        let (rule, mut state) = (rule(stops), TextStop::default());
        (1..=ids.len()).find(|&n| state.push(&ids[..n], &rule, &FakeText).unwrap())
    }

    #[test]
    fn a_stop_string_across_tokens_is_seen_with_its_last_byte() {
        assert_eq!(stops_after(&["\n\nUser:"], b"Hi.\n\nUser: x"), Some(10));
        assert_eq!(stops_after(&["\n\nUser:"], b"Hi.\n\nUse\n\nUser:"), Some(15));
        assert_eq!(stops_after(&["zz", "i."], b"Hi. zz"), Some(3));
        assert_eq!(stops_after(&["aab"], b"aaaab"), Some(5));
        assert_eq!(stops_after(&["never"], b"nevel"), None);
    }

    #[test]
    fn characters_of_several_tokens_are_waited_for() {
        assert_eq!(stops_after(&["é!"], "né!".as_bytes()), Some(4));
        assert_eq!(stops_after(&["€"], "10 €".as_bytes()), Some(6));
        // Bytes that never become a character do not hide what follows them.
        assert_eq!(stops_after(&["ab"], b"\xff\xff\xff\xff\xff\xffab"), Some(8));
        // They stand between what is before and after them.
        assert_eq!(stops_after(&["ab"], b"a\xff\xff\xff\xffb"), None);
        assert_eq!(stops_after(&["ab"], b"a\xff\xff\xff\xffbab"), Some(8));
    }

    #[test]
    fn the_first_stop_string_of_a_text_counts() {
        let rule = rule(&["lo", "el", "zz"]);
        assert_eq!(rule.find("hello"), Some(1));
        assert_eq!(rule.find("wood"), None);
    }

    #[test]
    fn ids_are_the_models_and_ones_own_and_must_be_in_the_vocabulary() {
        let mut stop = vec![Stop::Id(7), Stop::Text("<eos>".to_owned())];
        let rule = StopRule::new(&FakeText, &[9], &stop, 256).unwrap();
        assert!([7, 9, FakeText::EOS].iter().all(|&id| rule.is_stop_id(id)) && !rule.is_stop_id(8));
        stop.push(Stop::Id(256));
        let error = StopRule::new(&FakeText, &[9], &stop, 256).unwrap_err();
        assert!(error.kind() == Kind::Input);
        let empty = StopRule::new(&FakeText, &[], &[Stop::Text(String::new())], 256).unwrap_err();
        assert!(empty.to_string().starts_with("stop[0] = \"\""), "{empty}");
        assert!(error.to_string().starts_with("stop[2] = 256"), "{error}");
    }
}
