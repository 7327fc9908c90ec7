//! `Chain`: every link with the recipe that its command works by, checked before anything is computed.

use std::path::{Path, PathBuf};

use selfplay_records::Problems;
use selfplay_trainer::TrainSettings;

use super::link::Link;
use super::output::LinkOutput;
use super::references::{ReferenceContext, Resolved, restore};
use super::text::{ChainText, WrittenLink};
use crate::error::{EngineError, Result};
use crate::recipe::{
    DataSource, LinkCommand, ModelSource, Purpose, Recipe, RecipePlaces, is_model, keys, resolve_table,
};

/// What a chain is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainPurpose {
    /// A new chain: what its links name must be there, or be made by an earlier link.
    Run,
    /// `check` and `plan`: a model's folder may be made later.
    Check,
    /// A chain that has begun: nothing is looked for.
    Reread,
}

impl ChainPurpose {
    fn of_link(self, command: LinkCommand) -> Purpose {
        match (self, command) {
            (Self::Run, LinkCommand::Run) => Purpose::Run,
            (Self::Check, LinkCommand::Run) => Purpose::Check,
            (Self::Reread, LinkCommand::Run) => Purpose::Reread,
            (Self::Run | Self::Check, _) => Purpose::Stage,
            (Self::Reread, _) => Purpose::RereadStage,
        }
    }
}

/// A chain.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// Where it is, or will be, absolute.
    pub(crate) folder: PathBuf,
    /// In order.
    pub(crate) links: Vec<Link>,
}

impl ChainText {
    /// Looks up what the links name and checks every value; the chain is, or will be, in `folder`.
    ///
    /// # Errors
    /// [`EngineError`] with every problem at once.
    pub(crate) fn resolve(self, folder: &Path, purpose: ChainPurpose) -> Result<Chain> {
        let Self { place, folder: beside, name, links: written, mut problems } = self;
        // Absolute, so that a link's recipe means the same from every directory.
        let folder = std::path::absolute(folder).map_err(|source| EngineError::named(folder, source))?;
        let mut links: Vec<Option<Link>> = Vec::new();
        for link in &written {
            let around = ReferenceContext { written: &written, earlier: &links, folder: &folder };
            let reader = LinkReader { link, around, beside: beside.as_deref(), purpose };
            links.push(reader.read(&mut problems));
        }
        problems.into_result(|problems| EngineError::Recipe { place, problems })?;
        Ok(Chain { name, folder, links: links.into_iter().flatten().collect() })
    }
}

impl Chain {
    /// `recipe.toml` of the chain's folder: every default written out, references as written. Reading it again gives the
    /// same chain, wherever the folder is.
    pub(crate) fn to_toml(&self) -> String {
        let links = self.links.iter().map(|link| toml::Value::Table(link.written.clone())).collect();
        let mut table = toml::Table::new();
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("chain".to_owned(), toml::Value::Array(links));
        // Strings, numbers and lists always have a TOML form.
        toml::to_string(&table).unwrap_or_default()
    }

    /// Every key by its name, `chain.NAME.section.key`.
    pub(super) fn to_table(&self) -> toml::Table {
        let named = |link: &Link| (link.name.clone(), toml::Value::Table(link.written.clone()));
        let mut table = toml::Table::new();
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("chain".to_owned(), toml::Value::Table(self.links.iter().map(named).collect()));
        table
    }

    /// The files of rows of a link's training that are neither there nor made by an earlier link.
    pub(crate) fn absent_data(&self, link: &Link) -> Vec<PathBuf> {
        let entries =
            training_of(link.command, &link.recipe).map_or(&[][..], |settings| settings.data.as_slice());
        let files = entries.iter().filter_map(|entry| match DataSource::parse(&entry.path, None) {
            Ok(DataSource::File(path)) => Some(path),
            _ => None,
        });
        files.filter(|path| !path.is_file() && self.maker(path).is_none()).collect()
    }

    /// The link that writes `path`.
    pub(crate) fn maker(&self, path: &Path) -> Option<&Link> {
        let inner = path.strip_prefix(&self.folder).ok()?;
        let name = inner.components().next()?.as_os_str();
        self.links.iter().find(|link| name == link.name.as_str())
    }
}

/// The settings of a training on rows that are named; `None` of a link that is none.
pub(crate) fn training_of(command: LinkCommand, recipe: &Recipe) -> Option<&TrainSettings> {
    match command {
        LinkCommand::Sft => Some(&recipe.sft.train),
        LinkCommand::Train => Some(&recipe.train),
        LinkCommand::TrainPreference => Some(&recipe.preference.train),
        LinkCommand::Synthesize | LinkCommand::Merge | LinkCommand::Run => None,
    }
}

/// Makes a [`Link`] of a written one.
struct LinkReader<'a> {
    link: &'a WrittenLink,
    around: ReferenceContext<'a>,
    beside: Option<&'a Path>,
    purpose: ChainPurpose,
}

impl LinkReader<'_> {
    fn read(&self, problems: &mut Problems) -> Option<Link> {
        let (link, command) = (self.link, self.link.command?);
        let mut own = Problems::default();
        let mut table = self.known_keys(command, &mut own);
        let found = self.around.resolve(&mut table, &mut |key, text, want| {
            own.value(key, format!("{text:?}"), want);
        });
        let referred: Vec<String> = own.keys().into_iter().map(str::to_owned).collect();
        table.insert("name".to_owned(), link.name.clone().into());
        let places = RecipePlaces { folder: self.beside, to_be_made: Some(self.around.folder) };
        let mut of_recipe = Problems::default();
        let recipe = resolve_table(table, places, self.purpose.of_link(command), &mut of_recipe);
        // A link without a name has been reported, and so has a reference that leads nowhere.
        of_recipe.list.retain(|problem| problem.key != "name" && !referred.contains(&problem.key));
        own.extend(of_recipe);
        self.check_model(command, &recipe, &mut own);
        self.check_data(command, &recipe, &mut own);
        if command == LinkCommand::Synthesize && recipe.synthesize.is_none() {
            own.key("synthesize", "absent: a section with a method, seeds and a generator is wanted");
        }
        problems.extend(own.within(&link.key));
        let output = LinkOutput::of(command, &recipe, &self.around.folder.join(&link.name));
        let written = self.written(command, &recipe, &found);
        Some(Link { name: link.name.clone(), command, recipe, output, written })
    }

    /// The link's table, without what has no effect in a link of its command.
    fn known_keys(&self, command: LinkCommand, problems: &mut Problems) -> toml::Table {
        let mut table = self.link.table.clone();
        let sections = command.sections();
        let is_read = |key: &str| {
            sections.contains(&key)
                || ["seed", "keep_checkpoints"].contains(&key)
                || (key == "iterations" && command == LinkCommand::Run)
        };
        for key in keys().iter().map(|key| key.name.as_str()) {
            if !is_read(key) && table.remove(key).is_some() {
                let want = format!(
                    "has no effect in a link of {}, which reads {}",
                    command.name(),
                    sections.join(", ")
                );
                problems.key(key, want);
            }
        }
        table
    }

    /// A stage command is told its rows by a flag, a link by its section.
    fn check_data(&self, command: LinkCommand, recipe: &Recipe, problems: &mut Problems) {
        let (Some(section), Some(settings)) = (command.training_section(), training_of(command, recipe))
        else {
            return;
        };
        let key = format!("{section}.data");
        if problems.keys().iter().any(|found| found.starts_with(&key)) {
            return;
        }
        if settings.data.is_empty() {
            problems
                .key(key, "absent: the rows that the link trains on, as in [\"rows.jsonl\"] or [\"@NAME\"]");
            return;
        }
        for entry in &settings.data {
            let Ok(DataSource::File(path)) = DataSource::parse(&entry.path, self.beside) else { continue };
            let is_looked_for = self.purpose == ChainPurpose::Run && !path.starts_with(self.around.folder);
            let want = "no such file; a .jsonl, .json or .parquet file, hf://datasets/ORG/NAME, or @NAME of an earlier link";
            problems.refuse(is_looked_for && !path.is_file(), &key, &entry.path, want);
        }
    }

    /// A stage command is told its model by a flag, a link by its section.
    fn check_model(&self, command: LinkCommand, recipe: &Recipe, problems: &mut Problems) {
        // A generator may name a model of its own.
        if matches!(command, LinkCommand::Run | LinkCommand::Synthesize)
            || problems.keys().contains(&"policy.model")
        {
            return;
        }
        match &recipe.policy.model {
            ModelSource::Unset => {
                problems.key(
                    "policy.model",
                    "absent: a model folder, a hub id ORG/NAME, or @NAME of an earlier link",
                );
            }
            ModelSource::Folder(folder) | ModelSource::Random(folder)
                if self.purpose == ChainPurpose::Run
                    && !is_model(folder)
                    && !folder.starts_with(self.around.folder) =>
            {
                let want = "no such folder or file; a model folder, a FILE.gguf, a hub id ORG/NAME, or @NAME of an earlier link";
                problems.value("policy.model", &recipe.policy.model, want);
            }
            _ => {}
        }
    }

    fn written(&self, command: LinkCommand, recipe: &Recipe, found: &[Resolved]) -> toml::Table {
        let mut table = recipe.to_table();
        let top = ["seed", "keep_checkpoints"];
        table.retain(|key, _| {
            command.sections().contains(&key)
                || top.contains(&key)
                || (key == "iterations" && command == LinkCommand::Run)
        });
        table.insert("name".to_owned(), self.link.name.clone().into());
        table.insert("command".to_owned(), command.name().into());
        restore(&mut table, found);
        table
    }
}
