//! A file of a data set, row by row.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::columns::{ColumnMap, rename};
use super::layout::{DataExample, DataLayout, RowFields, RowReading};
use super::oddity::{Oddities, Oddity};
use crate::RecordError;
use crate::io::{Wanted, each_row};

/// A file of a data set, and how it is read.
#[derive(Clone, Debug)]
pub struct DataFile<T: 'static> {
    /// JSON Lines, a JSON array or Parquet, by its ending.
    pub path: PathBuf,
    /// `None`: recognised by the columns.
    pub layout: Option<&'static DataLayout<T>>,
    /// Columns that have other names than the layout's fields.
    pub columns: ColumnMap,
    /// The first so many rows. `None`: all.
    pub max_rows: Option<usize>,
}

impl<T> DataFile<T> {
    /// A file whose layout its columns say.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), layout: None, columns: ColumnMap::new(), max_rows: None }
    }
}

/// What was found in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataReport {
    /// The file.
    pub path: PathBuf,
    /// The layouts of its rows, in the order in which they were met.
    pub layouts: Vec<&'static str>,
    /// Rows that were read.
    pub rows: usize,
    /// Examples that they became.
    pub examples: usize,
    /// What was odd, by kind.
    pub oddities: Oddities,
}

impl DataReport {
    /// One line, as the program shows it: "x.jsonl: 20 rows (alpaca), 18 instructions; left out …".
    pub fn line(&self, noun: &str) -> String {
        let odd = self.oddities.describe_all().map_or_else(String::new, |odd| format!("; {odd}"));
        let (path, layouts) = (self.path.display(), self.layouts.join(", "));
        format!("{path}: {} rows ({layouts}), {} {noun}{odd}", self.rows, self.examples)
    }
}

/// Reads a file row by row and hands each example with its row, from 0, to `take`.
///
/// # Errors
/// The file cannot be read, a row has no layout that is known, several, or not the one that it should have; no row gives an
/// example; an error of `take`, at which the reading ends.
pub fn each_example<T: DataExample, E: From<RecordError>>(
    file: &DataFile<T>,
    take: &mut dyn FnMut(usize, T) -> Result<(), E>,
) -> Result<DataReport, E> {
    let mut reader = Reader {
        file,
        report: DataReport {
            path: file.path.clone(),
            layouts: Vec::new(),
            rows: 0,
            examples: 0,
            oddities: Oddities::default(),
        },
        found: None,
        group: None,
        refused: None,
        take,
    };
    each_row(&file.path, &wanted(file), &mut |number, raw| {
        if file.max_rows.is_some_and(|most| number >= most) {
            return Ok(ControlFlow::Break(()));
        }
        let mut fields = raw.into_map().map_err(|problem| problem.at(&file.path, number))?;
        rename(&mut fields, &file.columns).map_err(|problem| RecordError::Field {
            path: file.path.clone(),
            row: number,
            problem,
        })?;
        reader.report.rows += 1;
        reader.row(number, fields)?;
        Ok(if reader.refused.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if reader.refused.is_none() {
        reader.end_group()?;
    }
    let Reader { report, refused, .. } = reader;
    match refused {
        Some(error) => Err(error),
        None => Ok(usable::<T>(report)?),
    }
}

/// A file of which nothing can be used is wrong.
fn usable<T: DataExample>(report: DataReport) -> Result<DataReport, RecordError> {
    let path = report.path.clone();
    match report.oddities.iter(true).min_by_key(|(_, count)| count.first_row) {
        _ if report.examples > 0 => Ok(report),
        Some((kind, count)) => Err(RecordError::NoneUsable {
            path,
            skipped: report.rows,
            noun: T::EXAMPLES,
            reason: format!("row {}: {kind}", count.first_row),
        }),
        None => Err(RecordError::Empty { path, noun: T::EXAMPLES }),
    }
}

/// The columns of the layouts that the file may have, and those that a map names.
fn wanted<T: DataExample>(file: &DataFile<T>) -> Wanted {
    let layouts = match &file.layout {
        Some(layout) => std::slice::from_ref(layout),
        None => T::layouts(),
    };
    let fields = layouts.iter().flat_map(|layout| layout.fields).map(|name| (*name).to_owned());
    Wanted::only(fields.chain(file.columns.values().cloned()))
}

/// A file in reading.
struct Reader<'a, T: DataExample, E> {
    file: &'a DataFile<T>,
    report: DataReport,
    /// The layout of the rows before, where all rows have the same.
    found: Option<&'static DataLayout<T>>,
    group: Option<RowGroup<T>>,
    /// The error of the taker.
    refused: Option<E>,
    take: &'a mut dyn FnMut(usize, T) -> Result<(), E>,
}

/// Rows that belong together, so far.
struct RowGroup<T: 'static> {
    layout: &'static DataLayout<T>,
    key: Option<String>,
    first_row: usize,
    rows: Vec<RowFields>,
}

impl<T: DataExample, E> Reader<'_, T, E> {
    fn row(&mut self, number: usize, fields: RowFields) -> Result<(), RecordError> {
        let layout = match self.file.layout.or(self.found) {
            Some(layout) => layout,
            None => DataLayout::of(&self.file.path, number, &fields)?,
        };
        if !T::MIXED {
            self.found = Some(layout);
        }
        if !self.report.layouts.contains(&layout.name) {
            self.report.layouts.push(layout.name);
        }
        match &layout.reading {
            RowReading::Row(read) => {
                self.end_group()?;
                let mut odd = Vec::new();
                let examples =
                    read(&fields, &mut odd).map_err(|problem| problem.at(&self.file.path, number))?;
                self.hand_on(number, examples, odd);
            }
            RowReading::Group(reading) => {
                let key = (reading.key)(&fields);
                let goes_on = self.group.as_ref().is_some_and(|group| {
                    key.is_some() && group.key == key && std::ptr::eq(group.layout, layout)
                });
                if !goes_on {
                    self.end_group()?;
                }
                let group = self.group.get_or_insert_with(|| RowGroup {
                    layout,
                    key,
                    first_row: number,
                    rows: Vec::new(),
                });
                group.rows.push(fields);
            }
        }
        Ok(())
    }

    /// Makes examples of the rows that were gathered.
    fn end_group(&mut self) -> Result<(), RecordError> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let RowReading::Group(reading) = &group.layout.reading else { return Ok(()) };
        let mut odd = Vec::new();
        let examples = (reading.read)(&group.rows, &mut odd)
            .map_err(|wrong| wrong.problem.at(&self.file.path, group.first_row + wrong.place))?;
        self.hand_on(group.first_row, examples, odd);
        Ok(())
    }

    fn hand_on(&mut self, row: usize, examples: Vec<T>, odd: Vec<Oddity>) {
        self.report.oddities.add(row, odd);
        for example in examples {
            if self.refused.is_some() {
                return;
            }
            self.report.examples += 1;
            self.refused = (self.take)(row, example).err();
        }
    }
}

/// The path, for errors of rows that are read without a file.
pub(super) fn no_file() -> &'static Path {
    Path::new("")
}
