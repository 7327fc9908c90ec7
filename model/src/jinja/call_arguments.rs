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
