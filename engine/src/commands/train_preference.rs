//! `selfplay train-preference`: pairs to a preference model.
//!
//! A pair becomes two conversations in the scorer's own tokens, so that what is trained is what will be asked.

use std::path::PathBuf;

use selfplay_records::{Candidates, Message, Pair, Prompt, Response, read_pairs};
use selfplay_scorer::tokenise_row;
use selfplay_trainer::{PreferenceObjective, TokenComparison};

use super::training::{Training, TrainingArgs, TrainingKind};
use crate::error::{EngineError, Result};
use crate::flags::Common;
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
    /// Pairs (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    /// What every training takes.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a pair that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let training = Training::open(KIND, &args.training, &args.pairs, common)?;
    let settings = &training.command.recipe.preference;
    let read = read_pairs(&args.pairs)?;
    training.command.tell_skipped(&args.pairs, &read.skipped);
    let source = training.source()?;
    let mut comparisons = Vec::with_capacity(read.pairs.len());
    for (row, pair) in read.pairs.iter().enumerate() {
        let found = comparison(row, pair, &source, settings.train.max_length);
        comparisons.push(found.map_err(|error| EngineError::at_row(&args.pairs, row, error))?);
    }
    let objective = PreferenceObjective::new(comparisons, settings);
    training.run(&source, objective)
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
