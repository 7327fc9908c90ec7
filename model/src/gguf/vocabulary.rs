//! The tokens of a file's metadata.

/// The vocabulary, with what each token is.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    pub(super) kinds: Vec<TokenKind>,
}

/// What a token is, by `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    Unknown,
    /// Never cut, and left out of a text for people.
    Control,
    /// Never cut.
    UserDefined,
    Unused,
    /// A byte of SentencePiece, `<0x0A>`.
    Byte,
}
