//! A token's own text and bytes, for log-probs.

use selfplay_model::Codec;

/// Text of a token that stands alone in a list.
pub(crate) struct TokenTexts<'c> {
    codec: &'c Codec,
    /// A token with text, and its text: decoded behind it, a token keeps the space that it begins with.
    anchor: Option<(u32, String)>,
    /// `token_id:N` in the place of texts.
    as_ids: bool,
}

impl<'c> TokenTexts<'c> {
    pub(crate) fn new(codec: &'c Codec, as_ids: bool) -> Self {
        let anchor = codec.tokenizer.encode("a", false).ok().and_then(|ids| ids.last().copied());
        let text = anchor.and_then(|id| codec.tokenizer.decode(&[id], false).ok());
        Self { codec, anchor: anchor.zip(text), as_ids }
    }

    /// Its text. A token that is part of a character has its bytes, as OpenAI writes them: `bytes:\xe2\x80`.
    pub(crate) fn text(&self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        let text = self.shown(id);
        if !text.contains(char::REPLACEMENT_CHARACTER) {
            return text;
        }
        let hex: String = self.raw(id, &text).iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("bytes:{hex}")
    }

    /// Its bytes.
    pub(crate) fn bytes(&self, id: u32) -> Vec<u8> {
        let text = self.shown(id);
        if text.contains(char::REPLACEMENT_CHARACTER) { self.raw(id, &text) } else { text.into_bytes() }
    }

    fn shown(&self, id: u32) -> String {
        let decode = |ids: &[u32]| self.codec.tokenizer.decode(ids, false).unwrap_or_default();
        if let Some((anchor, text)) = &self.anchor {
            let both = decode(&[*anchor, id]);
            if let Some(own) = both.strip_prefix(text.as_str()) {
                return own.to_owned();
            }
        }
        decode(&[id])
    }

    /// The bytes that a token writes in its vocabulary's own alphabet.
    fn raw(&self, id: u32, text: &str) -> Vec<u8> {
        let Some(token) = self.codec.tokenizer.id_to_token(id) else { return text.as_bytes().to_vec() };
        let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            return vec![byte];
        }
        token.chars().map(gpt2_byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec())
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable bytes are themselves, the others, in order, the
/// characters from 256 on.
fn gpt2_byte(character: char) -> Option<u8> {
    let own = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let code = u32::from(character);
    if code < 256 {
        return own(code).then_some(code as u8);
    }
    let others = (0u32..256).filter(|&byte| !own(byte));
    others.zip(256u32..).find(|&(_, other)| other == code).map(|(byte, _)| byte as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_of_byte_level_tokens_is_read_back() {
        // The table of GPT-2's encoder: a space is Ġ, a line end Ċ, 0xE2 itself.
        assert_eq!(gpt2_byte('Ġ'), Some(b' '));
        assert_eq!(gpt2_byte('Ċ'), Some(b'\n'));
        assert_eq!(gpt2_byte('â'), Some(0xe2));
        assert_eq!(gpt2_byte('Ń'), Some(0xad));
        assert_eq!(gpt2_byte('€'), None);
    }
}
