//! What AlpacaEval 2 publishes beside its leaderboard: how difficult each instruction is, and how its judge rates the baseline's
//! own verbose and concise answers. Both are files of the hub's dataset `tatsu-lab/alpaca_eval`.

use std::collections::HashMap;
use std::path::Path;

use selfplay_records::{FieldProblem, RecordError, read_csv_texts};

/// The difficulty of each instruction, and the gamed baselines' rows.
#[derive(Clone, Debug)]
pub struct LengthTables {
    /// By the instruction's number in the evaluation set.
    difficulty: HashMap<u64, f64>,
    gamed: Vec<GamedRow>,
}

/// An instruction that the table of difficulties lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingDifficulty {
    /// Its number from 0: its row in the annotations.
    pub number: u64,
}

/// A row of df_gamed.csv: the baseline told to be verbose or concise, against itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GamedRow {
    /// P(the gamed answer wins) in \[0, 1].
    pub preference: f64,
    /// The difference of lengths in standard deviations, as the file has it.
    pub length_difference: f64,
    /// The instruction's difficulty.
    pub difficulty: f64,
}

impl LengthTables {
    /// Reads instruction_difficulty.csv (an unnamed column of numbers, `instruction_difficulty`) and df_gamed.csv
    /// (`preference`, `std_delta_len`, `instruction_difficulty`).
    ///
    /// # Errors
    /// A file that does not read, a column that it lacks, a value that is no finite number, an instruction twice.
    pub fn read(difficulty: &Path, gamed: &Path) -> Result<Self, RecordError> {
        Ok(Self { difficulty: read_difficulty(difficulty)?, gamed: read_gamed(gamed)? })
    }

    /// The difficulty of each of the first `count` instructions.
    pub(super) fn difficulties(&self, count: usize) -> Result<Vec<f64>, MissingDifficulty> {
        let of = |number: u64| self.difficulty.get(&number).copied().ok_or(MissingDifficulty { number });
        (0..count as u64).map(of).collect()
    }

    pub(super) fn gamed(&self) -> &[GamedRow] {
        &self.gamed
    }
}

fn read_difficulty(path: &Path) -> Result<HashMap<u64, f64>, RecordError> {
    let table = CsvTable::read(path)?;
    let value = table.column("instruction_difficulty")?;
    let mut read = HashMap::new();
    for row in 0..table.rows.len() {
        let number = table.cell(row, 0);
        let wrong = |expected| table.fault(row, "the first column", expected, number);
        let index = number.parse().map_err(|_| wrong("an instruction's number"))?;
        if read.insert(index, table.number(row, value)?).is_some() {
            return Err(wrong("each instruction once"));
        }
    }
    Ok(read)
}

fn read_gamed(path: &Path) -> Result<Vec<GamedRow>, RecordError> {
    let table = CsvTable::read(path)?;
    let column = |name| table.column(name);
    let (preference, length) = (column("preference")?, column("std_delta_len")?);
    let difficulty = column("instruction_difficulty")?;
    let row = |row| {
        let read = GamedRow {
            preference: table.number(row, preference)?,
            length_difference: table.number(row, length)?,
            difficulty: table.number(row, difficulty)?,
        };
        if (0.0..=1.0).contains(&read.preference) {
            return Ok(read);
        }
        Err(table.fault(row, "preference", "a number from 0 to 1", table.cell(row, preference)))
    };
    (0..table.rows.len()).map(row).collect()
}

/// A CSV file with names in its first line.
struct CsvTable<'p> {
    path: &'p Path,
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl<'p> CsvTable<'p> {
    fn read(path: &'p Path) -> Result<Self, RecordError> {
        let mut lines = read_csv_texts(path)?.into_iter();
        let (names, rows) = (lines.next().unwrap_or_default(), lines.collect::<Vec<_>>());
        if rows.is_empty() {
            return Err(RecordError::Empty {
                path: path.to_path_buf(),
                noun: "a table with names in its first line",
            });
        }
        Ok(Self { path, names, rows })
    }

    fn column(&self, name: &str) -> Result<usize, RecordError> {
        self.names.iter().position(|found| found == name).ok_or_else(|| {
            let found = self.names.join(", ");
            self.fault(0, name, "a column of that name in the first line", &found)
        })
    }

    fn cell(&self, row: usize, column: usize) -> &str {
        self.rows[row].get(column).map(String::as_str).unwrap_or_default()
    }

    fn number(&self, row: usize, column: usize) -> Result<f64, RecordError> {
        let cell = self.cell(row, column);
        match cell.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(self.fault(row, &self.names[column], "a finite number", cell)),
        }
    }

    fn fault(&self, row: usize, field: &str, expected: &str, found: &str) -> RecordError {
        let problem = FieldProblem::new(field, expected, format!("{found:?}"));
        RecordError::Field { path: self.path.to_path_buf(), row, problem }
    }
}
