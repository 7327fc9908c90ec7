//! Filters of several values: `batch`, `dictsort`, `groupby`, `join`, `max`, `select`, `slice`, `sort`, `sum`, `unique` and their like.

use std::collections::HashSet;
use std::rc::Rc;

use super::attribute_path::AttributePath;
use super::call_arguments::{CallArguments, given, is_set, size};
use super::checks;
use super::context::RenderContext;
use super::fault::{RenderResult, TemplateFault, fail, room, step};
use super::operators::{self, is_equal, is_less};
use super::print;
use super::text_buffer::TextBuffer;
use super::value::{Seq, TemplateValue, ViewKind, sequence, undefined_fails};

/// A text in small letters where the case does not count.
fn folded(value: TemplateValue, case_sensitive: bool) -> RenderResult<TemplateValue> {
    match value.as_str() {
        Some(text) if !case_sensitive => TemplateValue::text(text.to_lowercase()),
        _ => Ok(value),
    }
}

pub(super) fn parts(name: &str, args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [count, fill] =
        args.bind(name, [if name == "batch" { "linecount" } else { "slices" }, "fill_with"])?;
    let count = size(&given(count), "the count")?;
    let fill = given(fill);
    let items = value.items()?;
    let items = &items.items;
    room(count.saturating_mul(size_of::<TemplateValue>()))?;
    step(count as u64)?;
    let mut out = Vec::new();
    if name == "batch" {
        if count == 0 {
            // As Jinja: what is collected so far has that length before the first item.
            let all = vec![TemplateValue::list(Vec::new())?, TemplateValue::list(items.clone())?];
            let all = if items.is_empty() { Vec::new() } else { all };
            return TemplateValue::generator(all);
        }
        for chunk in items.chunks(count) {
            let mut row = chunk.to_vec();
            if !fill.is_none() {
                row.resize(count, fill.clone());
            }
            out.push(TemplateValue::list(row)?);
        }
        return TemplateValue::generator(out);
    }
    if count == 0 {
        return fail("ZeroDivisionError: integer division or modulo by zero");
    }
    let (each, more) = (items.len() / count, items.len() % count);
    let mut at = 0;
    for number in 0..count {
        let end = at + each + usize::from(number < more);
        let mut row = items[at..end].to_vec();
        if !fill.is_none() && number >= more {
            row.push(fill.clone());
        }
        out.push(TemplateValue::list(row)?);
        at = end;
    }
    TemplateValue::generator(out)
}

pub(super) fn dictsort(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [case_sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let by_value = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        _ => return fail("You can only sort by either \"key\" or \"value\""),
    };
    undefined_fails(value)?;
    let TemplateValue::Dict(dict) = value else {
        return fail(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let case_sensitive = is_set(case_sensitive.as_ref());
    let mut keyed = Vec::with_capacity(dict.entries.len());
    for (key, item) in &dict.entries {
        let by = if by_value { item } else { key };
        keyed.push((
            folded(by.clone(), case_sensitive)?,
            TemplateValue::tuple(vec![key.clone(), item.clone()])?,
        ));
    }
    TemplateValue::list(by_key(keyed, is_set(reverse.as_ref()))?)
}

/// Values in the order of their keys, those of equal keys in the order in which they came.
fn by_key(
    mut keyed: Vec<(TemplateValue, TemplateValue)>,
    is_reversed: bool,
) -> RenderResult<Vec<TemplateValue>> {
    if is_reversed {
        keyed.reverse();
    }
    let mut sorted = operators::sorted(keyed, |(one, _), (other, _)| is_less(one, other))?;
    if is_reversed {
        sorted.reverse();
    }
    Ok(sorted.into_iter().map(|(_, value)| value).collect())
}

/// The items backwards, and the type that Python gives them as.
pub(super) fn reversed(value: &TemplateValue) -> RenderResult<(Rc<Seq>, &'static str)> {
    let type_name = match value {
        TemplateValue::List(_) => "list_reverseiterator",
        TemplateValue::Tuple(_) | TemplateValue::Text(_) => "reversed",
        TemplateValue::Dict(_) | TemplateValue::View(ViewKind::Keys, _) => "dict_reversekeyiterator",
        TemplateValue::View(ViewKind::Values, _) => "dict_reversevalueiterator",
        TemplateValue::View(ViewKind::Items, _) => "dict_reverseitemiterator",
        TemplateValue::Range(_) => "range_iterator",
        _ => "list",
    };
    let mut items = value.items()?.items.clone();
    items.reverse();
    Ok((sequence(items)?, type_name))
}

pub(super) fn groupby(
    context: &mut dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [attribute, default, case_sensitive] =
        args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let path = AttributePath::parse(&given(attribute))?;
    let default = default.filter(|default| !default.is_none());
    let case_sensitive = is_set(case_sensitive.as_ref());
    let mut keyed = Vec::new();
    for item in &value.items()?.items {
        let key = folded(path.get(context, item, default.as_ref())?, case_sensitive)?;
        keyed.push((key.clone(), TemplateValue::tuple(vec![key, item.clone()])?));
    }
    let mut groups: Vec<(TemplateValue, Vec<TemplateValue>)> = Vec::new();
    for pair in by_key(keyed, false)? {
        let pair = pair.items()?;
        let (key, item) = (pair.items[0].clone(), pair.items[1].clone());
        match groups.last_mut() {
            Some((last, items)) if is_equal(last, &key)? => items.push(item),
            _ => {
                // The group bears the name of its first item as it is written there.
                let shown = path.get(context, &item, default.as_ref())?;
                let shown = if case_sensitive { key.clone() } else { shown };
                groups.push((key, vec![shown, item]));
            }
        }
    }
    let mut out = Vec::with_capacity(groups.len());
    for (_, mut items) in groups {
        let shown = items.remove(0);
        out.push(TemplateValue::group(shown, TemplateValue::list(items)?)?);
    }
    TemplateValue::list(out)
}

pub(super) fn join(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = match separator {
        Some(separator) => print::string(context, &separator)?,
        None => TemplateValue::text("")?,
    };
    let path = AttributePath::parse(&given(attribute))?;
    let mut out = TextBuffer::default();
    for (index, item) in value.items()?.items.iter().enumerate() {
        step(1)?;
        if index > 0 {
            out.push(separator.as_str().unwrap_or(""))?;
        }
        let item = path.get(context, item, None)?;
        print::print(context, &item, &mut out)?;
    }
    out.into_value()
}

pub(super) fn select(
    context: &mut dyn RenderContext,
    name: &str,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    if !value.is_true() {
        return TemplateValue::generator(Vec::new());
    }
    let mut positional = args.positional.into_iter();
    let path = if name.ends_with("attr") {
        let attribute = positional.next();
        AttributePath::parse(
            &attribute.ok_or_else(|| TemplateFault::failed("Missing parameter for attribute name"))?,
        )?
    } else {
        AttributePath::whole()
    };
    let test = positional.next();
    let rest = CallArguments { positional: positional.collect(), named: args.named };
    let keeps = name.starts_with("select");
    let mut out = Vec::new();
    for item in &value.items()?.items {
        step(1)?;
        let tested = path.get(context, item, None)?;
        let holds = match &test {
            None => tested.is_true(),
            Some(test) => match test.as_str() {
                Some(test) => checks::call(context, test, &tested, rest.clone())?,
                None => return fail("the name of a test must be a string"),
            },
        };
        if holds == keeps {
            out.push(item.clone());
        }
    }
    TemplateValue::generator(out)
}

pub(super) fn extreme(
    context: &dyn RenderContext,
    name: &str,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let path = AttributePath::parse(&given(attribute))?;
    let case_sensitive = is_set(case_sensitive.as_ref());
    let mut best: Option<(TemplateValue, TemplateValue)> = None;
    for item in &value.items()?.items {
        let key = folded(path.get(context, item, None)?, case_sensitive)?;
        let is_better = match &best {
            None => true,
            Some((held, _)) if name == "max" => is_less(held, &key)?,
            Some((held, _)) => is_less(&key, held)?,
        };
        if is_better {
            best = Some((key, item.clone()));
        }
    }
    Ok(best.map_or_else(
        || TemplateValue::undefined("No aggregated item, sequence was empty."),
        |(_, item)| item,
    ))
}

pub(super) fn sort(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [reverse, case_sensitive, attribute] =
        args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case_sensitive = is_set(case_sensitive.as_ref());
    let paths: Vec<AttributePath> = match given(attribute) {
        TemplateValue::Text(text) => text
            .as_str()
            .split(',')
            .map(|part| AttributePath::parse(&TemplateValue::text(part)?))
            .collect::<RenderResult<_>>()?,
        other => vec![AttributePath::parse(&other)?],
    };
    let mut keyed = Vec::new();
    for item in &value.items()?.items {
        let mut keys = Vec::with_capacity(paths.len());
        for path in &paths {
            keys.push(folded(path.get(context, item, None)?, case_sensitive)?);
        }
        keyed.push((TemplateValue::list(keys)?, item.clone()));
    }
    TemplateValue::list(by_key(keyed, is_set(reverse.as_ref()))?)
}

pub(super) fn sum(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let path = AttributePath::parse(&given(attribute))?;
    let mut total = start.unwrap_or(TemplateValue::Int(0));
    if total.as_str().is_some() {
        return fail("sum() can't sum strings [use ''.join(seq) instead]");
    }
    for item in &value.items()?.items {
        step(1)?;
        let item = path.get(context, item, None)?;
        total = operators::arithmetic(super::ast::Operator::Add, &total, &item)?;
    }
    Ok(total)
}

pub(super) fn unique(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let path = AttributePath::parse(&given(attribute))?;
    let case_sensitive = is_set(case_sensitive.as_ref());
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for item in &value.items()?.items {
        step(1)?;
        if seen.insert(folded(path.get(context, item, None)?, case_sensitive)?.key()?) {
            out.push(item.clone());
        }
    }
    TemplateValue::generator(out)
}
