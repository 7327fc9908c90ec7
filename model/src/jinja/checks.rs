//! `value is test`: Jinja's tests.

use super::ast::Comparison;
use super::fault::{Outcome, fail};
use super::filters;
use super::interpreter::{Args, Interpreter};
use super::operators;
use super::print;
use super::value::Value;

/// Whether there is a test of this name.
pub(super) fn exists(name: &str) -> bool {
    comparison(name).is_some()
        || [
            "boolean",
            "callable",
            "defined",
            "divisibleby",
            "escaped",
            "even",
            "false",
            "filter",
            "float",
            "integer",
            "iterable",
            "lower",
            "mapping",
            "none",
            "number",
            "odd",
            "sameas",
            "sequence",
            "string",
            "test",
            "true",
            "undefined",
            "upper",
        ]
        .contains(&name)
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "eq" | "equalto" | "==" => Comparison::Equal,
        "ne" | "!=" => Comparison::NotEqual,
        "lt" | "lessthan" | "<" => Comparison::Less,
        "le" | "<=" => Comparison::LessOrEqual,
        "gt" | "greaterthan" | ">" => Comparison::Greater,
        "ge" | ">=" => Comparison::GreaterOrEqual,
        "in" => Comparison::In,
        _ => return None,
    })
}

/// The test's result. Error: a test that does not exist, wrong arguments, a value that it does not take.
pub(super) fn call(machine: &mut Interpreter<'_>, name: &str, value: &Value, args: Args) -> Outcome<bool> {
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
            let divisor = if name == "divisibleby" { divisor.unwrap_or(Value::None) } else { Value::Int(2) };
            let rest = match value.as_str() {
                Some(template) => super::format::percent(machine, template, &divisor)?,
                None => operators::arithmetic(super::ast::Operator::Modulo, value, &divisor)?,
            };
            operators::is_equal(&rest, &Value::Int(i128::from(name == "odd")))
        }
        "sameas" => {
            let [other] = args.bind(name, ["other"])?;
            let other = other.unwrap_or(Value::None);
            Ok(value.type_name() == other.type_name()
                && match (value, &other) {
                    (Value::List(one), Value::List(other)) => std::rc::Rc::ptr_eq(one, other),
                    (Value::Dict(one), Value::Dict(other)) => std::rc::Rc::ptr_eq(one, other),
                    (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
                    _ => operators::is_equal(value, &other)?,
                })
        }
        _ => {
            let [] = args.bind(name, [])?;
            simple(machine, name, value)
        }
    }
}

fn simple(machine: &Interpreter<'_>, name: &str, value: &Value) -> Outcome<bool> {
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => matches!(
            value,
            Value::Function(_)
                | Value::Method(_)
                | Value::Macro(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                // Undefined has a __call__, which fails.
                | Value::Undefined(_)
        ),
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "escaped" => false,
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "none" => value.is_none(),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Text(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Undefined(_)
        ),
        "iterable" => value.is_iterable(),
        "lower" | "upper" => {
            let text = print::string(machine, value)?;
            super::fault::touch(text.as_str().map_or(0, str::len))?;
            super::methods::has_case(text.as_str().unwrap_or(""), name == "upper")
        }
        "filter" | "test" => match value {
            Value::Text(text) if name == "filter" => filters::exists(text.as_str()),
            Value::Text(text) => exists(text.as_str()),
            _ => false,
        },
        _ => return fail(format!("No test named '{name}'.")),
    })
}
