//! The settings of a card: keys whose values are not the defaults, without paths and addresses of the machine.

use std::path::Path;

use crate::recipe::Recipe;

/// Keys that say nothing of how the model was made, or that another run of the same has otherwise.
const LEFT_OUT: [&str; 6] =
    ["name", "iterations", "keep_checkpoints", "policy.model", "policy.adapter", "prompts.splits"];

/// Ends of keys whose values are addresses, programs and names of secrets.
const PRIVATE: [&str; 11] = [
    "endpoint",
    "endpoints",
    "api_key_env",
    "command",
    "weights_command",
    "companion",
    "data",
    "members",
    "template",
    "transcript",
    "concurrency",
];

/// `section.key = value` of every key of `sections` that was set, in the order of recipes.
pub(super) fn settings(recipe: &Recipe, sections: &[&str]) -> Vec<String> {
    let table = recipe.to_table();
    let belongs = |key: &str| match key.split_once('.') {
        None => true,
        Some((section, _)) => sections.contains(&section),
    };
    // A section [score] has the keys of its kind, with their defaults: it is held against another one of the same kind.
    let of_kind = Recipe { score: recipe.score.with_defaults(), ..Recipe::default() };
    let of_score = recipe.differing_keys(&of_kind);
    let is_set = |key: &String| {
        !key.starts_with("score.")
            || matches!(key.as_str(), "score.kind" | "score.model")
            || of_score.contains(key)
    };
    recipe
        .differing_keys(&Recipe::default())
        .into_iter()
        .filter(is_set)
        .filter(|key| belongs(key) && !LEFT_OUT.contains(&key.as_str()))
        .filter(|key| !PRIVATE.contains(&key.rsplit('.').next().unwrap_or_default()))
        .filter_map(|key| {
            let value = shown(at(&table, &key)?);
            Some(format!("{key} = {value}"))
        })
        .collect()
}

fn at<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let mut names = key.split('.');
    let first = table.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

/// A value with the paths in it as names of files.
fn shown(value: &toml::Value) -> toml::Value {
    match value {
        toml::Value::String(text) => toml::Value::String(without_path(text)),
        toml::Value::Array(list) => toml::Value::Array(list.iter().map(shown).collect()),
        other => other.clone(),
    }
}

/// A text without the folders of a path of this machine.
pub(super) fn without_path(text: &str) -> String {
    let (before, path) = match text.strip_prefix("random:") {
        Some(path) => ("random:", path),
        None => ("", text),
    };
    if !Path::new(path).is_absolute() && !path.starts_with(['.', '~']) {
        return text.to_owned();
    }
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    format!("{before}{}", name.unwrap_or_else(|| "a folder".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Purpose, load_text};

    #[test]
    fn settings_that_were_set_are_listed_without_paths() {
        let text = "name = \"x\"\nseed = 7\n[policy]\nmodel = \"/home/me/model\"\n[train]\nbeta = 0.5\nloss = \"gpo\"\n\
                    [sft]\nepochs = 3\n[score]\nkind = \"judge\"\nmodel = \"m\"\nendpoint = \"http://10.0.0.1/v1\"\n";
        let recipe = load_text(text, "test", None, "x", &[], Purpose::Stage).unwrap();
        let found = settings(&recipe, &["train", "policy", "score"]);
        assert!(
            found.contains(&"seed = 7".to_owned()) && found.contains(&"train.beta = 0.5".to_owned()),
            "{found:?}"
        );
        let all = found.join("\n");
        for absent in ["/home", "10.0.0.1", "epochs", "train.loss", "name"] {
            assert!(!all.contains(absent), "{absent}: {all}");
        }
    }

    #[test]
    fn defaults_of_a_kind_and_words_of_programs_are_not_listed() {
        let listed = |score: &str| {
            let text = format!(
                "name = \"x\"\n[policy]\nmodel = \"/home/me/model\"\n[sample]\nbackend = \"vllm\"\n\
                    endpoints = [\"http://10.0.0.1/v1\"]\nweights = \"command\"\nweights_command = [\"up\", \"--key=sk-1\"]\n\
                    [score]\n{score}"
            );
            let recipe = load_text(&text, "test", None, "x", &[], Purpose::Stage).unwrap();
            let mut found = settings(&recipe, &["policy", "score", "sample"]);
            assert!(!found.join("\n").contains("sk-1"), "{found:?}");
            found.retain(|line| line.starts_with("score."));
            found
        };
        let model = "score.model = \"m\"";
        for (score, wanted) in [
            ("model = \"m\"", &[model][..]),
            ("kind = \"gpm\"\nmodel = \"m\"\ntau = 0.1", &["score.kind = \"gpm\"", model]),
            (
                "kind = \"gpm\"\nmodel = \"m\"\ntau = 0.5\nmax_length = 77",
                &["score.kind = \"gpm\"", "score.max_length = 77", model, "score.tau = 0.5"],
            ),
            ("kind = \"command\"\ncommand = [\"a\", \"--key=sk-1\"]", &["score.kind = \"command\""]),
            (
                "kind = \"remote\"\nendpoint = \"http://10.0.0.1\"\nretries = 9",
                &["score.kind = \"remote\"", "score.retries = 9"],
            ),
        ] {
            assert_eq!(listed(score), wanted);
        }
    }

    #[test]
    fn a_path_keeps_its_last_name() {
        assert_eq!(without_path("/home/me/models/tiny"), "tiny");
        assert_eq!(without_path("random:/home/me/tiny"), "random:tiny");
        assert_eq!(without_path("../tiny"), "tiny");
        assert_eq!(without_path("org/name"), "org/name");
        assert_eq!(without_path("cosine"), "cosine");
    }
}
