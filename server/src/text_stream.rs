//! A response's text while it grows: whole characters, and nothing that may turn out to be the beginning of a stop text.
//!
//! What has been shown is always a prefix of the response's final text. As the sampler's search for stop texts does it,
//! tokens are decoded from a few tokens back, so that a tokenizer's spaces come out right.

use selfplay_model::ModelError;
use selfplay_sampler::{StopRule, TextDecoder};

/// The text of one response so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextStream {
    ids: Vec<u32>,
    /// Decoding starts at this token.
    from: usize,
    /// Tokens before this one are in `text` already.
    read: usize,
    text: String,
    /// Bytes of `text` that were given out.
    shown: usize,
}

impl TextStream {
    /// Adds a token; returns what can be shown since the last call, perhaps nothing.
    ///
    /// # Errors
    /// The tokenizer's.
    pub(crate) fn push(
        &mut self,
        id: u32,
        stop: &StopRule,
        decoder: &dyn TextDecoder,
    ) -> Result<String, ModelError> {
        /// Tokens that may wait for the rest of a character. It has four bytes, and bytes that are none may stand before it.
        const PENDING: usize = 32;
        if stop.is_stop_id(id) {
            // It ends the response and is not part of its text.
            return Ok(String::new());
        }
        self.ids.push(id);
        let known = decoder.decode(&self.ids[self.from..self.read])?;
        let longer = decoder.decode(&self.ids[self.from..])?;
        if longer.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.read < PENDING {
            return Ok(String::new());
        }
        self.text.push_str(&longer[common_prefix(&known, &longer)..]);
        self.from = self.read;
        self.read = self.ids.len();
        let safe = safe_length(&self.text, stop);
        Ok(self.show(safe))
    }

    /// What is left to show of the final text.
    pub(crate) fn finish(mut self, whole: &str) -> String {
        if !whole.starts_with(&self.text[..self.shown]) {
            tracing::warn!(
                "a response's text changed after it was streamed: its tokenizer rewrites earlier words"
            );
        }
        self.text = whole.to_owned();
        while self.shown < whole.len() && !whole.is_char_boundary(self.shown) {
            self.shown += 1;
        }
        self.show(whole.len())
    }

    fn show(&mut self, until: usize) -> String {
        if until <= self.shown {
            return String::new();
        }
        let fresh = self.text[self.shown..until].to_owned();
        self.shown = until;
        fresh
    }
}

/// Bytes of `text` that no stop text can take back: up to the first stop text, or up to where one may have begun.
fn safe_length(text: &str, stop: &StopRule) -> usize {
    if let Some(end) = stop.find(text) {
        return end;
    }
    let begins = |stop: &String| {
        let longest = stop.len().saturating_sub(1).min(text.len());
        let earliest = text.len() - longest;
        (earliest..text.len())
            .find(|&at| text.is_char_boundary(at) && stop.as_bytes().starts_with(&text.as_bytes()[at..]))
    };
    stop.texts().iter().filter_map(begins).min().unwrap_or(text.len())
}

/// Bytes of the longest common prefix, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let equal = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    equal.map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use selfplay_records::FinishReason;
    use selfplay_sampler::{Stop, text_of};

    use super::*;

    /// A token per byte; 3 is the end and has no text.
    struct Bytes;

    impl TextDecoder for Bytes {
        fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
            let bytes: Vec<u8> = ids.iter().filter(|&&id| id != 3).map(|&id| id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }

        fn special_id(&self, _: &str) -> Option<u32> {
            None
        }
    }

    fn rule(stops: &[&str]) -> StopRule {
        let stops: Vec<Stop> = stops.iter().map(|text| Stop::Text((*text).to_owned())).collect();
        StopRule::new(&Bytes, &[3], &stops, 256).unwrap()
    }

    /// What was shown token by token, and the rest after the end.
    fn streamed(bytes: &[u8], stop: &StopRule) -> (Vec<String>, String) {
        let mut stream = TextStream::default();
        let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
        let shown = ids.iter().map(|&id| stream.push(id, stop, &Bytes).unwrap()).collect();
        let ended = ids.last() == Some(&3) || stop.find(&Bytes.decode(&ids).unwrap()).is_some();
        let reason = if ended { FinishReason::Stop } else { FinishReason::Length };
        (shown, stream.finish(&text_of(&Bytes, stop, &ids, reason).unwrap()))
    }

    #[test]
    fn characters_are_whole_and_a_stop_text_is_held_back() {
        let (shown, rest) = streamed("né€".as_bytes(), &rule(&[]));
        assert_eq!(shown, ["n", "", "é", "", "", "€"]);
        assert_eq!(rest, "");
        let (shown, rest) = streamed(b"a ENx EN", &rule(&["END"]));
        assert_eq!(shown.concat(), "a ENx ");
        assert_eq!(rest, "EN", "the end was no stop");
        let (shown, rest) = streamed(b"a END", &rule(&["END"]));
        assert_eq!((shown.concat().as_str(), rest.as_str()), ("a ", ""));
        let (shown, rest) = streamed(b"ab\x03", &rule(&[]));
        assert_eq!((shown.concat().as_str(), rest.as_str()), ("ab", ""));
    }

    #[test]
    fn bytes_that_are_no_character_do_not_hold_the_text_for_ever() {
        let (shown, _) = streamed(b"\xff\xff\xff\xff\xff\xffab", &rule(&[]));
        assert!(shown.concat().ends_with("ab"));
    }

    proptest! {
        /// The parts together are the whole text, no part of a stop text is ever among them, and each is a prefix's.
        #[test]
        fn the_parts_are_the_whole(letters in proptest::collection::vec(0usize..6, 0..40), stops in 0usize..4) {
            let alphabet: [&[u8]; 6] = [b"a", b"b", "é".as_bytes(), "€".as_bytes(), b"\n", b"\xf0"];
            let bytes: Vec<u8> = letters.iter().flat_map(|&letter| alphabet[letter]).copied().collect();
            let stop = rule(&["ab", "\n\nb", "é€a"][..stops.min(3)]);
            // A response ends with the token that completes a stop.
            let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
            let ends = (1..=ids.len()).find(|&n| stop.find(&Bytes.decode(&ids[..n]).unwrap()).is_some());
            let bytes = &bytes[..ends.unwrap_or(bytes.len())];
            let ids = &ids[..bytes.len()];
            let reason = if ends.is_some() { FinishReason::Stop } else { FinishReason::Length };
            let whole = text_of(&Bytes, &stop, ids, reason).unwrap();
            let (shown, rest) = streamed(bytes, &stop);
            prop_assert_eq!(shown.concat() + &rest, whole);
        }
    }
}
