//! The data sets of a training: a flag's file, or the section's `data`; what a hub has is fetched.

use std::path::{Path, PathBuf};

use selfplay_records::Problems;
use selfplay_records::datasets::{ColumnMap, DataExample, DataFile};
use selfplay_trainer::{DataEntry, validate_data};

use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::recipe::DataSource;

/// How the file of a flag is read.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LayoutArgs {
    /// The file's layout [by its columns]
    #[arg(long, value_name = "NAME")]
    pub layout: Option<String>,
    /// Other names: prompt=question,response=answer
    ///
    /// Columns with other names than the layout's fields.
    #[arg(long, value_name = "FIELD=COLUMN", value_delimiter = ',')]
    pub columns: Vec<String>,
}

/// Where a training's section and flag name its data.
#[derive(Clone, Copy)]
pub struct DataFlag<'a> {
    /// `--data`, `--pairs`.
    pub flag: &'static str,
    /// `sft`, `train`, `preference`.
    pub section: &'static str,
    /// The flag's file.
    pub file: Option<&'a str>,
    /// How it is read.
    pub layout: &'a LayoutArgs,
}

impl DataFlag<'_> {
    /// The flag's own file, for rows that come in no layout.
    ///
    /// # Errors
    /// There is none, or `--layout` or `--columns` say how it is read; `why` is told.
    pub fn own_file(&self, why: &str) -> Result<PathBuf> {
        if self.layout.layout.is_some() || !self.layout.columns.is_empty() {
            return Err(EngineError::input(format!(
                "--layout and --columns: {why}, which have no layouts; leave both out"
            )));
        }
        match self.file {
            Some(file) if !file.starts_with("hf://") => Ok(PathBuf::from(file)),
            Some(file) => {
                Err(EngineError::input(format!("{} {file}: {why}; name a file of this machine", self.flag)))
            }
            None => Err(EngineError::input(format!("{} is missing: {why}", self.flag))),
        }
    }
}

/// The data sets, in their order.
pub struct DataSets<T: 'static> {
    /// One or more.
    pub sets: Vec<DataSet<T>>,
    /// As the flag or the recipe names them.
    pub sources: Vec<DataSource>,
    section: &'static str,
}

/// A data set: one file, or those of a hub's split.
pub struct DataSet<T: 'static> {
    /// Its share of an epoch, where the sets have shares.
    pub weight: Option<f64>,
    /// In the order of their names.
    pub files: Vec<DataFile<T>>,
}

impl<T: DataExample> DataSets<T> {
    /// The flag's file, else the section's `data`.
    ///
    /// # Errors
    /// Neither is there, a flag is wrong, or a hub does not have the data.
    pub fn find(flag: DataFlag<'_>, entries: &[DataEntry]) -> Result<Self> {
        let DataFlag { flag: name, section, file, layout } = flag;
        let own;
        let entries = match file {
            Some(file) => {
                own = [layout.entry(file)?];
                let problems = validate_data::<T>(&own);
                problems.into_result(|problems| EngineError::input(of_flags(name, &problems)))?;
                &own[..]
            }
            None if layout.layout.is_some() || !layout.columns.is_empty() => {
                return Err(EngineError::input(format!(
                    "--layout and --columns say how the file of {name} is read, and {name} is missing"
                )));
            }
            None => entries,
        };
        if entries.is_empty() {
            return Err(EngineError::input(format!(
                "{name} is missing: name a file, or data sets in {section}.data of a --recipe"
            )));
        }
        let hub = Hub::default();
        let mut sources = Vec::new();
        let sets = entries.iter().map(|entry| {
            let source = DataSource::parse(&entry.path, None)
                .map_err(|wanted| EngineError::input(format!("{}: expected {wanted}", entry.path)))?;
            let files = hub.data_files(&source)?;
            let files = files.iter().map(|path| entry.file(path)).collect();
            sources.push(source);
            Ok(DataSet { weight: entry.weight, files })
        });
        let sets = sets.collect::<Result<_>>()?;
        Ok(Self { sets, sources, section })
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sets.iter().flat_map(|set| &set.files).map(|file| file.path.as_path())
    }

    /// What is put before the names of a file's examples: nothing where it is the only one.
    pub fn prefix(&self, file: &DataFile<T>) -> String {
        if self.files().count() > 1 { file.path.display().to_string() } else { String::new() }
    }

    /// What an error about an example names: the only file, or the key.
    pub fn place(&self) -> PathBuf {
        let mut files = self.files();
        match (files.next(), files.next()) {
            (Some(only), None) => only.to_path_buf(),
            _ => PathBuf::from(format!("{}.data", self.section)),
        }
    }

    /// The sets' weights, where they have some.
    pub fn weights(&self) -> Option<Vec<f64>> {
        self.sets.iter().map(|set| set.weight).collect()
    }
}

impl LayoutArgs {
    fn entry(&self, file: &str) -> Result<DataEntry> {
        let mut columns = ColumnMap::new();
        for pair in &self.columns {
            let wrong = |want: &str| EngineError::input(format!("--columns {pair}: {want}"));
            let (field, column) = pair
                .split_once('=')
                .filter(|(field, column)| !field.is_empty() && !column.is_empty())
                .ok_or_else(|| wrong("FIELD=COLUMN is wanted, as in prompt=question"))?;
            if columns.insert(field.to_owned(), column.to_owned()).is_some() {
                return Err(wrong("the field has a column already; one is wanted"));
            }
        }
        Ok(DataEntry { path: file.to_owned(), layout: self.layout.clone(), columns, ..DataEntry::default() })
    }
}

/// Problems of `data[0].layout` and the like, by the flags that stand for them.
fn of_flags(flag: &str, problems: &Problems) -> String {
    let lines = problems.list.iter().map(|problem| {
        let (key, value, want) = (&problem.key, &problem.value, &problem.want);
        match key.trim_start_matches("data[0].").split_once('.') {
            Some((_, field)) => format!("--columns {field}={}: {want}", value.trim_matches('"')),
            None if key.ends_with("layout") => format!("--layout {}: {want}", value.trim_matches('"')),
            None => format!("{flag} {value}: {want}"),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}
