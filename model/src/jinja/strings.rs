//! Python's operations on a text by itself: letters' cases, digits, cutting, filling, replacing.

use super::fault::{RenderResult, fail, room};
use super::lexer::is_space;
use super::text_buffer::TextBuffer;
use super::value::TemplateValue;

/// What a part of a text takes before it is a value.
const PART_BYTES: usize = 16;

/// First letter large, the others small.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return String::new() };
    let mut out: String = title_case(first);
    out.push_str(&characters.as_str().to_lowercase());
    out
}

/// A letter at the beginning of a word: `ß` becomes `Ss`.
fn title_case(character: char) -> String {
    // The four letters that have a form for titles.
    let of_title = match character {
        'Ǆ' | 'ǆ' => Some('ǅ'),
        'Ǉ' | 'ǉ' => Some('ǈ'),
        'Ǌ' | 'ǌ' => Some('ǋ'),
        'Ǳ' | 'ǳ' => Some('ǲ'),
        _ => None,
    };
    if let Some(letter) = of_title {
        return letter.to_string();
    }
    let mut upper = character.to_uppercase();
    let mut out: String = upper.next().into_iter().collect();
    for more in upper {
        out.extend(more.to_lowercase());
    }
    out
}

/// `str.title()`: every letter after something that is no letter is large.
pub(super) fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_letter = false;
    for character in text.chars() {
        if after_letter {
            out.extend(character.to_lowercase());
        } else {
            out.push_str(&title_case(character));
        }
        after_letter = character.is_lowercase() || character.is_uppercase();
    }
    out
}

/// Whether there are cased letters, all of them large (or all small).
pub(super) fn has_case(text: &str, is_upper: bool) -> bool {
    let wrong = if is_upper { char::is_lowercase } else { char::is_uppercase };
    let right = if is_upper { char::is_uppercase } else { char::is_lowercase };
    !text.chars().any(wrong) && text.chars().any(right)
}

pub(super) fn is_title(text: &str) -> bool {
    let (mut after_letter, mut has_letter) = (false, false);
    for character in text.chars() {
        let is_cased = character.is_lowercase() || character.is_uppercase();
        if (character.is_uppercase() && after_letter) || (character.is_lowercase() && !after_letter) {
            return false;
        }
        after_letter = is_cased;
        has_letter |= is_cased;
    }
    has_letter
}

/// The digit that a character of a decimal script is: each script has its zero and nine more.
pub(super) fn decimal_digit(character: char) -> Option<u32> {
    const ZEROS: [u32; 41] = [
        0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6,
        0xE50, 0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0,
        0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x11066,
        0x1D7CE, 0x1D7D8,
    ];
    let code = character as u32;
    if (0x1D7CE..=0x1D7FF).contains(&code) {
        return Some((code - 0x1D7CE) % 10);
    }
    ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)).map(|zero| code - zero)
}

pub(super) fn is_decimal(character: char) -> bool {
    decimal_digit(character).is_some()
}

/// Digits that are not of a decimal script: raised, lowered, circled.
pub(super) fn is_other_digit(character: char) -> bool {
    matches!(character as u32, 0xB2 | 0xB3 | 0xB9 | 0x2070 | 0x2074..=0x2079 | 0x2080..=0x2089 | 0x2460..=0x2468
        | 0x2474..=0x247C | 0x2488..=0x2490 | 0x24EA | 0x24F5..=0x24FD | 0x24FF | 0x2776..=0x277E | 0x2780..=0x2788
        | 0x278A..=0x2792 | 0x1369..=0x1371)
}

/// Where a text stands in its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Center,
}

/// `text` filled up to `width` characters.
pub(super) fn justified(text: &str, width: usize, fill: &str, side: Side) -> RenderResult<TemplateValue> {
    let missing = width.saturating_sub(text.chars().count());
    let left = match side {
        Side::Left => 0,
        Side::Right => missing,
        // As Python: the odd one goes to the left where the width is odd.
        Side::Center => missing / 2 + (missing & width & 1),
    };
    let mut out = TextBuffer::default();
    out.repeat(fill, left)?;
    out.push(text)?;
    out.repeat(fill, missing - left)?;
    out.into_value()
}

/// `text` without white space, or without `characters`, at its ends.
pub(super) fn stripped<'t>(text: &'t str, characters: Option<&str>, at_start: bool, at_end: bool) -> &'t str {
    let goes = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if at_start { text.trim_start_matches(goes) } else { text };
    if at_end { text.trim_end_matches(goes) } else { text }
}

/// `text.replace(old, new, count)`.
pub(super) fn replaced(text: &str, old: &str, new: &str, count: Option<i128>) -> RenderResult<TemplateValue> {
    let mut left = count.unwrap_or(i128::MAX);
    let mut out = TextBuffer::default();
    if old.is_empty() {
        for character in text.chars() {
            if left > 0 {
                out.push(new)?;
                left -= 1;
            }
            out.push_char(character)?;
        }
        if left > 0 {
            out.push(new)?;
        }
        return out.into_value();
    }
    let mut rest = text;
    while left > 0
        && let Some(place) = rest.find(old)
    {
        out.push(&rest[..place])?;
        out.push(new)?;
        rest = &rest[place + old.len()..];
        left -= 1;
    }
    out.push(rest)?;
    out.into_value()
}

pub(super) fn split<'t>(
    text: &'t str,
    separator: Option<&str>,
    most: Option<usize>,
    from_right: bool,
) -> RenderResult<Vec<&'t str>> {
    let most = most.unwrap_or(usize::MAX - 1);
    if let Some(separator) = separator {
        if separator.is_empty() {
            return fail("ValueError: empty separator");
        }
        room(text.matches(separator).count() * PART_BYTES)?;
        if from_right {
            let mut parts: Vec<&str> = text.rsplitn(most + 1, separator).collect();
            parts.reverse();
            return Ok(parts);
        }
        return Ok(text.splitn(most + 1, separator).collect());
    }
    room(text.chars().filter(|c| is_space(*c)).count() * PART_BYTES / 2)?;
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        if parts.len() == most {
            // What is left keeps the white space inside it, not that at its far end.
            parts.push(rest);
            break;
        }
        if from_right {
            let start =
                rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
            parts.push(&rest[start..]);
            rest = &rest[..start];
        } else {
            let end = rest.find(is_space).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// `text.splitlines(keepends)`.
pub(super) fn lines(text: &str, keep_ends: bool) -> RenderResult<Vec<&str>> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    room(text.chars().filter(|c| is_end(*c)).count() * PART_BYTES)?;
    while !rest.is_empty() {
        let Some(place) = rest.find(is_end) else {
            lines.push(rest);
            break;
        };
        let length = if rest[place..].starts_with("\r\n") {
            2
        } else {
            rest[place..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { place + length } else { place }]);
        rest = &rest[place + length..];
    }
    Ok(lines)
}

pub(super) fn expand_tabs(text: &str, size: i128) -> RenderResult<TemplateValue> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let mut out = TextBuffer::default();
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let width = size - column % size;
                out.repeat(" ", width)?;
                column += width;
            }
            '\t' => {}
            other => {
                out.push_char(other)?;
                column = if matches!(other, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out.into_value()
}
