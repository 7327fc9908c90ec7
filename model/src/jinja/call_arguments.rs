//! What a macro, a function, a method, a filter or a test is called with.

use super::fault::{RenderResult, fail};
use super::value::TemplateValue;

/// The arguments of a call, evaluated.
#[derive(Clone, Debug, Default)]
pub(super) struct CallArguments {
    pub(super) positional: Vec<TemplateValue>,
    pub(super) named: Vec<(String, TemplateValue)>,
}

impl CallArguments {
    pub(super) fn of(positional: Vec<TemplateValue>) -> Self {
        Self { positional, named: Vec::new() }
    }

    /// The arguments by the names of the parameters. Error: more than there are, or another name.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
    ) -> RenderResult<[Option<TemplateValue>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return fail(format!("{what}() takes at most {N} arguments ({} given)", self.positional.len()));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| *known == name) {
                Some(place) if bound[place].is_none() => bound[place] = Some(value),
                Some(_) => return fail(format!("{what}() got multiple values for argument '{name}'")),
                None => return fail(format!("{what}() got an unexpected keyword argument '{name}'")),
            }
        }
        Ok(bound)
    }
}

/// Whether an argument was given and is true.
pub(super) fn is_set(value: Option<&TemplateValue>) -> bool {
    value.is_some_and(TemplateValue::is_true)
}

/// An argument, or none.
pub(super) fn given(value: Option<TemplateValue>) -> TemplateValue {
    value.unwrap_or(TemplateValue::None)
}

/// A number of things; none of them where it is below 0.
pub(super) fn size(value: &TemplateValue, what: &str) -> RenderResult<usize> {
    match value.as_int() {
        Some(number) => Ok(usize::try_from(number).unwrap_or(0)),
        None => fail(format!("{what} must be an integer, not {}", value.type_name())),
    }
}
