//! `selfplay train-preference`: pairs to a preference model.
//!
//! A pair becomes two conversations in the scorer's own tokens, so that what is trained is what will be asked.

use selfplay_evaluation::preference::Winner;
use selfplay_records::{Candidates, Pair, Prompt, Response};
use selfplay_scorer::tokenise_row;
use selfplay_trainer::{
    ComparisonData, ComparisonLabel, PreferenceObjective, PreferenceSettings, TokenComparison,
};

use super::training::{ReadSets, Training, TrainingArgs, TrainingKind, read_sets};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::compared_rows::{ComparedRow, LabelFiles};
use crate::inputs::data_sets::{DataSets, LayoutArgs};
use crate::inputs::policy::PolicySource;

const KIND: TrainingKind = TrainingKind {
    name: "train-preference",
    section: "preference",
    rows_flag: "--pairs",
    model_folder: "preference_model",
    heads: true,
};

/// The flags of `selfplay train-preference`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Pairs (.jsonl, .json, .parquet), or hf://datasets/ORG/NAME; absent: the data sets in preference.data of --recipe
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<String>,
    /// How they are read.
    #[command(flatten)]
    pub layout: LayoutArgs,
    /// What every training takes.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a pair that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let training = Training::open(KIND, &args.training, common)?;
    let settings = &training.command.recipe.preference;
    let flag = KIND.data_flag(args.pairs.as_deref(), &args.layout);
    let sets: DataSets<Pair> = DataSets::find(flag, &settings.train.data)?;
    let source = training.source()?;
    let mut label_files = LabelFiles::default();
    let mut comparisons = ComparisonData::new(&training.command.output.folder());
    let ReadSets { data, mixed } = read_sets(&training.command, &sets, &mut |place, pair: Pair| {
        let labels = label_files.of(place.file, place.row)?;
        let compared = ComparedRow::of_pair(place.row, &pair, labels).and_then(|row| {
            let label = label(&row, &settings.preference)?;
            Ok(TokenComparison { label, ..comparison(row, &source, settings.train.max_length)? })
        });
        let mut comparison = compared.map_err(|error| EngineError::at_row(place.file, place.row, error))?;
        comparison.name = place.name(&comparison.name);
        Ok(comparisons.push(&comparison)?)
    })?;
    if let Some(places) = mixed {
        comparisons = comparisons.pick(&places);
    }
    let objective = PreferenceObjective::new(comparisons, settings);
    training.run(&source, data, objective)
}

/// A comparison in the scorer's tokens.
fn comparison(row: ComparedRow, source: &PolicySource, max_length: usize) -> Result<TokenComparison> {
    let response = |text: String| Response { text, ..Response::default() };
    let name = format!("pair {}", row.row);
    let candidates = Candidates {
        prompt: Prompt {
            prompt_id: row.prompt_id.unwrap_or_else(|| row.row.to_string()),
            messages: Some(row.prompt),
            ..Prompt::default()
        },
        responses: vec![response(row.first), response(row.second)],
    };
    let tokens = tokenise_row(&source.codec, &source.folder, &candidates, max_length)?;
    let prompt_position = tokens.prompt_end.unwrap_or(0);
    let [chosen, rejected] = [0, 1].map(|k| tokens.response(k).to_vec());
    let cut = tokens.cut > 0;
    Ok(TokenComparison { name, chosen, rejected, prompt_position, cut, ..TokenComparison::default() })
}

/// What the row teaches of its two responses, in their order.
fn label(row: &ComparedRow, settings: &PreferenceSettings) -> Result<ComparisonLabel> {
    let wanted = |field: &str, key: &str, what: &str| {
        EngineError::input(format!(
            "field {field:?}: {what} is wanted in every row with preference.{key} = true"
        ))
    };
    let mut label = match row.labels.winner {
        Winner::First => ComparisonLabel::default(),
        Winner::Tie => ComparisonLabel { probability: 0.5, ..ComparisonLabel::default() },
        Winner::Second => ComparisonLabel { probability: 0.0, ..ComparisonLabel::default() },
    };
    if settings.soft_labels {
        label.probability = row
            .probability
            .filter(|p| (0.0..=1.0).contains(p))
            .ok_or_else(|| wanted("chosen_probs", "soft_labels", "a probability from 0 to 1"))?;
    }
    if settings.margins {
        label.margin = row.labels.margin.ok_or_else(|| wanted("margin", "margins", "a finite number"))?;
        if row.labels.winner == Winner::Tie {
            label.margin = 0.0;
        }
    }
    Ok(label)
}
