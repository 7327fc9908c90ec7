//! A recipe's text as a chain: names, commands and tables of its links, with `--set` applied. Nothing is looked up yet.

use std::path::{Path, PathBuf};

use selfplay_records::Problems;

use crate::error::{EngineError, Result};
use crate::recipe::problems::{nearest, unknown};
use crate::recipe::read::{table_of, text_of};
use crate::recipe::{LinkCommand, Override, keys};

/// Keys of the top that a chain has; those but for its name hold for each link that has none of its own.
const TOP: [&str; 3] = ["name", "seed", "keep_checkpoints"];

/// Characters of a link's name at most: it names files.
const LONGEST_NAME: usize = 100;

/// A chain as written.
#[derive(Debug)]
pub(crate) struct ChainText {
    /// Names the recipe in messages.
    pub(super) place: String,
    /// The recipe's folder, for relative paths.
    pub(super) folder: Option<PathBuf>,
    /// The chain's.
    pub(crate) name: String,
    /// In order.
    pub(super) links: Vec<WrittenLink>,
    /// What is wrong so far.
    pub(super) problems: Problems,
}

/// A link as written.
#[derive(Debug)]
pub(super) struct WrittenLink {
    /// `chain.NAME`, or `chain[2]` of one without a name.
    pub(super) key: String,
    pub(super) name: String,
    /// Absent where what is written is no command.
    pub(super) command: Option<LinkCommand>,
    /// All but name and command.
    pub(super) table: toml::Table,
}

impl ChainText {
    /// Reads the recipe at `path`; `None` where it is no chain, and where it is no TOML, for the reader of recipes to report.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn read(path: &Path, overrides: &[Override]) -> Result<Option<Self>> {
        let text = text_of(path).map_err(EngineError::Input)?;
        let mut problems = Problems::default();
        let table = table_of(&text, &mut problems).filter(|table| table.contains_key("chain"));
        let Some(mut table) = table else { return Ok(None) };
        let stem = path.file_stem().map_or("chain".to_owned(), |stem| stem.to_string_lossy().into());
        let mut chain = Self {
            place: format!("recipe {}", path.display()),
            folder: path.parent().map(Path::to_path_buf),
            name: stem,
            links: Vec::new(),
            problems,
        };
        let list = table.remove("chain");
        chain.take_links(list);
        chain.take_overrides(overrides, &mut table);
        chain.take_top(table);
        Ok(Some(chain))
    }

    fn take_links(&mut self, list: Option<toml::Value>) {
        let Some(toml::Value::Array(list)) = list else {
            self.problems
                .key("chain", "links are wanted: [[chain]], with a name, a command and sections of its own");
            return;
        };
        if list.is_empty() {
            self.problems.key("chain", "no links; one or more are wanted");
        }
        for (place, one) in list.into_iter().enumerate() {
            let toml::Value::Table(table) = one else {
                self.problems.value(
                    format!("chain[{}]", place + 1),
                    one,
                    "a link is wanted: [[chain]] and its keys",
                );
                continue;
            };
            self.take_link(place, table);
        }
    }

    fn take_link(&mut self, place: usize, mut table: toml::Table) {
        let problems = &mut self.problems;
        let numbered = format!("chain[{}]", place + 1);
        let name = match table.remove("name") {
            Some(toml::Value::String(name)) if is_name(&name) => name,
            Some(other) => {
                let want = "a name of letters, digits, - and _ is wanted: it names a folder, and @NAME";
                problems.value(format!("{numbered}.name"), other, want);
                String::new()
            }
            None => {
                problems.key(format!("{numbered}.name"), "absent: later links call this one by it, as @NAME");
                String::new()
            }
        };
        let key = if name.is_empty() { numbered } else { format!("chain.{name}") };
        let is_same = |link: &WrittenLink| !name.is_empty() && link.name.eq_ignore_ascii_case(&name);
        if let Some(other) = self.links.iter().find(|link| is_same(link)) {
            let want = format!("two links of one name ({}); each has a folder of its own name", other.name);
            problems.value(format!("{key}.name"), format!("{name:?}"), want);
        }
        let command = command(&key, table.remove("command"), problems);
        self.links.push(WrittenLink { key, name, command, table });
    }

    /// `--set chain.NAME.section.key=value`, and of keys of the top.
    fn take_overrides(&mut self, overrides: &[Override], top: &mut toml::Table) {
        for one in overrides {
            let Some(rest) = one.key.strip_prefix("chain.") else {
                match TOP.contains(&one.key.as_str()) {
                    true => one.apply(top, &mut self.problems),
                    false => self.problems.key(
                        &one.key,
                        format!("--set of a chain names a link: chain.{}.{} = …", self.example(), one.key),
                    ),
                }
                continue;
            };
            let (name, key) = rest.split_once('.').unwrap_or((rest, ""));
            let names: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
            let Some(place) = names.iter().position(|known| *known == name) else {
                let want = match nearest(name, &names) {
                    Some(near) => format!("no link of this name; did you mean chain.{near}?"),
                    None => format!("no link of this name; the links are {}", names.join(", ")),
                };
                self.problems.key(&one.key, want);
                continue;
            };
            if ["", "name", "command"].contains(&key) {
                let want = "--set takes a key of the link's: a link's name and command are the recipe's";
                self.problems.key(&one.key, want);
                continue;
            }
            let mut problems = Problems::default();
            Override::new(key, one.value.clone()).apply(&mut self.links[place].table, &mut problems);
            self.problems.extend(problems.within(&self.links[place].key));
        }
    }

    fn example(&self) -> &str {
        self.links.iter().map(|link| link.name.as_str()).find(|name| !name.is_empty()).unwrap_or("NAME")
    }

    /// The keys beside the links: the name is the chain's, the others go to the links that have none of their own.
    fn take_top(&mut self, top: toml::Table) {
        for (key, value) in top {
            match (key.as_str(), value) {
                ("name", toml::Value::String(name)) => self.name = name,
                ("name", other) => self.problems.value("name", other, "expected a string"),
                (shared, value) if TOP.contains(&shared) => {
                    for link in &mut self.links {
                        link.table.entry(shared).or_insert_with(|| value.clone());
                    }
                }
                (section, _) if keys().iter().any(|known| known.name == section) => {
                    let want = format!(
                        "of a chain it belongs to a link: write it below a [[chain]], as chain.{section}; beside [[chain]] \
                         stand {} alone",
                        TOP.join(", ")
                    );
                    self.problems.key(section, want);
                }
                (other, _) => unknown(&mut self.problems, "", other, &TOP),
            }
        }
        let name = &self.name;
        let is_wrong = name.is_empty()
            || [".", ".."].contains(&name.as_str())
            || name.contains(|c: char| c.is_control() || ['/', '\\'].contains(&c));
        let want = "the name of a folder, without slashes and control characters";
        self.problems.refuse(is_wrong, "name", format!("{name:?}"), want);
    }
}

/// `--set chain.NAME.key` has to reach it.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && name.len() <= LONGEST_NAME
}

fn command(key: &str, value: Option<toml::Value>, problems: &mut Problems) -> Option<LinkCommand> {
    let names = LinkCommand::ALL.map(LinkCommand::name);
    let expected = format!("expected one of {}", names.join(", "));
    let key = format!("{key}.command");
    let Some(value) = value else {
        problems.key(key, format!("absent: {expected}"));
        return None;
    };
    let text = value.as_str().unwrap_or_default();
    let found = LinkCommand::ALL.into_iter().find(|command| command.name() == text);
    if found.is_none() {
        let want = match nearest(text, &names) {
            Some(near) => format!("did you mean {near}? {expected}"),
            None => expected,
        };
        problems.value(key, value, want);
    }
    found
}
