//! Python's `value[key]` and `value[start:stop:step]`.

use std::rc::Rc;

use super::fault::{RenderResult, fail, step, touch};
use super::value::{Range, TemplateValue};

/// An index from the end where it is negative; `None` outside.
fn place(index: i128, length: usize) -> Option<usize> {
    let index = if index < 0 { index + length as i128 } else { index };
    usize::try_from(index).ok().filter(|index| *index < length)
}

/// `value[key]`; `None` where there is no such item.
pub(super) fn subscript(value: &TemplateValue, key: &TemplateValue) -> RenderResult<Option<TemplateValue>> {
    let at = |length: usize| key.as_int().and_then(|index| place(index, length));
    match value {
        TemplateValue::Dict(dict) => match key.key() {
            Ok(key) => Ok(dict.get(&key).cloned()),
            Err(_) => Ok(None),
        },
        TemplateValue::List(seq) | TemplateValue::Tuple(seq) => {
            Ok(at(seq.items.len()).map(|index| seq.items[index].clone()))
        }
        TemplateValue::Range(range) => Ok(at(range.len()).map(|index| range.get(index))),
        TemplateValue::Text(text) if key.as_int().is_some() => {
            touch(text.as_str().len())?;
            at(text.len()).and_then(|index| text.char_at(index)).map(TemplateValue::text).transpose()
        }
        _ => Ok(None),
    }
}

/// `value[start:stop:step]`; `None` for a value that has no slices.
pub(super) fn slice(
    value: &TemplateValue,
    bounds: &[TemplateValue; 3],
) -> RenderResult<Option<TemplateValue>> {
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        *number = match bound {
            TemplateValue::None => None,
            other => match other.as_int() {
                Some(bound) => Some(bound),
                // As for every key that a list does not take, the result is undefined.
                None => return Ok(None),
            },
        };
    }
    let stride = numbers[2].unwrap_or(1);
    if stride == 0 {
        return fail("slice step cannot be zero");
    }
    match value {
        TemplateValue::Text(text) => {
            touch(text.as_str().len())?;
            if stride == 1 && text.as_str().is_ascii() {
                let (start, stop) =
                    (clip(numbers[0], text.len(), 1, true), clip(numbers[1], text.len(), 1, false));
                let (start, stop) = (start as usize, stop.max(start) as usize);
                return TemplateValue::text(&text.as_str()[start..stop]).map(Some);
            }
            let characters: Vec<char> = text.as_str().chars().collect();
            let picked: String = picks(numbers, characters.len()).map(|index| characters[index]).collect();
            TemplateValue::text(picked).map(Some)
        }
        TemplateValue::List(seq) => {
            step(seq.items.len() as u64 / 8)?;
            TemplateValue::list(
                picks(numbers, seq.items.len()).map(|index| seq.items[index].clone()).collect(),
            )
            .map(Some)
        }
        TemplateValue::Tuple(seq) => {
            step(seq.items.len() as u64 / 8)?;
            TemplateValue::tuple(
                picks(numbers, seq.items.len()).map(|index| seq.items[index].clone()).collect(),
            )
            .map(Some)
        }
        TemplateValue::Range(range) => {
            let length = range.len();
            let (start, stop) =
                (clip(numbers[0], length, stride, true), clip(numbers[1], length, stride, false));
            let at = |place: i128| (i128::from(range.start) + place * i128::from(range.step)) as i64;
            let stride = i64::try_from(stride).unwrap_or(i64::MAX);
            let range = Range { start: at(start), stop: at(stop), step: range.step.saturating_mul(stride) };
            Ok(Some(TemplateValue::Range(Rc::new(range))))
        }
        _ => Ok(None),
    }
}

/// A slice's bound within a sequence, as Python's `slice.indices` gives it.
fn clip(bound: Option<i128>, length: usize, stride: i128, is_start: bool) -> i128 {
    let length = length as i128;
    let (low, high) = if stride > 0 { (0, length) } else { (-1, length - 1) };
    match bound {
        None if (stride > 0) == is_start => low,
        None => high,
        Some(bound) if bound < 0 => (bound.saturating_add(length)).max(low),
        Some(bound) => bound.min(high),
    }
}

fn picks(numbers: [Option<i128>; 3], length: usize) -> impl std::iter::Iterator<Item = usize> {
    let stride = numbers[2].unwrap_or(1);
    let stop = clip(numbers[1], length, stride, false);
    let mut at = clip(numbers[0], length, stride, true);
    std::iter::from_fn(move || {
        if (stride > 0 && at >= stop) || (stride < 0 && at <= stop) {
            return None;
        }
        let index = at as usize;
        at = at.saturating_add(stride);
        Some(index)
    })
}
