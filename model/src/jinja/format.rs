//! Python's two ways to put values into a text: `'%s' % value` and `'{}'.format(value)`. How one value is laid out stands in
//! [`super::format_spec`].

use super::context::RenderContext;
use super::fault::{RenderResult, TemplateFault, fail};
use super::format_spec::{FormatSpec, by_spec, cut, digits, number_of, pad, real};
use super::print;
use super::text_buffer::TextBuffer;
use super::value::TemplateValue;

/// `template % arguments`: a tuple gives several values, a mapping named ones.
pub(super) fn percent(
    context: &dyn RenderContext,
    template: &str,
    arguments: &TemplateValue,
) -> RenderResult<TemplateValue> {
    super::fault::touch(template.len())?;
    let mut out = TextBuffer::default();
    let mut rest = template;
    let single = [arguments.clone()];
    let values: &[TemplateValue] = match arguments {
        TemplateValue::Tuple(seq) => &seq.items,
        _ => &single,
    };
    let mut used = 0;
    let mut next = || -> RenderResult<TemplateValue> {
        let value = values.get(used).cloned();
        used += 1;
        value.ok_or_else(|| TemplateFault::failed("not enough arguments for format string"))
    };
    let mut used_names = false;
    while let Some(place) = rest.find('%') {
        out.push(&rest[..place])?;
        rest = &rest[place + 1..];
        let mut layout = FormatSpec::default();
        let mut named = None;
        if let Some(after) = rest.strip_prefix('(') {
            let TemplateValue::Dict(dict) = arguments else { return fail("format requires a mapping") };
            let end = after.find(')').ok_or_else(|| TemplateFault::failed("incomplete format key"))?;
            let key = &after[..end];
            named = Some(
                dict.get_str(key)
                    .cloned()
                    .ok_or_else(|| TemplateFault::failed(format!("KeyError: '{key}'")))?,
            );
            used_names = true;
            rest = &after[end + 1..];
        }
        while let Some(flag) = rest.chars().next().filter(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => layout.is_alternate = true,
                '0' => layout.is_zero_padded = true,
                '-' => layout.align = Some('<'),
                '+' => layout.sign = Some('+'),
                _ => layout.sign = layout.sign.or(Some(' ')),
            }
            rest = &rest[1..];
        }
        let mut star = |rest: &mut &str| -> RenderResult<Option<i128>> {
            let Some(after) = rest.strip_prefix('*') else { return Ok(None) };
            *rest = after;
            match next()? {
                TemplateValue::Int(number) => Ok(Some(number)),
                _ => fail("* wants int"),
            }
        };
        let digits = |rest: &mut &str| -> RenderResult<Option<usize>> {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number = if length > 0 { Some(number_of(&rest[..length])?) } else { None };
            *rest = &rest[length..];
            Ok(number)
        };
        if let Some(width) = star(&mut rest)? {
            layout.align = if width < 0 { Some('<') } else { layout.align };
            layout.width = number_of(&width.unsigned_abs().to_string())?;
        } else {
            layout.width = digits(&mut rest)?.unwrap_or(0);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            layout.precision = match star(&mut rest)? {
                Some(precision) => Some(number_of(&precision.max(0).to_string())?),
                None => Some(digits(&mut rest)?.unwrap_or(0)),
            };
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let Some(kind) = rest.chars().next() else { return fail("incomplete format") };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push("%")?;
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        one_percent(context, kind, &value, layout, &mut out)?;
    }
    out.push(rest)?;
    let is_left = match arguments {
        TemplateValue::Tuple(seq) => used < seq.items.len(),
        TemplateValue::Dict(_) | TemplateValue::List(_) => false,
        _ => used == 0 && !used_names,
    };
    if is_left {
        return fail("not all arguments converted during string formatting");
    }
    out.into_value()
}

fn one_percent(
    context: &dyn RenderContext,
    kind: char,
    value: &TemplateValue,
    mut layout: FormatSpec,
    out: &mut TextBuffer,
) -> RenderResult<()> {
    let wants = |what: &str| -> RenderResult<()> {
        fail(format!("%{kind} format: {what} is required, not {}", value.type_name()))
    };
    if layout.is_zero_padded && layout.align.is_none() && !"sracR".contains(kind) {
        layout.fill = Some('0');
        layout.align = Some('=');
    }
    layout.align = layout.align.or(Some('>'));
    match kind {
        's' | 'r' | 'a' => {
            let mut text = TextBuffer::default();
            if kind == 's' {
                print::print(context, value, &mut text)?;
            } else {
                print::repr(context, value, &mut text, 0)?;
            }
            let text = text.into_string();
            pad(&cut(&text, layout.precision), &layout, out)
        }
        'c' => match value {
            TemplateValue::Text(text) if text.len() == 1 => pad(text.as_str(), &layout, out),
            TemplateValue::Int(code) => match u32::try_from(*code).ok().and_then(char::from_u32) {
                Some(character) => pad(&character.to_string(), &layout, out),
                None => fail("%c arg not in range(0x110000)"),
            },
            _ => fail("%c requires int or char"),
        },
        'd' | 'i' | 'u' => match (value, value.as_int()) {
            (_, Some(number)) => digits(number, 10, &layout, out),
            (TemplateValue::Float(number), _) if number.is_finite() && number.abs() < 1e38 => {
                digits(*number as i128, 10, &layout, out)
            }
            _ => wants("a real number"),
        },
        'o' | 'x' | 'X' => match value.as_int() {
            Some(number) => {
                layout.kind = Some(kind);
                digits(number, if kind == 'o' { 8 } else { 16 }, &layout, out)
            }
            None => wants("an integer"),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(number) => {
                layout.kind = Some(kind);
                layout.precision = layout.precision.or(Some(6));
                real(number, &layout, out)
            }
            None => fail(format!("must be real number, not {}", value.type_name())),
        },
        other => fail(format!("unsupported format character '{other}'")),
    }
}

/// `template.format(*arguments, **named)`.
pub(super) fn braces(
    context: &mut dyn RenderContext,
    template: &str,
    arguments: &[TemplateValue],
    named: &[(String, TemplateValue)],
) -> RenderResult<TemplateValue> {
    let mut out = TextBuffer::default();
    fields(context, template, arguments, named, &mut 0, &mut out, 0)?;
    out.into_value()
}

fn fields(
    context: &mut dyn RenderContext,
    template: &str,
    arguments: &[TemplateValue],
    named: &[(String, TemplateValue)],
    automatic: &mut usize,
    out: &mut TextBuffer,
    depth: usize,
) -> RenderResult<()> {
    if depth > 1 {
        return fail("Max string recursion exceeded");
    }
    let mut rest = template;
    while let Some(place) = rest.find(['{', '}']) {
        out.push(&rest[..place])?;
        let is_open = rest.as_bytes()[place] == b'{';
        let after = &rest[place + 1..];
        if after.starts_with(if is_open { '{' } else { '}' }) {
            out.push(if is_open { "{" } else { "}" })?;
            rest = &after[1..];
            continue;
        }
        if !is_open {
            return fail("Single '}' encountered in format string");
        }
        let mut open = 1;
        let end = after
            .bytes()
            .position(|byte| {
                open += i32::from(byte == b'{') - i32::from(byte == b'}');
                open == 0
            })
            .ok_or_else(|| TemplateFault::failed("expected '}' before end of string"))?;
        let field = &after[..end];
        rest = &after[end + 1..];
        let (head, spec) = match field.find(':') {
            Some(colon) if !field[..colon].contains('[') || field[..colon].contains(']') => {
                (&field[..colon], &field[colon + 1..])
            }
            _ => (field, ""),
        };
        let (path, conversion) = match head.split_once('!') {
            Some((path, conversion)) => (path, Some(conversion)),
            None => (head, None),
        };
        let value = looked_up(context, path, arguments, named, automatic)?;
        let value = match conversion {
            None => value,
            Some("s") => print::string(context, &value)?,
            Some("r" | "a") => {
                let mut text = TextBuffer::default();
                print::repr(context, &value, &mut text, 0)?;
                text.into_value()?
            }
            Some(other) => return fail(format!("Unknown conversion specifier '{other}'")),
        };
        let mut nested = TextBuffer::default();
        if spec.contains(['{', '}']) {
            fields(context, spec, arguments, named, automatic, &mut nested, depth + 1)?;
        } else {
            nested.push(spec)?;
        }
        by_spec(context, &value, nested.as_str(), out)?;
    }
    out.push(rest)
}

/// The value that `0.name[key]` names.
fn looked_up(
    context: &mut dyn RenderContext,
    path: &str,
    arguments: &[TemplateValue],
    named: &[(String, TemplateValue)],
    automatic: &mut usize,
) -> RenderResult<TemplateValue> {
    let first = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(first);
    let mut value = if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) {
        let index = if name.is_empty() { *automatic } else { number_of(name)? };
        *automatic += usize::from(name.is_empty());
        arguments.get(index).cloned().ok_or_else(|| {
            TemplateFault::failed("Replacement index out of range for positional args tuple")
        })?
    } else {
        super::fault::step(named.len() as u64 / 8)?;
        let found = named.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        found.ok_or_else(|| TemplateFault::failed(format!("KeyError: '{name}'")))?
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = context.attribute(&value, &after[..end])?;
            rest = &after[end..];
        } else {
            let after = rest.strip_prefix('[').unwrap_or(rest);
            let end = after.find(']').ok_or_else(|| TemplateFault::failed("Missing ']' in format string"))?;
            let key = &after[..end];
            let key = match key.parse::<i128>() {
                Ok(index) => TemplateValue::Int(index),
                Err(_) => TemplateValue::text(key)?,
            };
            value = context.item(&value, &key)?;
            rest = &after[end + 1..];
        }
    }
    Ok(value)
}
