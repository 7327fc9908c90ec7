//! What values of a running template are and have: attributes and items by Jinja's rules, namespaces, cyclers.

use super::super::context::RenderContext;
use super::super::fault::{RenderResult, fail, step};
use super::super::text_buffer::TextBuffer;
use super::super::value::TemplateValue;
use super::super::{methods, names, print, subscripts};
use super::Interpreter;

impl RenderContext for Interpreter<'_> {
    fn attribute(&self, object: &TemplateValue, name: &str) -> RenderResult<TemplateValue> {
        match object {
            TemplateValue::Undefined(missing) => return fail(missing.0.clone()),
            TemplateValue::Namespace(place) => {
                step(self.namespaces[*place].len() as u64 / 8)?;
                let found = self.namespaces[*place].iter().find(|(known, _)| known.as_str() == Some(name));
                if let Some((_, value)) = found {
                    return Ok(value.clone());
                }
            }
            TemplateValue::Loop(state) => {
                if let Some(value) = methods::loop_attribute(state, name)? {
                    return Ok(value);
                }
            }
            TemplateValue::Tuple(seq) if seq.is_group && name == "grouper" => return Ok(seq.items[0].clone()),
            TemplateValue::Tuple(seq) if seq.is_group && name == "list" => return Ok(seq.items[1].clone()),
            TemplateValue::Cycler(place) if name == "current" => {
                let (items, at) = &self.cyclers[*place];
                return Ok(items[*at].clone());
            }
            TemplateValue::Macro(place) => {
                let found = self.macros[*place].0;
                match name {
                    "name" => return TemplateValue::text(&*found.name),
                    "caller" => return Ok(TemplateValue::Bool(found.uses_caller)),
                    "catch_varargs" => return Ok(TemplateValue::Bool(found.uses_varargs)),
                    "catch_kwargs" => return Ok(TemplateValue::Bool(found.uses_kwargs)),
                    "arguments" => {
                        let names = found.parameters.iter().map(|name| TemplateValue::text(&**name));
                        return TemplateValue::tuple(names.collect::<RenderResult<_>>()?);
                    }
                    _ => {}
                }
            }
            TemplateValue::Int(_) | TemplateValue::Bool(_) if ["real", "numerator"].contains(&name) => {
                return Ok(TemplateValue::Int(object.as_int().unwrap_or(0)));
            }
            TemplateValue::Int(_) | TemplateValue::Bool(_) if name == "imag" => {
                return Ok(TemplateValue::Int(0));
            }
            TemplateValue::Int(_) | TemplateValue::Bool(_) if name == "denominator" => {
                return Ok(TemplateValue::Int(1));
            }
            TemplateValue::Float(_) if name == "real" => return Ok(object.clone()),
            TemplateValue::Float(_) if name == "imag" => return Ok(TemplateValue::Float(0.0)),
            _ => {}
        }
        if names::is_unsafe(object, name) {
            return Ok(TemplateValue::undefined(format!(
                "access to attribute '{name}' of '{}' object is unsafe.",
                object.type_name()
            )));
        }
        if names::has_method(object, name) {
            return TemplateValue::method(object.clone(), name);
        }
        if let TemplateValue::Dict(dict) = object
            && let Some(value) = dict.get_str(name)
        {
            return Ok(value.clone());
        }
        Ok(TemplateValue::undefined(format!("'{}' has no attribute '{name}'", methods::described(object))))
    }

    fn item(&self, object: &TemplateValue, key: &TemplateValue) -> RenderResult<TemplateValue> {
        if let TemplateValue::Undefined(missing) = object {
            return fail(missing.0.clone());
        }
        if let Some(value) = subscripts::subscript(object, key)? {
            return Ok(value);
        }
        match key {
            TemplateValue::Text(name)
                if matches!(object, TemplateValue::Dict(_)) && !names::has_method(object, name.as_str()) =>
            {
                Ok(TemplateValue::undefined(format!("'dict object' has no attribute '{}'", name.as_str())))
            }
            TemplateValue::Text(name) => self.attribute(object, name.as_str()),
            _ => {
                let mut text = TextBuffer::default();
                print::repr(self, key, &mut text, 0)?;
                let what = methods::described(object);
                Ok(TemplateValue::undefined(format!("{what} has no element {}", text.as_str())))
            }
        }
    }

    fn namespace(&self, place: usize) -> &[(TemplateValue, TemplateValue)] {
        self.namespaces.get(place).map_or(&[], Vec::as_slice)
    }

    fn macro_name(&self, place: usize) -> &str {
        self.macros.get(place).map_or("", |(found, _)| &found.name)
    }

    fn cycle(&mut self, place: usize) -> TemplateValue {
        let (items, at) = &mut self.cyclers[place];
        let value = items[*at].clone();
        *at = (*at + 1) % items.len();
        value
    }

    fn reset(&mut self, place: usize) {
        self.cyclers[place].1 = 0;
    }
}
