//! `value is test`: Jinja's tests.

use super::call_arguments::CallArguments;
use super::context::RenderContext;
use super::fault::{RenderResult, fail};
use super::names::{self, comparison};
use super::value::TemplateValue;
use super::{operators, print, strings};

/// The test's result. Error: a test that does not exist, wrong arguments, a value that it does not take.
pub(super) fn call(
    context: &mut dyn RenderContext,
    name: &str,
    value: &TemplateValue,
    args: CallArguments,
) -> RenderResult<bool> {
    if let Some(comparison) = comparison(name) {
        let [other] = args.bind(name, ["other"])?;
        let Some(other) = other else {
            return fail(format!("the test '{name}' wants a value to compare with"));
        };
        return operators::compare(comparison, value, &other);
    }
    match name {
        "divisibleby" | "even" | "odd" => {
            let [divisor] = args.bind(name, ["num"])?;
            let divisor = if name == "divisibleby" {
                divisor.unwrap_or(TemplateValue::None)
            } else {
                TemplateValue::Int(2)
            };
            let rest = match value.as_str() {
                Some(template) => super::format::percent(context, template, &divisor)?,
                None => operators::arithmetic(super::ast::Operator::Modulo, value, &divisor)?,
            };
            operators::is_equal(&rest, &TemplateValue::Int(i128::from(name == "odd")))
        }
        "sameas" => {
            let [other] = args.bind(name, ["other"])?;
            let other = other.unwrap_or(TemplateValue::None);
            Ok(value.type_name() == other.type_name()
                && match (value, &other) {
                    (TemplateValue::List(one), TemplateValue::List(other)) => std::rc::Rc::ptr_eq(one, other),
                    (TemplateValue::Dict(one), TemplateValue::Dict(other)) => std::rc::Rc::ptr_eq(one, other),
                    (TemplateValue::Float(one), TemplateValue::Float(other)) => {
                        one.to_bits() == other.to_bits()
                    }
                    _ => operators::is_equal(value, &other)?,
                })
        }
        _ => {
            let [] = args.bind(name, [])?;
            simple(context, name, value)
        }
    }
}

fn simple(context: &dyn RenderContext, name: &str, value: &TemplateValue) -> RenderResult<bool> {
    Ok(match name {
        "boolean" => matches!(value, TemplateValue::Bool(_)),
        "callable" => matches!(
            value,
            TemplateValue::Function(_)
                | TemplateValue::Method(_)
                | TemplateValue::Macro(_)
                | TemplateValue::Joiner(_)
                | TemplateValue::Loop(_)
                // Undefined has a __call__, which fails.
                | TemplateValue::Undefined(_)
        ),
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "escaped" => false,
        "true" => matches!(value, TemplateValue::Bool(true)),
        "false" => matches!(value, TemplateValue::Bool(false)),
        "none" => value.is_none(),
        "integer" => matches!(value, TemplateValue::Int(_)),
        "float" => matches!(value, TemplateValue::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, TemplateValue::Dict(_)),
        "sequence" => matches!(
            value,
            TemplateValue::Text(_)
                | TemplateValue::List(_)
                | TemplateValue::Tuple(_)
                | TemplateValue::Dict(_)
                | TemplateValue::Range(_)
                | TemplateValue::Undefined(_)
        ),
        "iterable" => value.is_iterable(),
        "lower" | "upper" => {
            let text = print::string(context, value)?;
            super::fault::touch(text.as_str().map_or(0, str::len))?;
            strings::has_case(text.as_str().unwrap_or(""), name == "upper")
        }
        "filter" | "test" => match value {
            TemplateValue::Text(text) if name == "filter" => names::is_filter(text.as_str()),
            TemplateValue::Text(text) => names::is_test(text.as_str()),
            _ => false,
        },
        _ => return fail(format!("No test named '{name}'.")),
    })
}
