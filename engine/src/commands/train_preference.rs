//! `selfplay train-preference`: pairs to a preference model.
//!
//! A pair becomes two conversations in the scorer's own tokens, so that what is trained is what will be asked.

use selfplay_records::{Candidates, Message, Pair, Prompt, Response};
use selfplay_scorer::tokenise_row;
use selfplay_trainer::{PreferenceObjective, TokenComparison};

use super::training::{Training, TrainingArgs, TrainingKind, read_sets};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::data_sets::{DataFlag, DataSets, LayoutArgs};
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
    let flag = DataFlag {
        flag: KIND.rows_flag,
        section: KIND.section,
        file: args.pairs.as_deref(),
        layout: &args.layout,
    };
    let sets: DataSets<Pair> = DataSets::find(flag, &settings.train.data)?;
    let source = training.source()?;
    let (comparisons, data) = read_sets(&training.command, &sets, &mut |place, pair: Pair| {
        let mut comparison = comparison(place.row, &pair, &source, settings.train.max_length)
            .map_err(|error| EngineError::at_row(place.file, place.row, error))?;
        comparison.name = place.name(&comparison.name);
        Ok(comparison)
    })?;
    let objective = PreferenceObjective::new(comparisons, settings);
    training.run(&source, data, objective)
}

fn comparison(row: usize, pair: &Pair, source: &PolicySource, max_length: usize) -> Result<TokenComparison> {
    let chosen = Conversation::of(pair, pair.chosen.as_deref(), "chosen")?;
    let rejected = Conversation::of(pair, pair.rejected.as_deref(), "rejected")?;
    if chosen.prompt != rejected.prompt {
        return Err(EngineError::input(
            "\"chosen\" and \"rejected\" answer different prompts; one prompt is wanted",
        ));
    }
    let response = |message: &Message| Response { text: message.content.clone(), ..Response::default() };
    let candidates = Candidates {
        prompt: Prompt {
            prompt_id: pair.prompt_id.clone().unwrap_or_else(|| row.to_string()),
            messages: Some(chosen.prompt.to_vec()),
            ..Prompt::default()
        },
        responses: vec![response(chosen.reply), response(rejected.reply)],
    };
    let tokens = tokenise_row(&source.codec, &source.folder, &candidates, max_length)?;
    let prompt_position = tokens.prompt_end.unwrap_or(0);
    let [chosen, rejected] = [0, 1].map(|k| tokens.response(k).to_vec());
    Ok(TokenComparison { name: format!("pair {row}"), chosen, rejected, prompt_position })
}

/// A prompt and a reply, as messages.
struct Conversation<'a> {
    prompt: &'a [Message],
    reply: &'a Message,
}

impl<'a> Conversation<'a> {
    /// A list with the reply alone follows the row's prompt.
    fn of(pair: &'a Pair, messages: Option<&'a [Message]>, field: &str) -> Result<Self> {
        let text_wanted = || {
            EngineError::input(format!(
                "field \"{field}\": a preference model reads text; expected the prompt and the response as messages"
            ))
        };
        match messages.and_then(<[Message]>::split_last) {
            Some((reply, prompt)) if !prompt.is_empty() => Ok(Self { prompt, reply }),
            Some((reply, _)) => match pair.prompt.as_deref() {
                Some(prompt) if !prompt.is_empty() => Ok(Self { prompt, reply }),
                _ => Err(text_wanted()),
            },
            None => Err(text_wanted()),
        }
    }
}
