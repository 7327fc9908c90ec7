//! What the `attribute` of a filter names.

use super::context::RenderContext;
use super::fault::RenderResult;
use super::value::TemplateValue;

/// A path like `a.0.b`, as the filters' `attribute` takes it.
#[derive(Clone, Debug)]
pub(super) struct AttributePath(Vec<TemplateValue>);

impl AttributePath {
    /// The value itself.
    pub(super) fn whole() -> Self {
        Self(Vec::new())
    }

    pub(super) fn parse(attribute: &TemplateValue) -> RenderResult<Self> {
        Ok(match attribute {
            TemplateValue::None => Self(Vec::new()),
            TemplateValue::Text(text) => Self(
                text.as_str()
                    .split('.')
                    .map(|part| match part.parse::<i128>() {
                        Ok(index) if part.bytes().all(|byte| byte.is_ascii_digit()) => {
                            Ok(TemplateValue::Int(index))
                        }
                        _ => TemplateValue::text(part),
                    })
                    .collect::<RenderResult<_>>()?,
            ),
            other => Self(vec![other.clone()]),
        })
    }

    pub(super) fn get(
        &self,
        context: &dyn RenderContext,
        value: &TemplateValue,
        default: Option<&TemplateValue>,
    ) -> RenderResult<TemplateValue> {
        let mut value = value.clone();
        for part in &self.0 {
            value = context.item(&value, part)?;
            if let (true, Some(default)) = (value.is_undefined(), default) {
                value = default.clone();
            }
        }
        Ok(value)
    }
}
