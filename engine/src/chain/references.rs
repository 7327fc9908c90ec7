//! `@NAME` in a link: the output of an earlier link, wherever a model, an adapter or a file of rows is named.
//! `@NAME/PATH` is a file or folder that the link writes, by its path in the link's folder.

use std::path::PathBuf;

use super::link::Link;
use super::output::{LinkOutput, LinkOutputKind};
use super::text::WrittenLink;
use crate::recipe::LinkCommand;
use crate::recipe::problems::nearest;

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WantedOutput {
    Policy,
    PreferenceModel,
    /// Either of the two.
    Model,
    Adapter,
    Rows,
    /// A file that no link's output is.
    Template,
}

impl WantedOutput {
    fn name(self) -> &'static str {
        match self {
            Self::Policy => "a policy",
            Self::PreferenceModel => "a preference model",
            Self::Model => "a model",
            Self::Adapter => "an adapter",
            Self::Rows => "a file of rows",
            Self::Template => "a chat template's file",
        }
    }

    /// What `key` of a link of this command names; `None` where it is no model and no file.
    fn of(link: &WrittenLink, key: &str) -> Option<Self> {
        let text = |section: &str, key: &str| link.table.get(section)?.get(key)?.as_str();
        Some(match key {
            "policy.model" => match link.command {
                Some(LinkCommand::TrainPreference) => Self::Model,
                Some(LinkCommand::Merge) if text("policy", "adapter").is_none() => Self::Adapter,
                Some(LinkCommand::Merge) => Self::Model,
                _ => Self::Policy,
            },
            "policy.adapter" | "sft.lora.init" | "train.lora.init" | "preference.lora.init" => Self::Adapter,
            "policy.chat_template" | "score.chat_template" | "score.template" => Self::Template,
            // A language model that compares by its own words is a policy.
            "score.model" if matches!(text("score", "kind"), Some("pair-lm" | "judge")) => Self::Model,
            "score.model" => Self::PreferenceModel,
            // A member's kind is its own.
            "score.members.model" => Self::Model,
            "prompts.splits" | "eval.prompts" => Self::Rows,
            "sft.data" | "train.data" | "preference.data" => Self::Rows,
            "synthesize.seeds" => Self::Rows,
            "synthesize.generator.model" | "synthesize.weak.model" | "synthesize.judge.model" => Self::Policy,
            "sft.data.path" | "train.data.path" | "preference.data.path" => Self::Rows,
            _ => return None,
        })
    }

    /// The place of an output that is what is wanted.
    fn place(self, output: &LinkOutput) -> Option<PathBuf> {
        match (self, output.kind) {
            (Self::Policy | Self::Model, LinkOutputKind::Policy)
            | (Self::PreferenceModel | Self::Model, LinkOutputKind::PreferenceModel)
            | (Self::Rows, LinkOutputKind::Rows) => Some(output.place.clone()),
            (Self::Adapter, _) => output.adapter.clone(),
            _ => None,
        }
    }
}

/// One that was found: the text as written, and what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) text: String,
    pub(super) place: String,
}

/// The links around the one whose references are resolved.
pub(super) struct ReferenceContext<'a> {
    /// All, as written.
    pub(super) written: &'a [WrittenLink],
    /// Those before it; `None` where nothing is known of one, because its command is wrong.
    pub(super) earlier: &'a [Option<Link>],
    /// The chain's folder.
    pub(super) folder: &'a std::path::Path,
}

impl ReferenceContext<'_> {
    /// Puts what they stand for into the place of the references in `table`, which is that of the link after `earlier`.
    /// Problems go to `wrong`: key, text and what would be right.
    pub(super) fn resolve(
        &self,
        table: &mut toml::Table,
        wrong: &mut dyn FnMut(&str, &str, String),
    ) -> Vec<Resolved> {
        let link = &self.written[self.earlier.len()];
        let mut found = Vec::new();
        visit(table, &mut |key, text| {
            let Some(wanted) = WantedOutput::of(link, key) else { return };
            let Some(reference) = text.strip_prefix('@') else { return };
            match self.place(reference, wanted) {
                Ok(place) => {
                    let place = place.display().to_string();
                    found.push(Resolved { text: text.clone(), place: place.clone() });
                    *text = place;
                }
                Err(want) => {
                    wrong(key, text, want);
                    // A second message about a file of this name would not help.
                    *text = self.folder.join("unknown").display().to_string();
                }
            }
        });
        found
    }

    fn place(&self, reference: &str, wanted: WantedOutput) -> Result<PathBuf, String> {
        let (name, path) = match reference.split_once('/') {
            Some((name, path)) => (name, Some(path)),
            None => (reference, None),
        };
        let known = self.written.iter().position(|link| link.name == name).filter(|_| !name.is_empty());
        let here = self.earlier.len();
        let place = match known {
            Some(place) if place < here => place,
            Some(place) => return Err(self.not_yet(place)),
            None => return Err(self.unknown(name)),
        };
        let folder = self.folder.join(name);
        if let Some(path) = path {
            let stays = std::path::Path::new(path)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            return match stays && !path.is_empty() {
                true => Ok(folder.join(path)),
                false => Err("@NAME/PATH: a path within the link's folder is wanted".to_owned()),
            };
        }
        let Some(link) = &self.earlier[place] else { return Ok(folder) };
        wanted.place(&link.output).ok_or_else(|| match wanted {
            WantedOutput::Adapter => {
                format!("an adapter is wanted, and the link {name} trains none: it has no lora section")
            }
            wanted => format!("{} is wanted, and @{name} is {}", wanted.name(), link.output.kind.name()),
        })
    }

    fn unknown(&self, name: &str) -> String {
        let earlier: Vec<&str> =
            self.written[..self.earlier.len()].iter().map(|link| link.name.as_str()).collect();
        let folder = "a file or folder whose name begins with @ is written ./@…";
        match (nearest(name, &earlier), earlier.is_empty()) {
            (Some(near), _) => format!("no link of this name; did you mean @{near}? {folder}"),
            (None, true) => format!("no link is before this one, whose output it could be; {folder}"),
            (None, false) => {
                format!("no link of this name; before this one are {}; {folder}", earlier.join(", "))
            }
        }
    }

    /// Why the output of the link at `place` is not there yet: it is this one, or a later one.
    fn not_yet(&self, place: usize) -> String {
        let here = self.earlier.len();
        if let Some(way) = self.way(place, here, &mut vec![false; self.written.len()]) {
            let names: Vec<&str> =
                [here].iter().chain(&way).map(|&place| self.written[place].name.as_str()).collect();
            return format!("a circle: {}; a link takes the output of an earlier one", names.join(" → "));
        }
        format!(
            "is a later link, and links are worked on in order: move its [[chain]] before {}",
            self.written[here].key
        )
    }

    /// The links from `from` to `to`, each naming the next, both ends included.
    fn way(&self, from: usize, to: usize, seen: &mut [bool]) -> Option<Vec<usize>> {
        if from == to {
            return Some(vec![to]);
        }
        if std::mem::replace(&mut seen[from], true) {
            return None;
        }
        self.named_by(from).into_iter().find_map(|next| {
            let mut way = self.way(next, to, seen)?;
            way.insert(0, from);
            Some(way)
        })
    }

    /// The links that the one at `place` names.
    fn named_by(&self, place: usize) -> Vec<usize> {
        let link = &self.written[place];
        let mut table = link.table.clone();
        let mut named = Vec::new();
        visit(&mut table, &mut |key, text| {
            let Some(reference) = text.strip_prefix('@').filter(|_| WantedOutput::of(link, key).is_some())
            else {
                return;
            };
            let name = reference.split('/').next().unwrap_or_default();
            named.extend(self.written.iter().position(|link| link.name == name));
        });
        named
    }
}

/// Every text in a table, with its key: lists have the key of their entries.
fn visit(table: &mut toml::Table, each: &mut dyn FnMut(&str, &mut String)) {
    for (key, value) in table {
        visit_value(key, value, each);
    }
}

fn visit_value(key: &str, value: &mut toml::Value, each: &mut dyn FnMut(&str, &mut String)) {
    match value {
        toml::Value::String(text) => each(key, text),
        toml::Value::Array(list) => list.iter_mut().for_each(|one| visit_value(key, one, each)),
        toml::Value::Table(table) => {
            for (name, value) in table {
                visit_value(&format!("{key}.{name}"), value, each);
            }
        }
        _ => {}
    }
}

/// Puts the references back into the place of what they stand for.
pub(super) fn restore(table: &mut toml::Table, found: &[Resolved]) {
    visit(table, &mut |_, text| {
        if let Some(one) = found.iter().find(|one| one.place == *text) {
            text.clone_from(&one.text);
        }
    });
}
