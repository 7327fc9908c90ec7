//! A text that is being made, whose every byte is counted.

use super::fault::{Held, RenderResult};
use super::value::TemplateValue;

/// Text that grows within the rendering's bounds.
#[derive(Debug, Default)]
pub(super) struct TextBuffer {
    text: String,
    held: Held,
}

impl TextBuffer {
    pub(super) fn push(&mut self, text: &str) -> RenderResult<()> {
        self.held.grow(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// `text`, so many times.
    pub(super) fn repeat(&mut self, text: &str, times: usize) -> RenderResult<()> {
        self.held.grow(text.len().saturating_mul(times))?;
        self.text.extend(std::iter::repeat_n(text, times));
        Ok(())
    }

    pub(super) fn push_char(&mut self, character: char) -> RenderResult<()> {
        self.push(character.encode_utf8(&mut [0; 4]))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }

    pub(super) fn into_value(self) -> RenderResult<TemplateValue> {
        let Self { text, held } = self;
        drop(held);
        TemplateValue::text(text)
    }
}
