//! The values of a template: Python's, as far as Jinja lets a template reach them. Nothing in them ever changes but
//! what the sandbox lets change: namespaces, cyclers, joiners, and how far an iterator was read.
//!
//! Past 400 lines: what every kind of value answers (truth, length, items, its use as a key) stands kind beside kind.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use super::fault::{Held, RenderResult, fail, step, touch};

/// What a value takes beside its text, roughly.
const VALUE_BYTES: usize = 48;
/// Lists in lists: a chain of more could not be printed, compared or given back without a deep stack.
const MOST_DEPTH: u16 = 150;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum TemplateValue {
    /// A name, attribute or item that is not there.
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<Text>),
    List(Rc<Seq>),
    Tuple(Rc<Seq>),
    Dict(Rc<Dict>),
    View(ViewKind, Rc<Dict>),
    Range(Rc<Range>),
    Iterator(Rc<Iterator>),
    Loop(Rc<LoopContext>),
    /// Places in the interpreter's tables.
    Namespace(usize),
    Macro(usize),
    Cycler(usize),
    Joiner(usize),
    Function(Function),
    /// A method bound to its value, not yet called.
    Method(Rc<Method>),
}

/// What `dict.keys()` and its like give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ViewKind {
    Keys,
    Values,
    Items,
}

/// Functions that every template knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

/// Why something is undefined: the message of the error that its use gives.
#[derive(Debug)]
pub(super) struct Missing(pub(super) String);

/// A text with what makes indexing quick.
#[derive(Debug)]
pub(super) struct Text {
    text: String,
    is_ascii: bool,
    _held: Held,
}

/// Items of a list or a tuple.
#[derive(Debug)]
pub(super) struct Seq {
    pub(super) items: Vec<TemplateValue>,
    /// What `groupby` gives: a pair whose parts are called `grouper` and `list`.
    pub(super) is_group: bool,
    depth: u16,
    _held: Held,
}

/// A mapping that keeps the order in which its keys came.
#[derive(Debug)]
pub(super) struct Dict {
    pub(super) entries: Vec<(TemplateValue, TemplateValue)>,
    index: HashMap<DictKey, usize>,
    depth: u16,
    _held: Held,
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
}

impl Range {
    pub(super) fn len(&self) -> usize {
        let (low, high, width) = if self.step > 0 {
            (self.start, self.stop, self.step)
        } else {
            (self.stop, self.start, self.step.saturating_neg())
        };
        if low >= high {
            0
        } else {
            ((i128::from(high) - i128::from(low) - 1) / i128::from(width) + 1) as usize
        }
    }

    pub(super) fn get(&self, index: usize) -> TemplateValue {
        TemplateValue::Int(i128::from(self.start) + i128::from(self.step) * index as i128)
    }
}

/// What filters like `map` give: items that can be read once.
#[derive(Debug)]
pub(super) struct Iterator {
    pub(super) items: Rc<Seq>,
    pub(super) next: Cell<usize>,
    /// `generator`, `list_reverseiterator`.
    pub(super) type_name: &'static str,
}

/// A running `{% for %}`.
#[derive(Debug)]
pub(super) struct LoopContext {
    pub(super) items: Rc<Seq>,
    pub(super) index: Cell<usize>,
    pub(super) depth0: usize,
    /// What `loop.changed(…)` was last called with.
    pub(super) changed: std::cell::RefCell<Option<TemplateValue>>,
    /// The place of a recursive loop in the interpreter's table.
    pub(super) recursive: Option<usize>,
}

/// A value's method.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) value: TemplateValue,
    pub(super) name: String,
    depth: u16,
    _held: Held,
}

/// A value as a key of a mapping: equal values are equal keys (`1`, `1.0` and `true` are one).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum DictKey {
    None,
    Undefined,
    Int(i128),
    Float(u64),
    Text(Rc<str>),
    Tuple(Vec<DictKey>),
    /// Of a thing that is equal to itself alone: its table and place.
    Thing(&'static str, usize),
}

impl Text {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Number of characters.
    pub(super) fn len(&self) -> usize {
        if self.is_ascii { self.text.len() } else { self.walked().chars().count() }
    }

    /// The character at a place.
    pub(super) fn char_at(&self, place: usize) -> Option<char> {
        if self.is_ascii {
            return self.text.as_bytes().get(place).map(|byte| char::from(*byte));
        }
        self.walked().chars().nth(place)
    }

    /// The text, about to be gone through: it counts as touched. What exceeds the bound ends at the next step.
    fn walked(&self) -> &str {
        let _ = touch(self.text.len());
        &self.text
    }
}

impl TemplateValue {
    /// A text. Error: no room for it.
    pub(super) fn text(text: impl Into<String>) -> RenderResult<Self> {
        let text = text.into();
        let held = Held::take(text.len() + VALUE_BYTES)?;
        Ok(Self::Text(Rc::new(Text { is_ascii: text.is_ascii(), text, _held: held })))
    }

    pub(super) fn list(items: Vec<Self>) -> RenderResult<Self> {
        Ok(Self::List(sequence(items)?))
    }

    pub(super) fn tuple(items: Vec<Self>) -> RenderResult<Self> {
        Ok(Self::Tuple(sequence(items)?))
    }

    /// A pair of `groupby`.
    pub(super) fn group(key: Self, items: Self) -> RenderResult<Self> {
        let depth = deeper(key.depth().max(items.depth()))?;
        let held = Held::take(3 * VALUE_BYTES)?;
        Ok(Self::Tuple(Rc::new(Seq { items: vec![key, items], is_group: true, depth, _held: held })))
    }

    /// What a generator gives.
    pub(super) fn generator(items: Vec<Self>) -> RenderResult<Self> {
        Ok(Self::iterator(sequence(items)?, "generator"))
    }

    pub(super) fn iterator(items: Rc<Seq>, type_name: &'static str) -> Self {
        Self::Iterator(Rc::new(Iterator { items, next: Cell::new(0), type_name }))
    }

    /// A mapping; of equal keys the first keeps its place and the last its value. Error: a key without a hash.
    pub(super) fn dict(pairs: Vec<(Self, Self)>) -> RenderResult<Self> {
        let mut entries: Vec<(Self, Self)> = Vec::with_capacity(pairs.len());
        let mut index = HashMap::with_capacity(pairs.len());
        let mut deepest = 0;
        let held = Held::take((pairs.len() + 1) * 4 * VALUE_BYTES)?;
        for (key, value) in pairs {
            deepest = deepest.max(key.depth()).max(value.depth());
            match index.entry(key.key()?) {
                std::collections::hash_map::Entry::Occupied(place) => {
                    let place: usize = *place.get();
                    entries[place].1 = value;
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, value));
                }
            }
        }
        Ok(Self::Dict(Rc::new(Dict { entries, index, depth: deeper(deepest)?, _held: held })))
    }

    pub(super) fn method(value: Self, name: &str) -> RenderResult<Self> {
        let depth = deeper(value.depth())?;
        let held = Held::take(name.len() + VALUE_BYTES)?;
        Ok(Self::Method(Rc::new(Method { value, name: name.to_owned(), depth, _held: held })))
    }

    pub(super) fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Missing(message.into())))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The number that a value is, booleans included.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(truth) => Some(i128::from(*truth)),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            _ => self.as_int().map(|number| number as f64),
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// `bool(value)`.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.text.is_empty(),
            Self::List(seq) | Self::Tuple(seq) => !seq.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.len() > 0,
            Self::Loop(state) => !state.items.items.is_empty(),
            _ => true,
        }
    }

    /// The type's name in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(ViewKind::Keys, _) => "dict_keys",
            Self::View(ViewKind::Values, _) => "dict_values",
            Self::View(ViewKind::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iterator(iterator) => iterator.type_name,
            Self::Loop(_) => "LoopContext",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Function(Function::Namespace | Function::Cycler | Function::Joiner | Function::Dict) => {
                "type"
            }
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
        }
    }

    /// `len(value)`; `None` where it has none.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::Undefined(_) => Some(0),
            Self::Text(text) => Some(text.len()),
            Self::List(seq) | Self::Tuple(seq) => Some(seq.items.len()),
            Self::Dict(dict) | Self::View(_, dict) => Some(dict.entries.len()),
            Self::Range(range) => Some(range.len()),
            Self::Loop(state) => Some(state.items.items.len()),
            _ => None,
        }
    }

    /// The items that a `for` goes over; an iterator's are used up. Error: a value that is not iterable.
    pub(super) fn items(&self) -> RenderResult<Rc<Seq>> {
        match self {
            Self::List(seq) | Self::Tuple(seq) => Ok(Rc::clone(seq)),
            Self::Undefined(_) => sequence(Vec::new()),
            Self::Text(text) => {
                let mut items = Vec::new();
                for character in text.text.chars() {
                    items.push(Self::text(character)?);
                }
                sequence(items)
            }
            Self::Dict(dict) | Self::View(ViewKind::Keys, dict) => {
                sequence(dict.entries.iter().map(|(key, _)| key.clone()).collect())
            }
            Self::View(ViewKind::Values, dict) => {
                sequence(dict.entries.iter().map(|(_, value)| value.clone()).collect())
            }
            Self::View(ViewKind::Items, dict) => {
                let pair = |(key, value): &(Self, Self)| Self::tuple(vec![key.clone(), value.clone()]);
                sequence(dict.entries.iter().map(pair).collect::<RenderResult<_>>()?)
            }
            Self::Range(range) => {
                step(range.len() as u64)?;
                sequence((0..range.len()).map(|index| range.get(index)).collect())
            }
            Self::Iterator(iterator) => {
                let from = iterator.next.replace(iterator.items.items.len());
                if from == 0 {
                    return Ok(Rc::clone(&iterator.items));
                }
                sequence(iterator.items.items.get(from..).unwrap_or_default().to_vec())
            }
            _ => fail(format!("{} object is not iterable", quoted_type(self))),
        }
    }

    pub(super) fn is_iterable(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::Tuple(_)
                | Self::Undefined(_)
                | Self::Text(_)
                | Self::Dict(_)
                | Self::View(..)
                | Self::Range(_)
                | Self::Iterator(_)
                | Self::Loop(_)
        )
    }

    /// The value as a mapping's key. Error: one that may change or holds what may change.
    pub(super) fn key(&self) -> RenderResult<DictKey> {
        Ok(match self {
            Self::Undefined(_) => DictKey::Undefined,
            Self::None => DictKey::None,
            Self::Bool(truth) => DictKey::Int(i128::from(*truth)),
            Self::Int(number) => DictKey::Int(*number),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 1e30 => {
                DictKey::Int(*number as i128)
            }
            Self::Float(number) => DictKey::Float(number.to_bits()),
            Self::Text(text) => {
                touch(text.text.len())?;
                DictKey::Text(Rc::from(text.as_str()))
            }
            Self::Tuple(seq) => {
                step(seq.items.len() as u64)?;
                DictKey::Tuple(seq.items.iter().map(Self::key).collect::<RenderResult<_>>()?)
            }
            Self::Namespace(place) | Self::Macro(place) | Self::Cycler(place) | Self::Joiner(place) => {
                DictKey::Thing(self.type_name(), *place)
            }
            Self::Range(range) => DictKey::Thing("range", Rc::as_ptr(range) as usize),
            Self::Iterator(iterator) => DictKey::Thing("iterator", Rc::as_ptr(iterator) as usize),
            Self::Loop(state) => DictKey::Thing("loop", Rc::as_ptr(state) as usize),
            Self::Function(function) => DictKey::Thing("function", *function as usize),
            Self::Method(method) => DictKey::Thing("method", Rc::as_ptr(method) as usize),
            Self::List(_) | Self::Dict(_) | Self::View(..) => {
                return fail(format!("unhashable type: {}", quoted_type(self)));
            }
        })
    }

    fn depth(&self) -> u16 {
        match self {
            Self::List(seq) | Self::Tuple(seq) => seq.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Iterator(iterator) => iterator.items.depth,
            Self::Loop(state) => state.items.depth,
            Self::Method(method) => method.depth,
            _ => 0,
        }
    }
}

impl Dict {
    pub(super) fn get(&self, key: &DictKey) -> Option<&TemplateValue> {
        self.index.get(key).map(|place| &self.entries[*place].1)
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&TemplateValue> {
        self.get(&DictKey::Text(Rc::from(key)))
    }
}

/// The fault of a value that is not defined.
pub(super) fn undefined_fails(value: &TemplateValue) -> RenderResult<()> {
    match value {
        TemplateValue::Undefined(missing) => fail(missing.0.clone()),
        _ => Ok(()),
    }
}

/// The type of a value in quotes, as Python's messages have it.
pub(super) fn quoted_type(value: &TemplateValue) -> String {
    format!("'{}'", value.type_name())
}

fn deeper(depth: u16) -> RenderResult<u16> {
    if depth >= MOST_DEPTH {
        return fail(format!("a value is nested more than {MOST_DEPTH} deep"));
    }
    Ok(depth + 1)
}

/// Items with their bytes counted.
pub(super) fn sequence(items: Vec<TemplateValue>) -> RenderResult<Rc<Seq>> {
    let held = Held::take((items.len() + 1) * VALUE_BYTES)?;
    let deepest = items.iter().map(TemplateValue::depth).max().unwrap_or(0);
    Ok(Rc::new(Seq { depth: deeper(deepest)?, items, is_group: false, _held: held }))
}

/// Pairs of an iterable of pairs.
pub(super) fn pairs_of(value: &TemplateValue) -> RenderResult<Vec<(TemplateValue, TemplateValue)>> {
    let mut pairs = Vec::new();
    for item in &value.items()?.items {
        match item.items()?.items.as_slice() {
            [key, value] => pairs.push((key.clone(), value.clone())),
            other => {
                return fail(format!(
                    "dictionary update sequence element has length {}; 2 is required",
                    other.len()
                ));
            }
        }
    }
    Ok(pairs)
}
