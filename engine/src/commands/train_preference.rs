//! `selfplay train-preference`: pairs to a preference model.
//!
//! A pair becomes two conversations in the scorer's own tokens, so that what is trained is what will be asked.

use std::path::{Path, PathBuf};

use selfplay_model::Codec;
use selfplay_records::{Candidates, Message, Pair, Prompt, Response, read_pairs};
use selfplay_scorer::tokenise_row;
use selfplay_trainer::{PreferenceObjective, TokenComparison};

use super::models;
use super::stage::{Fingerprint, Stage, StageArgs, check_folder_output, flag};
use super::training::Training;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub;
use crate::recipe::WeightDType;

/// The flags of `selfplay train-preference`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The backbone to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Pairs (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    /// Folder for metrics.jsonl and preference_model/
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a pair that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_folder_output(&args.output, args.stage.force, "preference_model")?;
    let device = common.device.open()?;
    let stage = Stage::new(&args.stage, common, flag("policy.model", args.model.as_ref()))?;
    stage.hold_clock(&args.output)?;
    let recipe = &stage.recipe;
    let settings = &recipe.preference;
    let read = read_pairs(&args.pairs)?;
    stage.tell_skipped(&args.pairs, &read.skipped);
    let folder = hub::model_folder(&recipe.policy.model)?;
    let codec = Codec::load(&folder, recipe.policy.chat_template.as_deref())?;
    let comparisons = read
        .pairs
        .iter()
        .enumerate()
        .map(|(row, pair)| {
            comparison(row, pair, &codec, &folder, settings.train.max_length)
                .map_err(|error| EngineError::at_row(&args.pairs, row, error))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut decoder = models::decoder(recipe, &folder, &device, true)?;

    let mut fingerprint = Fingerprint::new(&stage, "train-preference", common);
    fingerprint.section(recipe, "preference")?;
    fingerprint.section(recipe, "policy")?;
    fingerprint.file("--pairs", &args.pairs)?;
    fingerprint.model("--model", &folder)?;
    let training = Training {
        stage: &stage,
        name: "train-preference",
        output: &args.output,
        rows: &args.pairs,
        model_folder: "preference_model",
        dtype: recipe.policy.dtype.map(WeightDType::to_candle),
        template: codec.template.as_ref().filter(|_| recipe.policy.chat_template.is_some()),
    };
    training.run(&mut decoder, fingerprint, PreferenceObjective::new(comparisons, settings))
}

fn comparison(
    row: usize,
    pair: &Pair,
    codec: &Codec,
    folder: &Path,
    max_length: usize,
) -> Result<TokenComparison> {
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
    let tokens = tokenise_row(codec, folder, &candidates, max_length)?;
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
