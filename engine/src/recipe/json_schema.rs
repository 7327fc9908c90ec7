//! The JSON schema (draft 2020-12) of a recipe, as editors read it: `recipes/recipe.schema.json`, `selfplay schema`.

use serde_json::{Map, Value, json};

use super::schema::{ABSENT_WORDS, KeyType, RecipeKey, keys, link_keys};

/// The schema's text, with a line break at its end.
pub fn json_schema() -> String {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "selfplay recipe",
        "description": "What a run of selfplay does.",
    });
    merge(&mut schema, object(keys()));
    schema["properties"]["chain"] = chain();
    // A tree of strings, numbers and lists always has a text.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

/// The links of a chain: each has keys of its own, and those of a recipe.
fn chain() -> Value {
    let mut link = object(link_keys());
    // A section is described once, at the recipe's top.
    for key in keys().iter().filter(|key| link_keys().iter().all(|own| own.name != key.name)) {
        link["properties"][&key.name] = match key.is_section() {
            true => json!({"$ref": format!("#/properties/{}", key.name)}),
            false => property(key),
        };
    }
    json!({"description": LINKS, "type": "array", "items": link})
}

/// What `[[chain]]` is.
const LINKS: &str =
    "Links that are worked on in order, each by one command with its own sections, instead of one run.";

fn object(keys: &[RecipeKey]) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| (key.name.clone(), property(key))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn property(key: &RecipeKey) -> Value {
    let mut value = value(&key.form);
    merge(&mut value, Value::Object(key.bounds.clone()));
    if key.is_optional && key.form != KeyType::Text {
        value = json!({"anyOf": [value, {"enum": ABSENT_WORDS}]});
    }
    let mut property = json!({});
    if !key.doc.is_empty() {
        property["description"] = key.doc.clone().into();
    }
    merge(&mut property, value);
    if let Some(default) = &key.default {
        property["default"] = default.clone();
    }
    property
}

fn value(form: &KeyType) -> Value {
    match form {
        KeyType::Section(keys) => object(keys),
        KeyType::Choice(words) => {
            let names: Vec<&str> = words.iter().map(|word| word.name.as_str()).collect();
            let docs: Vec<&str> = words.iter().map(|word| word.doc.as_str()).collect();
            // What taplo shows beside each word.
            json!({"enum": names, "x-taplo": {"docs": {"enumValues": docs}}})
        }
        KeyType::Whole => json!({"type": "integer", "minimum": 0}),
        KeyType::Number => json!({"type": "number"}),
        KeyType::Switch => json!({"type": "boolean"}),
        KeyType::Text => json!({"type": "string"}),
        KeyType::Table(one) => json!({"type": "object", "additionalProperties": value(one)}),
        KeyType::List(one) => json!({"type": "array", "items": value(one)}),
        KeyType::Any(forms) => json!({"anyOf": forms.iter().map(value).collect::<Vec<_>>()}),
    }
}

/// Adds `more`'s members to `object`; those that are in both are `more`'s.
fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}
