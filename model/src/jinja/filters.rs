//! `value | filter`: Jinja's filters. Those that make text stand in [`super::text_filters`], those of numbers in
//! [`super::number_filters`], those of several values in [`super::sequence_filters`].

use std::rc::Rc;

use super::attribute_path::AttributePath;
use super::call_arguments::{CallArguments, given, is_set, size};
use super::context::RenderContext;
use super::fault::{RenderResult, TemplateFault, fail, room, step};
use super::number_filters::{absolute, round, to_float, to_int};
use super::print::{self, JsonStyle};
use super::sequence_filters::{dictsort, extreme, groupby, join, parts, reversed, select, sort, sum, unique};
use super::text_buffer::TextBuffer;
use super::value::{TemplateValue, ViewKind, undefined_fails};
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
        let path = AttributePath::parse(&given(attribute))?;
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
