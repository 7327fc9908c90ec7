//! `selfplay winrate`: AlpacaEval 2's numbers from a file of annotations.

use std::fmt::Write as _;
use std::path::PathBuf;

use selfplay_evaluation::winrate::{Annotations, FEWEST_ROWS, LengthTables, Variant, WinRate, win_rate};

use crate::error::{EngineError, Result};
use crate::hub::Hub;

/// The flags of `selfplay winrate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A judge's annotations of one model against one baseline, as alpaca_eval writes them (.json, .jsonl, gzipped or not)
    #[arg(long, value_name = "FILE")]
    pub annotations: PathBuf,
    /// instruction_difficulty.csv of the hub's dataset tatsu-lab/alpaca_eval: a file, or tatsu-lab/alpaca_eval/instruction_difficulty.csv
    #[arg(long, value_name = "FILE", requires = "gamed")]
    pub difficulty: Option<String>,
    /// df_gamed.csv of the same dataset: a file, or tatsu-lab/alpaca_eval/df_gamed.csv
    #[arg(long, value_name = "FILE", requires = "difficulty")]
    pub gamed: Option<String>,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// A file that does not read, or one of the tables without an instruction that the annotations have.
pub fn run(args: &Args) -> Result<()> {
    let annotations = Annotations::read(&args.annotations)?;
    let tables = match (&args.difficulty, &args.gamed) {
        (Some(difficulty), Some(gamed)) => {
            let hub = Hub::default();
            Some(LengthTables::read(&hub.named_file(difficulty)?, &hub.named_file(gamed)?)?)
        }
        _ => None,
    };
    let found = win_rate(&annotations, tables.as_ref()).map_err(|missing| {
        let difficulty = args.difficulty.as_deref().unwrap_or_default();
        let (rows, file) = (annotations.preferences().len(), args.annotations.display());
        EngineError::input(format!(
            "--difficulty {difficulty}: no row for instruction {}; {file} has {rows} rows, numbered from 0 in their order",
            missing.number
        ))
    })?;
    if args.json {
        let text = serde_json::to_string_pretty(&found)
            .map_err(|error| EngineError::failure(format!("the win rate has no JSON form: {error}")))?;
        return super::print(&format!("{text}\n"));
    }
    super::print(&table(&found))
}

fn table(found: &WinRate) -> String {
    let mut text = format!(
        "{} against {}: {} comparisons, {} won, {} lost, {} drawn\n\nwin rate                    {:6.2} % ± {:.2}\n",
        found.model,
        found.baseline,
        found.n,
        found.n_wins,
        found.n_wins_base,
        found.n_draws,
        found.win_rate,
        found.standard_error
    );
    // Writing to a text does not fail.
    let _ = match (found.lc_win_rate, found.lc_standard_error) {
        (Some(rate), Some(error)) => {
            writeln!(
                text,
                "length-controlled win rate  {rate:6.2} % ± {error:.2}   ({})",
                found.variant.name()
            )
        }
        _ => writeln!(text, "length-controlled win rate       -      (it takes {FEWEST_ROWS} comparisons)"),
    };
    let _ = writeln!(text, "mean length                 {:6.0} characters", found.length);
    if found.variant == Variant::Minimal {
        text.push_str("\nLeaderboards report length_controlled_v1: give --difficulty and --gamed for it.\n");
    }
    text
}
