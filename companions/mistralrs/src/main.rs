//! `selfplay-mistralrs`: runs a model with mistral.rs for selfplay, spoken to over pipes.
//!
//! ```text
//! selfplay-mistralrs --model FOLDER|FILE.gguf [--max-seqs 1] [--dtype f32|bf16|f16|auto] [--chat-template FILE]
//! ```
//!
//! A line of JSON each way, as `companions/README.md` says: requests with numbers come in, answers go out as they are ready. Standard output
//! carries the protocol alone; whatever else is printed there goes to standard error. It leaves when its input ends.
//!
//! ```text
//! arguments   the command line                 wire      lines in and out
//! model       mistral.rs with a model loaded   request   what a line asks for
//! answer      one request, from tokens to JSON draw      one token out of a row of logits, by a seed
//! ```

mod answer;
mod arguments;
mod draw;
mod model;
mod request;
mod wire;

use std::io::{BufRead, stdin};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::arguments::Arguments;
use crate::model::LoadedModel;
use crate::request::Request;
use crate::wire::Wire;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("selfplay-mistralrs: {problem}");
            return ExitCode::from(2);
        }
    };
    let wire = match Wire::take_stdout() {
        Ok(wire) => Arc::new(wire),
        Err(error) => {
            eprintln!("selfplay-mistralrs: standard output: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A panic of the engine's thread would leave every request without an answer.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::exit(101);
    }));
    match serve(&arguments, &wire) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            wire.fail(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Loads the model and answers until the input ends.
fn serve(arguments: &Arguments, wire: &Arc<Wire>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let model = Arc::new(runtime.block_on(LoadedModel::load(arguments))?);
    wire.ready(arguments);
    // Its own limit does not keep sequences apart (`companions/README.md`), so no more are handed to it.
    let turns = Arc::new(Semaphore::new(arguments.max_seqs));
    for line in stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match Request::read(&line) {
            Ok(request) => {
                let (model, wire, turns) = (Arc::clone(&model), Arc::clone(wire), Arc::clone(&turns));
                runtime.spawn(async move {
                    // It is never closed.
                    let _turn = turns.acquire().await;
                    answer::answer(&model, &wire, request).await;
                });
            }
            Err(unreadable) => wire.refuse_line(&unreadable),
        }
    }
    // Nobody reads what would still be answered.
    std::process::exit(0)
}
