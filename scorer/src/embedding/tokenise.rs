//! How a conversation becomes the tokens that a preference model reads.
//!
//! **As the GPM authors publish it** (`authors`):
//! The chat template over \[user, assistant] as text; the tokenizer with its own special tokens on top (so **two BOS**
//! with Llama's and Gemma's templates, whose text opens with one); cut at `max_length` from the right; then the last
//! token, whatever it is (Gemma's "\n"), overwritten by the tokenizer's eos_token. The prompt gate reads the same
//! sequence at the last token of the template over the prompt alone, without the generation prompt, tokenised in the
//! same way.
//!
//! **As sequence classifiers are trained** (`one-bos`: Skywork-Reward, FsfairX, GRM, OpenRLHF): the template's text with one BOS, the
//! template's own or the tokenizer's, never both; cut from the right; nothing is overwritten.
//!
//! Departures: none from the published example. The authors' ranking script puts an already templated prompt through
//! the template again and forces no end token: a defect, not copied. A model without a chat template is an input
//! error and not raw concatenation, whose scores would look right and not be.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use selfplay_model::{ChatTemplate, Codec, ModelError};
use selfplay_records::{Candidates, Message, Prompt, Response};

use super::stored_head::stored_value_head;
use super::{EmbeddingSettings, Tokenization};
use crate::conversation::conversation;
use crate::{ModelFolders, PromptCheck, ScoreError};

/// One prompt with its K responses as token ids; responses with the same tokens are one sequence, which is computed once
/// and so ties exactly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenisedRow {
    /// The different sequences, each of at most `max_length` ids and at least one.
    pub(super) sequences: Vec<Vec<u32>>,
    /// \[K], the sequence that each response is.
    pub(super) of_response: Vec<usize>,
    /// Position of the prompt's last token, where a gate reads; within every response of the row only after
    /// clamping to its last position (a prompt longer than `max_length` is cut like the rest).
    pub prompt_end: Option<usize>,
    /// Responses that lost tokens to `max_length`.
    pub cut: usize,
}

impl TokenisedRow {
    /// The ids of response `k`; empty where there is none.
    pub fn response(&self, k: usize) -> &[u32] {
        self.of_response.get(k).map_or(&[], |&sequence| &self.sequences[sequence])
    }
}

/// Whether the position of the prompt's end is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PromptEnd {
    /// For a model with a prompt head.
    Find,
    /// It would cost one more rendering per prompt.
    Skip,
}

/// Templated text as ids, with special tokens as its form has them.
trait TemplatedText: Sync {
    fn ids(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError>;
}

/// Templated text with the tokenizer's special tokens on top.
struct AuthorsForm<'a>(&'a Codec);

impl TemplatedText for AuthorsForm<'_> {
    fn ids(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        self.0.scoring_ids(messages)
    }
}

/// Templated text as ids with one BOS.
struct OneBos<'a>(&'a Codec);

impl TemplatedText for OneBos<'_> {
    fn ids(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        self.0.one_bos_ids(messages)
    }
}

/// How the conversations of one preference model become tokens: a [`Tokenization`] that is not `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConversationForm {
    Authors,
    OneBos,
}

impl Tokenization {
    /// Of a value head that is stored as `head`.
    pub(super) fn of_head(self, head: &str) -> ConversationForm {
        match self {
            Self::Authors => ConversationForm::Authors,
            Self::OneBos => ConversationForm::OneBos,
            Self::Auto if head == "value_head.weight" => ConversationForm::Authors,
            Self::Auto => ConversationForm::OneBos,
        }
    }
}

/// Tokenises rows for one preference model.
pub(super) struct Tokeniser<'a> {
    text: Box<dyn TemplatedText + 'a>,
    /// What the last token is overwritten with, if it is.
    end: Option<u32>,
    max_length: usize,
}

impl<'a> Tokeniser<'a> {
    /// A tokeniser of the model in `folder` with this `codec`.
    ///
    /// # Errors
    /// No chat template; no eos_token where one is needed.
    pub(super) fn new(
        codec: &'a Codec,
        folder: &Path,
        form: ConversationForm,
        max_length: usize,
    ) -> Result<Self, ScoreError> {
        let known = |id: &u32| (*id as usize) < codec.vocab_size();
        if codec.template.is_none() {
            return Err(ScoreError::NoTemplate { folder: folder.to_path_buf() });
        }
        if form == ConversationForm::OneBos {
            return Ok(Self { text: Box::new(OneBos(codec)), end: None, max_length });
        }
        let Some(end) = codec.tokenizer.eos_id().filter(known) else {
            return Err(ScoreError::NoEndToken { folder: folder.to_path_buf() });
        };
        Ok(Self { text: Box::new(AuthorsForm(codec)), end: Some(end), max_length })
    }

    /// The sequences of one row.
    ///
    /// # Errors
    /// A prompt without text, and what the template or the tokenizer refuses, with the row's `prompt_id`.
    pub(super) fn row(&self, row: &Candidates, prompt_end: PromptEnd) -> Result<TokenisedRow, ScoreError> {
        let prompt_id = &row.prompt.prompt_id;
        let mut messages = conversation(&row.prompt)?;
        let prompt_messages = messages.len();
        let refused = |part: String, source: ModelError| {
            let source = Box::new(source);
            ScoreError::Row { prompt_id: prompt_id.clone(), part, source }
        };
        let prompt_end = match prompt_end {
            PromptEnd::Skip => None,
            PromptEnd::Find => {
                let ids = self.text.ids(&messages).map_err(|e| refused("the prompt".to_owned(), e))?;
                Some(ids.len().saturating_sub(1))
            }
        };
        let mut tokenised = TokenisedRow { prompt_end, ..TokenisedRow::default() };
        let mut seen: HashMap<Vec<u32>, usize> = HashMap::new();
        for (k, response) in row.responses.iter().enumerate() {
            messages.truncate(prompt_messages);
            messages.push(Message::assistant(response.text.as_str()));
            let mut ids = self.text.ids(&messages).map_err(|e| refused(format!("response {k}"), e))?;
            tokenised.cut += usize::from(ids.len() > self.max_length);
            ids.truncate(self.max_length);
            let Some(last) = ids.last_mut() else {
                return Err(ScoreError::Empty { prompt_id: prompt_id.clone(), response: k });
            };
            *last = self.end.unwrap_or(*last);
            let sequences = &mut tokenised.sequences;
            let sequence = *seen.entry(ids).or_insert_with_key(|ids| {
                sequences.push(ids.clone());
                sequences.len() - 1
            });
            tokenised.of_response.push(sequence);
        }
        Ok(tokenised)
    }
}

/// The rows' conversations as a preference model reads them: for a trainer of preference models, whose tokens must be
/// those of the scorer.
///
/// # Errors
/// No chat template or eos_token in `folder`'s `codec`, a row without text, a conversation that the template refuses.
pub fn tokenise_row(
    codec: &Codec,
    folder: &Path,
    row: &Candidates,
    max_length: usize,
) -> Result<TokenisedRow, ScoreError> {
    Tokeniser::new(codec, folder, ConversationForm::Authors, max_length)?.row(row, PromptEnd::Find)
}

/// The tokenizer and the chat template of a model that embeds.
struct TextCheck {
    codec: Codec,
    folder: PathBuf,
    form: ConversationForm,
}

/// As [`crate::prompt_check`].
pub(crate) fn prompt_check(
    folders: ModelFolders<'_>,
    settings: &EmbeddingSettings,
) -> Result<Box<dyn PromptCheck>, ScoreError> {
    let folder = folders.base;
    let codec = Codec::load(folder, settings.reading.chat_template.as_deref())?;
    // Without weights, as of a hub's model of which only the small files were fetched, the stricter form is asked for.
    let head = stored_value_head(folders);
    let form = settings.tokenization.of_head(head.as_ref().map_or("value_head.weight", |head| &head.name));
    Ok(Box::new(TextCheck { codec, folder: folder.to_path_buf(), form }))
}

impl PromptCheck for TextCheck {
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError> {
        let response = Response { text: "-".to_owned(), ..Response::default() };
        let row = Candidates { prompt: prompt.clone(), responses: vec![response] };
        Tokeniser::new(&self.codec, &self.folder, self.form, usize::MAX)?
            .row(&row, PromptEnd::Skip)
            .map(|_| ())
    }

    fn reads_clock(&self) -> bool {
        self.codec.template.as_ref().is_some_and(ChatTemplate::reads_clock)
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    const BOS: u32 = 1;
    const EOS: u32 = 2;

    /// A template that opens with BOS and closes each turn with "\n", and a tokenizer that adds BOS again: one id per
    /// byte, as Gemma's does it.
    struct Bytes;

    impl TemplatedText for Bytes {
        fn ids(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
            let turn = |m: &Message| format!("{}:{}\n", m.role.chars().next().unwrap_or('?'), m.content);
            let text: String = messages.iter().map(turn).collect();
            Ok([BOS, BOS].into_iter().chain(text.bytes().map(u32::from)).collect())
        }
    }

    fn tokeniser(max_length: usize) -> Tokeniser<'static> {
        Tokeniser { text: Box::new(Bytes), end: Some(EOS), max_length }
    }

    fn row(prompt: Prompt, texts: &[&str]) -> Candidates {
        let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
        Candidates { prompt, responses: texts.iter().map(response).collect() }
    }

    fn ids(text: &str) -> Vec<u32> {
        [BOS, BOS].into_iter().chain(text.bytes().map(u32::from)).collect()
    }

    #[test]
    fn two_bos_and_the_last_token_becomes_the_end() {
        let prompt = Prompt { prompt: Some("hi".into()), ..Prompt::default() };
        let got = tokeniser(4096).row(&row(prompt, &["yes", "no"]), PromptEnd::Find).unwrap();
        let with_end = |text: &str| [ids(text), vec![EOS]].concat();
        assert_eq!(got.response(0), with_end("u:hi\na:yes"));
        assert_eq!(got.response(1), with_end("u:hi\na:no"));
        // Two BOS and the five bytes of "u:hi\n": its last token is at 6.
        assert_eq!((got.prompt_end, got.cut), (Some(6), 0));
    }

    #[test]
    fn messages_keep_their_turns_and_win_over_prompt() {
        let messages = vec![Message::user("a"), Message::assistant("b"), Message::user("c")];
        let prompt =
            Prompt { messages: Some(messages), prompt: Some("not this".into()), ..Prompt::default() };
        let got = tokeniser(4096).row(&row(prompt, &["d"]), PromptEnd::Skip).unwrap();
        assert_eq!(got.response(0), [ids("u:a\na:b\nu:c\na:d"), vec![EOS]].concat());
        assert_eq!(got.prompt_end, None);
    }

    #[test]
    fn the_cut_is_from_the_right_and_before_the_end_token() {
        let prompt = Prompt { prompt: Some("hi".into()), ..Prompt::default() };
        let got = tokeniser(10).row(&row(prompt, &["yes", ""]), PromptEnd::Find).unwrap();
        // "<1><1>u:hi\na:y" is ten tokens; the tenth is overwritten. The empty response fits with ten exactly.
        assert_eq!(got.response(0), [ids("u:hi\na:"), vec![EOS]].concat());
        assert_eq!(got.response(1), [ids("u:hi\na:"), vec![EOS]].concat());
        assert_eq!(got.cut, 1);
    }

    #[test]
    fn the_same_tokens_are_one_sequence() {
        let prompt = Prompt { prompt: Some("hi".into()), ..Prompt::default() };
        let got = tokeniser(4096).row(&row(prompt, &["a", "b", "a", "b"]), PromptEnd::Skip).unwrap();
        assert_eq!((got.sequences.len(), got.of_response.as_slice()), (2, &[0, 1, 0, 1][..]));
        assert_eq!(got.response(1), got.response(3));
        assert!(got.response(4).is_empty());
    }

    #[test]
    fn token_ids_alone_are_refused_with_the_prompt_named() {
        let prompt = Prompt { prompt_id: "p9".into(), prompt_ids: Some(vec![1, 2]), ..Prompt::default() };
        let error = tokeniser(10).row(&row(prompt, &["x"]), PromptEnd::Skip).unwrap_err();
        assert!(error.kind() == Kind::Input);
        assert!(error.to_string().contains("p9") && error.to_string().contains("text"), "{error}");
    }
}
