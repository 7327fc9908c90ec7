//! `selfplay tokenize`: texts or conversations to token ids.

use std::path::PathBuf;

use selfplay_model::{ChatTemplate, Codec};
use selfplay_records::{TokenRow, read_rows, write_rows};

use super::stage::{Output, StageArgs};
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::inputs::model_files::ModelFiles;
use crate::recipe::ModelSource;

/// The flags of `selfplay tokenize`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// Rows with text or messages (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The same rows with ids
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// A Jinja file in place of the model's chat template, or a shipped one by name
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a template or a row that is wrong; an output that exists.
pub fn run(args: &Args) -> Result<()> {
    Output::rows(&args.output, args.stage.force)?;
    if let Some(template) =
        args.chat_template.as_deref().filter(|path| !path.is_file() && !ChatTemplate::is_shipped(path))
    {
        return Err(EngineError::input(format!("--chat-template {}: no such file", template.display())));
    }
    let mut rows: Vec<TokenRow> = read_rows(&args.input)?;
    let model = ModelSource::parse(&args.model, None);
    let folder = ModelFiles::find(&model, &ModelSource::Unset, &Hub::default())?.folder;
    let codec = Codec::load(&folder, args.chat_template.as_deref())?;
    for (number, row) in rows.iter_mut().enumerate() {
        fill(row, &codec).map_err(|error| EngineError::at_row(&args.input, number, error))?;
    }
    Ok(write_rows(&args.output, &rows)?)
}

fn fill(row: &mut TokenRow, codec: &Codec) -> Result<()> {
    if let Some(messages) = &row.messages {
        let Some(template) = &codec.template else {
            return Err(EngineError::input(
                "field \"messages\": this model has no chat template; give one with --chat-template FILE",
            ));
        };
        let rendered = template.render(messages, row.adds_generation_prompt())?;
        row.ids = Some(codec.tokenizer.encode(&rendered, false)?);
        row.rendered = Some(rendered);
    } else if let Some(text) = &row.text {
        row.ids = Some(codec.tokenizer.encode(text, row.adds_special_tokens())?);
    }
    Ok(())
}
