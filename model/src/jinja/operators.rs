//! Python's operators: arithmetic, comparison, membership, and sorting by them. Items and slices stand in [`super::subscripts`].

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{ComparisonOperator, Operator};
use super::fault::{RenderResult, TemplateFault, fail, room, step, touch};
use super::text_buffer::TextBuffer;
use super::value::{Seq, TemplateValue, ViewKind, quoted_type};

/// `left operator right`.
pub(super) fn arithmetic(
    operator: Operator,
    left: &TemplateValue,
    right: &TemplateValue,
) -> RenderResult<TemplateValue> {
    for side in [left, right] {
        if let TemplateValue::Undefined(missing) = side
            && !(operator == Operator::Modulo && left.as_str().is_some())
        {
            return fail(missing.0.clone());
        }
    }
    match (operator, left, right) {
        (Operator::Add, TemplateValue::Text(one), TemplateValue::Text(other)) => {
            let mut out = TextBuffer::default();
            out.push(one.as_str())?;
            out.push(other.as_str())?;
            out.into_value()
        }
        (Operator::Add, TemplateValue::List(one), TemplateValue::List(other)) => {
            TemplateValue::list(joined(one, other)?)
        }
        (Operator::Add, TemplateValue::Tuple(one), TemplateValue::Tuple(other)) => {
            TemplateValue::tuple(joined(one, other)?)
        }
        (
            Operator::Multiply,
            TemplateValue::Text(_) | TemplateValue::List(_) | TemplateValue::Tuple(_),
            _,
        ) if right.as_int().is_some() => repeated(left, right.as_int().unwrap_or(0)),
        (
            Operator::Multiply,
            _,
            TemplateValue::Text(_) | TemplateValue::List(_) | TemplateValue::Tuple(_),
        ) if left.as_int().is_some() => repeated(right, left.as_int().unwrap_or(0)),
        _ => match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
            (Some(one), Some(other), _, _) => integers(operator, one, other),
            (_, _, Some(one), Some(other)) => floats(operator, one, other).map(TemplateValue::Float),
            _ => fail(mismatch(operator, left, right)),
        },
    }
}

fn mismatch(operator: Operator, left: &TemplateValue, right: &TemplateValue) -> String {
    let (one, other) = (quoted_type(left), quoted_type(right));
    match (operator, left) {
        (Operator::Add, TemplateValue::Text(_)) => {
            format!("can only concatenate str (not \"{}\") to str", right.type_name())
        }
        (Operator::Add, TemplateValue::List(_)) => {
            format!("can only concatenate list (not \"{}\") to list", right.type_name())
        }
        (Operator::Add, TemplateValue::Tuple(_)) => {
            format!("can only concatenate tuple (not \"{}\") to tuple", right.type_name())
        }
        _ => {
            let sign = match operator {
                Operator::Add => "+",
                Operator::Subtract => "-",
                Operator::Multiply => "*",
                Operator::Divide => "/",
                Operator::FloorDivide => "//",
                Operator::Modulo => "%",
                Operator::Power => "** or pow()",
            };
            format!("unsupported operand type(s) for {sign}: {one} and {other}")
        }
    }
}

fn joined(one: &Seq, other: &Seq) -> RenderResult<Vec<TemplateValue>> {
    let count = one.items.len() + other.items.len();
    room(count * size_of::<TemplateValue>())?;
    step(count as u64 / 8)?;
    Ok(one.items.iter().chain(&other.items).cloned().collect())
}

fn repeated(value: &TemplateValue, times: i128) -> RenderResult<TemplateValue> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        TemplateValue::Text(text) => {
            let mut out = TextBuffer::default();
            out.repeat(text.as_str(), times)?;
            out.into_value()
        }
        TemplateValue::List(seq) | TemplateValue::Tuple(seq) => {
            let count = seq.items.len().saturating_mul(times);
            room(count.saturating_mul(size_of::<TemplateValue>()))?;
            step(count as u64 / 8)?;
            let mut items = Vec::with_capacity(count);
            for _ in 0..times.min(count) {
                items.extend(seq.items.iter().cloned());
            }
            if let TemplateValue::List(_) = value {
                TemplateValue::list(items)
            } else {
                TemplateValue::tuple(items)
            }
        }
        _ => fail("only text, lists and tuples can be repeated"),
    }
}

fn integers(operator: Operator, one: i128, other: i128) -> RenderResult<TemplateValue> {
    let zero =
        |what: &str| -> RenderResult<TemplateValue> { fail(format!("ZeroDivisionError: {what} by zero")) };
    let exact = match operator {
        Operator::Add => one.checked_add(other),
        Operator::Subtract => one.checked_sub(other),
        Operator::Multiply => one.checked_mul(other),
        Operator::Divide if other == 0 => return zero("division"),
        Operator::Divide => return Ok(TemplateValue::Float(one as f64 / other as f64)),
        Operator::FloorDivide | Operator::Modulo if other == 0 => return zero("integer division or modulo"),
        Operator::FloorDivide => {
            let quotient = one.checked_div(other);
            let has_rest = one.checked_rem(other).is_some_and(|rest| rest != 0);
            quotient.map(|quotient| quotient - i128::from(has_rest && (one < 0) != (other < 0)))
        }
        Operator::Modulo => {
            let rest = one.checked_rem(other).unwrap_or(0);
            Some(if rest != 0 && (rest < 0) != (other < 0) { rest + other } else { rest })
        }
        Operator::Power if other < 0 => {
            return floats(operator, one as f64, other as f64).map(TemplateValue::Float);
        }
        Operator::Power => match one {
            0 | 1 => Some(if other == 0 { 1 } else { one }),
            -1 => Some(if other % 2 == 0 { 1 } else { -1 }),
            _ => u32::try_from(other).ok().and_then(|exponent| one.checked_pow(exponent)),
        },
    };
    exact.map(TemplateValue::Int).ok_or_else(|| TemplateFault::failed("an integer has more than 38 digits"))
}

fn floats(operator: Operator, one: f64, other: f64) -> RenderResult<f64> {
    let is_division = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo);
    if is_division && other == 0.0 {
        return fail("ZeroDivisionError: float division by zero");
    }
    Ok(match operator {
        Operator::Add => one + other,
        Operator::Subtract => one - other,
        Operator::Multiply => one * other,
        Operator::Divide => one / other,
        Operator::FloorDivide => {
            let quotient = (one - modulo(one, other)) / other;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        Operator::Modulo => modulo(one, other),
        Operator::Power if one == 0.0 && other < 0.0 => {
            return fail("ZeroDivisionError: 0.0 cannot be raised to a negative power");
        }
        Operator::Power => one.powf(other),
    })
}

fn modulo(one: f64, other: f64) -> f64 {
    let rest = one % other;
    if rest != 0.0 && (rest < 0.0) != (other < 0.0) { rest + other } else { rest }
}

/// `left == right`.
pub(super) fn is_equal(left: &TemplateValue, right: &TemplateValue) -> RenderResult<bool> {
    step(1)?;
    Ok(match (left, right) {
        (TemplateValue::Text(one), TemplateValue::Text(other)) => {
            touch(one.as_str().len().min(other.as_str().len()))?;
            one.as_str() == other.as_str()
        }
        (TemplateValue::Undefined(_), TemplateValue::Undefined(_))
        | (TemplateValue::None, TemplateValue::None) => true,
        (TemplateValue::List(one), TemplateValue::List(other))
        | (TemplateValue::Tuple(one), TemplateValue::Tuple(other)) => {
            Rc::ptr_eq(one, other) || all_equal(&one.items, &other.items)?
        }
        (TemplateValue::Dict(one), TemplateValue::Dict(other)) => {
            if Rc::ptr_eq(one, other) {
                return Ok(true);
            }
            if one.entries.len() != other.entries.len() {
                return Ok(false);
            }
            for (key, value) in &one.entries {
                match other.get(&key.key()?) {
                    Some(found) if is_equal(value, found)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (TemplateValue::View(one, _), TemplateValue::View(other, _))
            if one == other && *one != ViewKind::Values =>
        {
            let (one, other) = (left.items()?, right.items()?);
            if one.items.len() != other.items.len() {
                return Ok(false);
            }
            for item in &one.items {
                if !holds(&other.items, item)? {
                    return Ok(false);
                }
            }
            true
        }
        (TemplateValue::Range(_), TemplateValue::Range(_)) => {
            all_equal(&left.items()?.items, &right.items()?.items)?
        }
        (TemplateValue::Int(one), TemplateValue::Int(other)) => one == other,
        _ => match (left.as_float(), right.as_float()) {
            (Some(one), Some(other)) => one == other,
            (None, None) => is_same_thing(left, right),
            _ => false,
        },
    })
}

fn all_equal(one: &[TemplateValue], other: &[TemplateValue]) -> RenderResult<bool> {
    if one.len() != other.len() {
        return Ok(false);
    }
    for (one, other) in one.iter().zip(other) {
        if !is_equal(one, other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether both are one and the same object, of those that are equal to themselves alone.
pub(super) fn is_same_thing(left: &TemplateValue, right: &TemplateValue) -> bool {
    match (left, right) {
        (TemplateValue::Namespace(one), TemplateValue::Namespace(other))
        | (TemplateValue::Macro(one), TemplateValue::Macro(other))
        | (TemplateValue::Cycler(one), TemplateValue::Cycler(other))
        | (TemplateValue::Joiner(one), TemplateValue::Joiner(other)) => one == other,
        (TemplateValue::Function(one), TemplateValue::Function(other)) => one == other,
        (TemplateValue::Iterator(one), TemplateValue::Iterator(other)) => Rc::ptr_eq(one, other),
        (TemplateValue::Loop(one), TemplateValue::Loop(other)) => Rc::ptr_eq(one, other),
        (TemplateValue::Method(one), TemplateValue::Method(other)) => Rc::ptr_eq(one, other),
        _ => false,
    }
}

/// `left < right`.
pub(super) fn is_less(left: &TemplateValue, right: &TemplateValue) -> RenderResult<bool> {
    Ok(order(left, right, "<")? == Some(Ordering::Less))
}

/// How two values stand to each other; `None` beside a NaN.
fn order(left: &TemplateValue, right: &TemplateValue, sign: &str) -> RenderResult<Option<Ordering>> {
    step(1)?;
    match (left, right) {
        (TemplateValue::Undefined(missing), _) | (_, TemplateValue::Undefined(missing)) => {
            fail(missing.0.clone())
        }
        (TemplateValue::Text(one), TemplateValue::Text(other)) => {
            touch(one.as_str().len().min(other.as_str().len()))?;
            Ok(Some(one.as_str().cmp(other.as_str())))
        }
        (TemplateValue::List(one), TemplateValue::List(other))
        | (TemplateValue::Tuple(one), TemplateValue::Tuple(other)) => {
            for (one, other) in one.items.iter().zip(&other.items) {
                if !is_equal(one, other)? {
                    return order(one, other, sign);
                }
            }
            Ok(Some(one.items.len().cmp(&other.items.len())))
        }
        (TemplateValue::Int(one), TemplateValue::Int(other)) => Ok(Some(one.cmp(other))),
        _ => match (left.as_float(), right.as_float()) {
            (Some(one), Some(other)) => Ok(one.partial_cmp(&other)),
            _ => fail(format!(
                "'{sign}' not supported between instances of {} and {}",
                quoted_type(left),
                quoted_type(right)
            )),
        },
    }
}

/// `left comparison right`.
pub(super) fn compare(
    comparison: ComparisonOperator,
    left: &TemplateValue,
    right: &TemplateValue,
) -> RenderResult<bool> {
    Ok(match comparison {
        ComparisonOperator::Equal => is_equal(left, right)?,
        ComparisonOperator::NotEqual => !is_equal(left, right)?,
        ComparisonOperator::Less => order(left, right, "<")? == Some(Ordering::Less),
        ComparisonOperator::LessOrEqual => order(left, right, "<=")?.is_some_and(Ordering::is_le),
        ComparisonOperator::Greater => order(left, right, ">")? == Some(Ordering::Greater),
        ComparisonOperator::GreaterOrEqual => order(left, right, ">=")?.is_some_and(Ordering::is_ge),
        ComparisonOperator::In => contains(right, left)?,
        ComparisonOperator::NotIn => !contains(right, left)?,
    })
}

/// `item in container`.
pub(super) fn contains(container: &TemplateValue, item: &TemplateValue) -> RenderResult<bool> {
    match container {
        TemplateValue::Text(text) => match item {
            TemplateValue::Text(part) => {
                touch(text.as_str().len())?;
                Ok(text.as_str().contains(part.as_str()))
            }
            other => {
                fail(format!("'in <string>' requires string as left operand, not {}", other.type_name()))
            }
        },
        TemplateValue::Dict(dict) | TemplateValue::View(ViewKind::Keys, dict) => {
            Ok(dict.get(&item.key()?).is_some())
        }
        other if other.is_iterable() => holds(&other.items()?.items, item),
        other => fail(format!("argument of type {} is not iterable", quoted_type(other))),
    }
}

fn holds(items: &[TemplateValue], item: &TemplateValue) -> RenderResult<bool> {
    for other in items {
        if is_equal(other, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A stable sort by a comparison that may fail.
pub(super) fn sorted<T: Clone>(
    items: Vec<T>,
    is_less: impl Fn(&T, &T) -> RenderResult<bool>,
) -> RenderResult<Vec<T>> {
    let mut items = items;
    let mut width = 1;
    while width < items.len() {
        let mut merged = Vec::with_capacity(items.len());
        for block in items.chunks(2 * width) {
            let (left, right) = block.split_at(width.min(block.len()));
            let (mut i, mut j) = (0, 0);
            while i < left.len() && j < right.len() {
                if is_less(&right[j], &left[i])? {
                    merged.push(right[j].clone());
                    j += 1;
                } else {
                    merged.push(left[i].clone());
                    i += 1;
                }
            }
            merged.extend_from_slice(&left[i..]);
            merged.extend_from_slice(&right[j..]);
        }
        items = merged;
        width *= 2;
    }
    Ok(items)
}
