//! The names that a template may call: filters, tests, methods; and the attributes that the sandbox keeps from it.

use super::ast::ComparisonOperator;
use super::value::TemplateValue;

/// Filters that need not make text; they stand in `filters.rs`.
const FILTERS: [&str; 34] = [
    "abs",
    "attr",
    "batch",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "groupby",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "map",
    "max",
    "min",
    "random",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "tojson",
    "unique",
    "pprint",
];

/// Filters that make text of a value; they stand in `text_filters.rs`.
const TEXT_FILTERS: [&str; 20] = [
    "capitalize",
    "center",
    "e",
    "escape",
    "filesizeformat",
    "forceescape",
    "format",
    "indent",
    "lower",
    "replace",
    "striptags",
    "title",
    "trim",
    "truncate",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

/// Tests that are no comparison.
const TESTS: [&str; 23] = [
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
];

/// Methods of text.
const TEXT: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
/// Methods of mappings.
const MAPPING: [&str; 5] = ["copy", "get", "items", "keys", "values"];
/// What changes a value; the sandbox refuses it.
const UNSAFE: [&str; 13] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "add",
    "discard",
];

/// Whether there is a filter of this name.
pub(super) fn is_filter(name: &str) -> bool {
    FILTERS.contains(&name) || is_text_filter(name)
}

/// Whether there is a filter of this name that makes text.
pub(super) fn is_text_filter(name: &str) -> bool {
    TEXT_FILTERS.contains(&name)
}

/// Whether there is a test of this name.
pub(super) fn is_test(name: &str) -> bool {
    comparison(name).is_some() || TESTS.contains(&name)
}

/// The comparison that a test of this name is.
pub(super) fn comparison(name: &str) -> Option<ComparisonOperator> {
    Some(match name {
        "eq" | "equalto" | "==" => ComparisonOperator::Equal,
        "ne" | "!=" => ComparisonOperator::NotEqual,
        "lt" | "lessthan" | "<" => ComparisonOperator::Less,
        "le" | "<=" => ComparisonOperator::LessOrEqual,
        "gt" | "greaterthan" | ">" => ComparisonOperator::Greater,
        "ge" | ">=" => ComparisonOperator::GreaterOrEqual,
        "in" => ComparisonOperator::In,
        _ => return None,
    })
}

/// Whether the value has a method of this name.
pub(super) fn has_method(value: &TemplateValue, name: &str) -> bool {
    match value {
        TemplateValue::Text(_) => TEXT.contains(&name),
        TemplateValue::List(_) => ["count", "index", "copy"].contains(&name),
        TemplateValue::Tuple(_) | TemplateValue::Range(_) => ["count", "index"].contains(&name),
        TemplateValue::Dict(_) => MAPPING.contains(&name),
        TemplateValue::Loop(_) => ["cycle", "changed"].contains(&name),
        TemplateValue::Cycler(_) => ["next", "reset"].contains(&name),
        TemplateValue::Float(_) => ["is_integer", "hex"].contains(&name),
        TemplateValue::Int(_) | TemplateValue::Bool(_) => name == "bit_length",
        _ => false,
    }
}

/// Whether the sandbox keeps the attribute away from templates.
pub(super) fn is_unsafe(value: &TemplateValue, name: &str) -> bool {
    let is_dunder =
        name.starts_with("__") && ["__class__", "__dict__", "__doc__", "__init__", "__len__"].contains(&name);
    let changes = match value {
        TemplateValue::List(_) => !["popitem", "setdefault", "update", "add", "discard"].contains(&name),
        TemplateValue::Dict(_) => ["clear", "pop", "popitem", "setdefault", "update"].contains(&name),
        _ => false,
    };
    is_dunder || (changes && UNSAFE.contains(&name))
}
