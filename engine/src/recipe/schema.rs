//! The keys of a recipe, read from its types: names, documentation, defaults, and what each takes.
//!
//! schemars derives a schema from the settings structs; this file turns it into [`RecipeKey`]s, which the reader of recipes,
//! the JSON schema for editors and the documentation share.
//!
//! A key whose type is an `Option` may be absent, and the words of [`ABSENT_WORDS`] make it absent, so that `--set` can undo
//! a value of the recipe. What absence means ends the key's documentation: `Absent: the model's own.`

use std::fmt;
use std::sync::OnceLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::link::LinkKeys;
use super::recipe::Recipe;

/// The words that make a key absent.
pub(super) const ABSENT_WORDS: [&str; 4] = ["off", "all", "auto", "none"];

/// Keywords of a JSON schema that bound a value.
const BOUNDS: [&str; 5] = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength"];

/// One key of a recipe, or a section of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipeKey {
    /// Without the section.
    pub name: String,
    /// The doc comment, on one line.
    pub doc: String,
    /// As JSON; `None` where the key is absent by default.
    pub default: Option<Value>,
    /// What it takes.
    pub form: KeyType,
    /// Whether it may be absent, with a word of `ABSENT_WORDS`.
    pub is_optional: bool,
    /// JSON schema's words for the range of its values.
    pub bounds: Map<String, Value>,
}

/// What a key takes.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyType {
    /// Keys below it.
    Section(Vec<RecipeKey>),
    /// One of some words.
    Choice(Vec<Word>),
    /// A whole number, 0 or more.
    Whole,
    /// A number.
    Number,
    /// true or false.
    Switch,
    /// A string.
    Text,
    /// A list of these.
    List(Box<KeyType>),
    /// Names of the recipe's own, each with one of these.
    Table(Box<KeyType>),
    /// Any of these.
    Any(Vec<KeyType>),
}

/// One word that a key takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// As a recipe writes it.
    pub name: String,
    /// What it does, on one line.
    pub doc: String,
}

/// What would be right, after "expected".
impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(keys) => match keys.first() {
                Some(key) => write!(f, "keys below it, as in {}", key.name),
                None => f.write_str("keys below it"),
            },
            Self::Choice(words) => {
                let names: Vec<&str> = words.iter().map(|word| word.name.as_str()).collect();
                write!(f, "one of {}", names.join(", "))
            }
            Self::Whole => f.write_str("a whole number, 0 or more"),
            Self::Number => f.write_str("a number"),
            Self::Switch => f.write_str("true or false"),
            Self::Text => f.write_str("a string"),
            Self::List(one) if matches!(**one, Self::Text) => f.write_str("a list, as in [\"a\", \"b\"]"),
            Self::List(one) => write!(f, "a list, each entry {one}"),
            Self::Table(one) => write!(f, "a table, as in {{name = …}}, each value {one}"),
            Self::Any(forms) => {
                let forms: Vec<String> = forms.iter().map(Self::to_string).collect();
                f.write_str(&forms.join(", or "))
            }
        }
    }
}

impl RecipeKey {
    /// The keys below it; empty where it is no section.
    pub fn keys(&self) -> &[Self] {
        match &self.form {
            KeyType::Section(keys) => keys,
            _ => &[],
        }
    }

    /// Whether it is a section.
    pub fn is_section(&self) -> bool {
        matches!(self.form, KeyType::Section(_))
    }
}

/// Every key of a recipe, in the order in which a recipe is written: those of the top, then the sections.
pub fn keys() -> &'static [RecipeKey] {
    static KEYS: OnceLock<Vec<RecipeKey>> = OnceLock::new();
    KEYS.get_or_init(|| keys_of(&schema_of::<Recipe>()))
}

/// The keys of a link of a chain that no recipe has; the others are a recipe's.
pub fn link_keys() -> &'static [RecipeKey] {
    static KEYS: OnceLock<Vec<RecipeKey>> = OnceLock::new();
    KEYS.get_or_init(|| keys_of(&schema_of::<LinkKeys>()))
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The keys of an object's schema; where it has several forms (settings by kind), those of all of them.
fn keys_of(schema: &Value) -> Vec<RecipeKey> {
    let mut keys: Vec<RecipeKey> = Vec::new();
    let mut add = |key: RecipeKey| {
        if keys.iter().all(|known| known.name != key.name) {
            keys.push(key);
        }
    };
    for (name, one) in schema["properties"].as_object().into_iter().flatten() {
        add(key(name, one));
    }
    for one in parts(schema) {
        keys_of(one).into_iter().for_each(&mut add);
    }
    keys
}

fn key(name: &str, schema: &Value) -> RecipeKey {
    let form = form(schema);
    // TOML has no null: it stands for an absent key.
    let is_null = |one: &Value| one["type"] == "null";
    let null_type = schema["type"].as_array().is_some_and(|types| types.iter().any(|one| one == "null"));
    let bounds = BOUNDS.iter().filter_map(|word| Some(((*word).to_owned(), schema.get(word)?.clone())));
    RecipeKey {
        name: name.to_owned(),
        doc: one_line(schema),
        default: schema.get("default").filter(|_| !matches!(form, KeyType::Section(_))).cloned(),
        is_optional: null_type || parts(schema).any(is_null),
        bounds: bounds.collect(),
        form,
    }
}

/// The schemas of which one or all hold.
fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|word| schema[word].as_array().into_iter().flatten())
}

fn form(schema: &Value) -> KeyType {
    let keys = keys_of(schema);
    // A text in its place is another form of the same.
    let is_mixed = parts(schema).any(|part| part["type"] == "string" && part.get("const").is_none());
    if !keys.is_empty() && !is_mixed {
        return KeyType::Section(keys);
    }
    let word = |value: &Value, doc: String| Word { name: value.as_str().unwrap_or_default().to_owned(), doc };
    if let Some(value) = schema.get("const") {
        return KeyType::Choice(vec![word(value, one_line(schema))]);
    }
    if let Some(values) = schema["enum"].as_array() {
        let words = values.iter().filter(|value| value.is_string()).map(|value| word(value, String::new()));
        let choice = KeyType::Choice(words.collect());
        return match values.iter().any(Value::is_boolean) {
            true => KeyType::Any(vec![choice, KeyType::Switch]),
            false => choice,
        };
    }
    let mut words = Vec::new();
    let mut others = Vec::new();
    for part in parts(schema).filter(|part| part["type"] != "null") {
        match form(part) {
            KeyType::Choice(more) => words.extend(more),
            other => others.push(other),
        }
    }
    if !words.is_empty() {
        others.insert(0, KeyType::Choice(words));
    }
    match others.len() {
        0 => plain_form(schema),
        1 => others.remove(0),
        _ => KeyType::Any(others),
    }
}

fn plain_form(schema: &Value) -> KeyType {
    let types = schema["type"].as_array().map_or(std::slice::from_ref(&schema["type"]), Vec::as_slice);
    match types.iter().filter_map(Value::as_str).find(|one| *one != "null") {
        Some("integer") => KeyType::Whole,
        Some("number") => KeyType::Number,
        Some("boolean") => KeyType::Switch,
        Some("array") => KeyType::List(Box::new(form(&schema["items"]))),
        Some("object") if schema["additionalProperties"].is_object() => {
            KeyType::Table(Box::new(form(&schema["additionalProperties"])))
        }
        Some("object") => KeyType::Section(Vec::new()),
        _ => KeyType::Text,
    }
}

/// A schema's description with its line breaks as spaces.
fn one_line(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str) -> RecipeKey {
        let mut found: Option<RecipeKey> = None;
        for name in path.split('.') {
            let keys = found.as_ref().map_or(keys().to_vec(), |key| key.keys().to_vec());
            found = keys.into_iter().find(|key| key.name == name);
            assert!(found.is_some(), "{path}: {name}");
        }
        found.unwrap()
    }

    #[test]
    fn keys_have_the_types_defaults_and_ranges_of_the_code() {
        let top: Vec<&str> = keys().iter().map(|key| key.name.as_str()).collect();
        assert_eq!(top[..5], ["name", "iterations", "seed", "keep_checkpoints", "policy"]);
        assert_eq!(find("sample.num_samples").form, KeyType::Whole);
        assert_eq!(find("sample.num_samples").default, Some(Value::from(5)));
        assert_eq!(find("sample.num_samples").bounds["minimum"], 1);
        assert_eq!(find("train.learning_rate").default, Some(Value::from(5e-7)));
        assert_eq!(find("train.shuffle").form, KeyType::Switch);
        let auto = Word { name: "auto".to_owned(), doc: String::new() };
        let recompute = KeyType::Any(vec![KeyType::Choice(vec![auto]), KeyType::Switch]);
        assert_eq!(find("train.recompute").form, recompute);
        assert_eq!(find("prompts.splits").form, KeyType::List(Box::new(KeyType::Text)));
        assert_eq!(
            find("sample.stop").form,
            KeyType::List(Box::new(KeyType::Any(vec![KeyType::Text, KeyType::Whole])))
        );
        assert!(matches!(&find("train.loss").form, KeyType::Choice(words) if words.len() == 25));
        assert_eq!(find("train.lora.rank").form, KeyType::Whole);
        // Two types share this section.
        assert_eq!(find("preference.holdout").default, Some(Value::from(0.05)));
        assert_eq!(find("preference.beta").default, Some(Value::from(0.001)));
    }

    #[test]
    fn what_may_be_absent_is_optional_and_models_and_names_are_texts() {
        for key in
            ["policy.dtype", "prompts.max_prompts", "train.max_steps", "train.target_clamp", "score.tau"]
        {
            assert!(find(key).is_optional, "{key}");
        }
        for key in ["name", "policy.model", "score.model", "score.kind", "sample.top_k"] {
            assert!(!find(key).is_optional, "{key}");
        }
        assert_eq!(find("train.target_clamp").default, Some(Value::from("off")));
        assert_eq!(find("score.tau").default, None);
    }

    #[test]
    fn settings_by_kind_have_the_keys_of_every_kind() {
        let schema = serde_json::json!({
            "properties": {"kind": {"type": "string"}},
            "oneOf": [
                {"properties": {"kind": {"const": "a"}, "tau": {"type": ["number", "null"]}}},
                {"properties": {"kind": {"const": "b"}, "model": {"type": "string"}}},
            ],
        });
        let keys = keys_of(&schema);
        assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["kind", "tau", "model"]);
        assert!(keys[1].is_optional && !keys[2].is_optional);
    }
}
