//! `value | filter`: Jinja's filters. Those that make text stand in [`super::text_filters`], those of numbers in
//! [`super::number_filters`].
//!
//! Past 400 lines: one table of what a template may call.

use std::collections::HashSet;
use std::rc::Rc;

use super::call_arguments::CallArguments;
use super::checks;
use super::context::RenderContext;
use super::fault::{RenderResult, TemplateFault, fail, room, step};
use super::number_filters::{absolute, round, to_float, to_int};
use super::operators::{self, is_equal, is_less};
use super::print::{self, JsonStyle};
use super::text_buffer::TextBuffer;
use super::value::{Seq, TemplateValue, ViewKind, sequence, undefined_fails};
use super::{names, text_filters};

/// The filter's result. Error: a filter that does not exist, wrong arguments, a value that it does not take.
pub(super) fn call(
    context: &mut dyn RenderContext,
    name: &str,
    value: &TemplateValue,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    match name {
        "abs" => absolute(args, value),
        "attr" => {
            let [name] = args.bind("attr", ["name"])?;
            let name = name.unwrap_or(TemplateValue::None);
            let Some(name) = name.as_str() else { return fail("attribute name must be string") };
            attr(context, value, name)
        }
        "batch" | "slice" => parts(name, args, value),
        "count" | "length" => {
            let [] = args.bind(name, [])?;
            match value.len() {
                Some(length) => Ok(TemplateValue::Int(length as i128)),
                None => fail(format!("object of type '{}' has no len()", value.type_name())),
            }
        }
        "d" | "default" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            if value.is_undefined() || (boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true())
            {
                return default.map_or_else(|| TemplateValue::text(""), Ok);
            }
            Ok(value.clone())
        }
        "dictsort" => dictsort(args, value),
        "first" | "last" => {
            let [] = args.bind(name, [])?;
            let items = if name == "first" { value.items()? } else { reversed(value)?.0 };
            let empty = || TemplateValue::undefined(format!("No {name} item, sequence was empty."));
            Ok(items.items.first().cloned().unwrap_or_else(empty))
        }
        "float" => {
            let [default] = args.bind("float", ["default"])?;
            undefined_fails(value)?;
            Ok(to_float(value)
                .map_or_else(|| default.unwrap_or(TemplateValue::Float(0.0)), TemplateValue::Float))
        }
        "groupby" => groupby(context, args, value),
        "int" => to_int(args, value),
        "items" => match value {
            TemplateValue::Undefined(_) => TemplateValue::generator(Vec::new()),
            TemplateValue::Dict(dict) => {
                let items = TemplateValue::View(ViewKind::Items, Rc::clone(dict)).items()?;
                Ok(TemplateValue::iterator(items, "generator"))
            }
            _ => fail("Can only get item pairs from a mapping."),
        },
        "join" => join(context, args, value),
        "list" => {
            let [] = args.bind("list", [])?;
            TemplateValue::list(value.items()?.items.clone())
        }
        "map" => map(context, args, value),
        "max" | "min" => extreme(context, name, args, value),
        "random" => fail("the filter 'random' draws at random, which a chat template must not"),
        "reject" | "rejectattr" | "select" | "selectattr" => select(context, name, args, value),
        "reverse" => match value {
            TemplateValue::Text(text) => TemplateValue::text(text.as_str().chars().rev().collect::<String>()),
            _ => {
                let (items, type_name) = reversed(value)?;
                if type_name == "list" {
                    TemplateValue::list(items.items.clone())
                } else {
                    Ok(TemplateValue::iterator(items, type_name))
                }
            }
        },
        "round" => round(args, value),
        "safe" => Ok(value.clone()),
        "sort" => sort(context, args, value),
        "string" => print::string(context, value),
        "pprint" => {
            let mut out = TextBuffer::default();
            print::repr(context, value, &mut out, 0)?;
            out.into_value()
        }
        "sum" => sum(context, args, value),
        "tojson" => to_json(args, value),
        "unique" => unique(context, args, value),
        _ if names::is_text_filter(name) => text_filters::call(context, name, value, args),
        _ => fail(format!("No filter named '{name}'.")),
    }
}

fn attr(context: &dyn RenderContext, value: &TemplateValue, name: &str) -> RenderResult<TemplateValue> {
    // As `value.name`, but never an item of a mapping.
    if let TemplateValue::Dict(_) = value
        && !names::has_method(value, name)
    {
        return Ok(TemplateValue::undefined(format!("'dict object' has no attribute '{name}'")));
    }
    context.attribute(value, name)
}

/// A path like `a.0.b`, as the filters' `attribute` takes it.
#[derive(Clone, Debug)]
struct Path(Vec<TemplateValue>);

impl Path {
    fn parse(attribute: &TemplateValue) -> RenderResult<Self> {
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

    fn get(
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

/// A text in small letters where the case does not count.
fn folded(value: TemplateValue, case_sensitive: bool) -> RenderResult<TemplateValue> {
    match value.as_str() {
        Some(text) if !case_sensitive => TemplateValue::text(text.to_lowercase()),
        _ => Ok(value),
    }
}

fn is_set(value: Option<&TemplateValue>) -> bool {
    value.is_some_and(TemplateValue::is_true)
}

fn given(value: Option<TemplateValue>) -> TemplateValue {
    value.unwrap_or(TemplateValue::None)
}

fn size(value: &TemplateValue, what: &str) -> RenderResult<usize> {
    match value.as_int() {
        Some(number) => Ok(usize::try_from(number).unwrap_or(0)),
        None => fail(format!("{what} must be an integer, not {}", value.type_name())),
    }
}

fn parts(name: &str, args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
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

fn dictsort(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
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
fn reversed(value: &TemplateValue) -> RenderResult<(Rc<Seq>, &'static str)> {
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

fn groupby(
    context: &mut dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [attribute, default, case_sensitive] =
        args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let path = Path::parse(&given(attribute))?;
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

fn join(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = match separator {
        Some(separator) => print::string(context, &separator)?,
        None => TemplateValue::text("")?,
    };
    let path = Path::parse(&given(attribute))?;
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

fn map(
    context: &mut dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    if !value.is_true() {
        return TemplateValue::generator(Vec::new());
    }
    let items = value.items()?;
    let mut out = Vec::with_capacity(items.items.len());
    if args.positional.is_empty() && args.named.iter().any(|(name, _)| name == "attribute") {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let path = Path::parse(&given(attribute))?;
        let default = default.filter(|default| !default.is_none());
        for item in &items.items {
            out.push(path.get(context, item, default.as_ref())?);
        }
        return TemplateValue::generator(out);
    }
    let mut positional = args.positional.into_iter();
    let filter = positional.next().ok_or_else(|| TemplateFault::failed("map requires a filter argument"))?;
    let Some(filter) = filter.as_str() else { return fail("map requires the name of a filter") };
    let rest = CallArguments { positional: positional.collect(), named: args.named };
    for item in &items.items {
        step(1)?;
        out.push(call(context, filter, item, rest.clone())?);
    }
    TemplateValue::generator(out)
}

fn select(
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
        Path::parse(&attribute.ok_or_else(|| TemplateFault::failed("Missing parameter for attribute name"))?)?
    } else {
        Path(Vec::new())
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

fn extreme(
    context: &dyn RenderContext,
    name: &str,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let path = Path::parse(&given(attribute))?;
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

fn sort(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [reverse, case_sensitive, attribute] =
        args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case_sensitive = is_set(case_sensitive.as_ref());
    let paths: Vec<Path> = match given(attribute) {
        TemplateValue::Text(text) => text
            .as_str()
            .split(',')
            .map(|part| Path::parse(&TemplateValue::text(part)?))
            .collect::<RenderResult<_>>()?,
        other => vec![Path::parse(&other)?],
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

fn sum(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let path = Path::parse(&given(attribute))?;
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

fn unique(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let path = Path::parse(&given(attribute))?;
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

/// `tojson` as transformers has it: `json.dumps` with `ensure_ascii=False`.
fn to_json(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [ascii, indent, separators, sort] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match given(indent) {
        TemplateValue::None => None,
        TemplateValue::Text(text) => Some(text.as_str().to_owned()),
        other => {
            let width = size(&other, "tojson: indent")?;
            room(width)?;
            Some(" ".repeat(width))
        }
    };
    let mut between = if indent.is_some() { "," } else { ", " }.to_owned();
    let mut after_key = ": ".to_owned();
    let separators = given(separators);
    if !separators.is_none() {
        let items = separators.items()?;
        match items.items.iter().map(TemplateValue::as_str).collect::<Vec<_>>().as_slice() {
            [Some(one), Some(other)] => {
                between = (*one).to_owned();
                after_key = (*other).to_owned();
            }
            _ => return fail("tojson: separators must be two strings"),
        }
    }
    let style = JsonStyle {
        indent,
        between,
        after_key,
        is_ascii: is_set(ascii.as_ref()),
        is_sorted: is_set(sort.as_ref()),
    };
    let mut out = TextBuffer::default();
    print::json(value, &style, &mut out, 0)?;
    out.into_value()
}
