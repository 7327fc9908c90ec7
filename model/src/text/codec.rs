//! Prompts and conversations to token ids: the tokenizer and the chat template of one model, together.
//!
//! The rules are the contract's: a prompt string is one user message rendered with the generation prompt and gets
//! no further special tokens; a model without a template takes raw text with its tokenizer's special tokens.

use std::path::Path;

use selfplay_records::{Message, Prompt};

use super::{ChatTemplate, Tokenizer};
use crate::architecture::token_ids;
use crate::companions::Companions;
use crate::error::ModelError;

/// A model's tokenizer and chat template.
pub struct Codec {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text; `None` for a model that has no template.
    pub template: Option<ChatTemplate>,
    /// Rows of the model's embedding: ids at or above it are no tokens of the model.
    vocab_size: usize,
}

impl Codec {
    /// Reads tokenizer and template of a model folder; `template_override` is a template file that goes before the
    /// folder's own. Errors as [`Tokenizer::load`] and [`ChatTemplate::for_model`].
    pub fn load(folder: &Path, template_override: Option<&Path>) -> Result<Self, ModelError> {
        let files = Companions::checked(folder)?;
        let tokenizer = Tokenizer::load(folder)?;
        let template = ChatTemplate::for_model(folder, template_override)?;
        // A folder that holds a tokenizer alone will do for tokenising.
        let config = files.json_if_there("config.json")?;
        let vocab_size =
            config["vocab_size"].as_u64().map_or_else(|| tokenizer.id_count(), |size| size as usize);
        Ok(Self { tokenizer, template, vocab_size })
    }

    /// Number of ids in the model's vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The ids of a prompt row: its own ids, else its messages, else its string. Ids win over text.
    ///
    /// Errors: a row that has none of them or an empty one, an id outside the vocabulary, a template's refusal.
    pub fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, ModelError> {
        let ids = if let Some(ids) = &prompt.prompt_ids {
            self.check_ids(ids, "prompt_ids")?;
            ids.clone()
        } else if let Some(messages) = &prompt.messages {
            self.conversation_ids(messages, true)?
        } else if let Some(text) = &prompt.prompt {
            self.conversation_ids(&[Message::user(text.as_str())], true)?
        } else {
            return Err(ModelError::value(
                format!("prompt {:?} has no `prompt`, `messages` or `prompt_ids`", prompt.prompt_id),
                "give it one of the three",
            ));
        };
        if ids.is_empty() {
            return Err(ModelError::value(
                format!("prompt {:?} has no tokens", prompt.prompt_id),
                "a prompt must not be empty",
            ));
        }
        Ok(ids)
    }

    /// The ids of a conversation: rendered by the template, then tokenised without further special tokens.
    ///
    /// Without a template, a single user message is raw text with the tokenizer's special tokens; anything longer is
    /// an error.
    pub fn conversation_ids(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let rendered = self.render(messages, add_generation_prompt)?;
        if let (true, Some(template)) = (rendered.is_empty(), &self.template) {
            return Err(ModelError::input(
                template.path(),
                "the chat template makes no text of this conversation",
                "mend it, or give another one in policy.chat_template (tokenize: --chat-template)",
            ));
        }
        self.rendered_ids(&rendered)
    }

    /// The text of a conversation by the template; without a template, that of a single user message.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        match (&self.template, messages) {
            (Some(template), messages) => match template.render(messages, add_generation_prompt)? {
                rendered if rendered.is_empty() => Err(ModelError::input(
                    template.path(),
                    "the chat template makes no text of this conversation",
                    "mend it, or give another one in policy.chat_template (tokenize: --chat-template)",
                )),
                rendered => Ok(rendered),
            },
            (None, [only]) if only.role == "user" => Ok(only.content.clone()),
            (None, _) => Err(ModelError::value(
                "the model has no chat template, so it takes no conversations",
                "give one in policy.chat_template (tokenize: --chat-template), or prompts as plain strings",
            )),
        }
    }

    /// The ids of a text that [`Self::render`] made: special tokens are added where no template could.
    pub fn rendered_ids(&self, rendered: &str) -> Result<Vec<u32>, ModelError> {
        self.checked(self.tokenizer.encode(rendered, self.template.is_none())?)
    }

    /// The ids of a conversation as the published preference models tokenise it: rendered without the generation
    /// prompt, then tokenised with the tokenizer's special tokens on top (so that BOS stands there twice).
    pub fn scoring_ids(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        self.checked(self.tokenizer.encode(&self.render(messages, false)?, true)?)
    }

    /// The ids of a conversation as sequence classifiers are trained on them: rendered without the generation prompt, with one
    /// BOS, the template's own or else the one that the tokenizer puts before a text, if it does.
    pub fn one_bos_ids(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        let mut ids = self.tokenizer.encode(&self.render(messages, false)?, false)?;
        if let Some(bos) = self.tokenizer.bos_id()
            && ids.first() != Some(&bos)
            && self.tokenizer.encode("", true)?.first() == Some(&bos)
        {
            ids.insert(0, bos);
        }
        self.checked(ids)
    }

    /// The ids of a conversation with the generation prompt, and without the BOS that a template puts before it.
    pub fn conversation_ids_without_bos(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        let rendered = self.render(messages, true)?;
        let bos = self.tokenizer.bos_token().unwrap_or_default();
        self.checked(self.tokenizer.encode(rendered.strip_prefix(bos).unwrap_or(&rendered), false)?)
    }

    /// The ids that end a response: `eos_token_id` of generation_config.json, else of config.json, together with the
    /// tokenizer's eos_token; ascending. Ids that the model cannot produce are left out.
    pub fn stop_ids(&self, folder: &Path) -> Result<Vec<u32>, ModelError> {
        let files = Companions::of(folder)?;
        let mut ids = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let config = files.json_if_there(file)?;
            let found = token_ids(&config["eos_token_id"]).ok_or_else(|| {
                let what = format!("`eos_token_id` is {}", config["eos_token_id"]);
                ModelError::input(files.path(file), what, "it must be a token id or a list of token ids")
            })?;
            if !found.is_empty() {
                ids = found;
                break;
            }
        }
        ids.extend(self.tokenizer.eos_id());
        ids.retain(|id| (*id as usize) < self.vocab_size);
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Checks that every id is in the model's vocabulary; `field` is what they are called in the message.
    pub fn check_ids(&self, ids: &[u32], field: &str) -> Result<(), ModelError> {
        match ids.iter().position(|id| *id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(place) => Err(ModelError::value(
                format!("`{field}`[{place}] is {}, outside the vocabulary", ids[place]),
                format!("token ids of this model are 0 to {}", self.vocab_size.saturating_sub(1)),
            )),
        }
    }

    fn checked(&self, ids: Vec<u32>) -> Result<Vec<u32>, ModelError> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids),
            Some(id) => Err(ModelError::value(
                format!(
                    "the tokenizer makes id {id}, but the model's vocabulary has {} tokens",
                    self.vocab_size
                ),
                "tokenizer and weights must be of one model",
            )),
        }
    }
}
