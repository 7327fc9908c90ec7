//! How questions are worded: the built-in templates, each of which a file of the same name in `synthesize.templates` takes the place of.

use std::path::{Path, PathBuf};

use selfplay_model::PromptTemplate;
use serde_json::Value;

use crate::error::{EngineError, Result};

/// A rendering's name and the built-in text.
macro_rules! built_in {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("prompts/", $name)))),*] };
}

const BUILT_IN: [(&str, &str); 8] = built_in![
    "evolve_constrain.jinja",
    "evolve_deepen.jinja",
    "evolve_concretise.jinja",
    "evolve_reason.jinja",
    "evolve_widen.jinja",
    "examples.jinja",
    "judge.jinja",
    "explanations.txt"
];

/// The ways in which a request is rewritten; the last one leaves it for another of its field.
pub(super) const EVOLUTIONS: [&str; 5] = [
    "evolve_constrain.jinja",
    "evolve_deepen.jinja",
    "evolve_concretise.jinja",
    "evolve_reason.jinja",
    "evolve_widen.jinja",
];

/// The templates of a synthesis.
#[derive(Debug)]
pub(super) struct Templates {
    texts: Vec<(&'static str, String)>,
    programs: Vec<(&'static str, PromptTemplate)>,
}

impl Templates {
    /// The built-in ones, with those of `folder` in their places.
    ///
    /// # Errors
    /// A folder that is not there, one with none of these names, a file that does not read or parse.
    pub(super) fn load(folder: Option<&Path>) -> Result<Self> {
        let mut texts = Vec::new();
        let mut taken = 0;
        for (name, text) in BUILT_IN {
            let own = folder.map(|folder| folder.join(name)).filter(|path| path.is_file());
            texts.push(match own {
                Some(path) => {
                    taken += 1;
                    let text =
                        std::fs::read_to_string(&path).map_err(|source| EngineError::named(&path, source))?;
                    (name, text)
                }
                None => (name, text.to_owned()),
            });
        }
        if let Some(folder) = folder.filter(|_| taken == 0) {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            return Err(EngineError::input(format!(
                "synthesize.templates = {}: no template in it; files of these names are read: {}",
                folder.display(),
                names.join(", ")
            )));
        }
        let programs = texts
            .iter()
            .filter(|(name, _)| name.ends_with(".jinja"))
            .map(|(name, text)| {
                let path = folder.map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
                Ok((*name, PromptTemplate::parse(text, &path)?))
            })
            .collect::<Result<_>>()?;
        let templates = Self { texts, programs };
        if templates.system_messages().is_empty() {
            return Err(EngineError::input(
                "explanations.txt: empty; a system message on each line is wanted",
            ));
        }
        Ok(templates)
    }

    /// The question that a template makes of the values.
    ///
    /// # Errors
    /// A template that fails on them, or makes nothing.
    pub(super) fn render(&self, name: &str, values: &[(&str, &Value)]) -> Result<String> {
        let found = self.programs.iter().find(|(known, _)| *known == name);
        let text = found.map_or(Ok(String::new()), |(_, program)| program.render(values))?;
        if text.is_empty() {
            return Err(EngineError::input(format!("{name}: makes an empty question")));
        }
        Ok(text)
    }

    /// The system messages that ask for explanations: a line each.
    pub(super) fn system_messages(&self) -> Vec<&str> {
        let text = self.texts.iter().find(|(name, _)| *name == "explanations.txt");
        text.map_or_else(Vec::new, |(_, text)| {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
        })
    }

    /// Names and texts: what the questions depend on.
    pub(super) fn texts(&self) -> &[(&'static str, String)] {
        &self.texts
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_built_in_template_takes_its_values() {
        let templates = Templates::load(None).unwrap();
        let instruction = json!("Name {{ three }} rivers.");
        for name in EVOLUTIONS {
            let text = templates.render(name, &[("instruction", &instruction)]).unwrap();
            assert!(text.ends_with("Name {{ three }} rivers."), "{name}: {text}");
        }
        let (examples, topic, count) = (json!(["one", "two"]), json!("rivers"), json!(2));
        let values = [("examples", &examples), ("topic", &topic), ("count", &count)];
        let text = templates.render("examples.jinja", &values).unwrap();
        for words in [
            "about this topic: rivers",
            "<request>one</request>\n<request>two</request>",
            "Write 2 new requests",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let (none, one) = (Value::Null, json!(1));
        let values = [("examples", &none), ("topic", &topic), ("count", &one)];
        let text = templates.render("examples.jinja", &values).unwrap();
        assert!(text.contains("Write 1 new request of different kinds"), "{text}");
        let messages = json!([{"role": "user", "content": "Q"}]);
        let response = json!("A");
        let values = [("messages", &messages), ("response", &response)];
        let text = templates.render("judge.jinja", &values).unwrap();
        assert!(text.contains("<user>\nQ\n</user>") && text.contains("<answer>\nA\n</answer>"), "{text}");
        assert!(!text.contains("reference"), "{text}");
        assert!(templates.system_messages().len() > 3);
    }

    #[test]
    fn a_folder_s_files_take_the_places_of_built_in_ones() {
        let folder = tempfile::tempdir().unwrap();
        let error = Templates::load(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("judge.jinja"), "{error}");
        atomic::write_bytes(&folder.path().join("judge.jinja"), b"Is {{ response }} good?").unwrap();
        let templates = Templates::load(Some(folder.path())).unwrap();
        let response = json!("it");
        assert_eq!(templates.render("judge.jinja", &[("response", &response)]).unwrap(), "Is it good?");
        assert!(templates.render("examples.jinja", &[("count", &json!(1))]).is_ok());
    }
}
