//! `selfplay serve`: policies behind an OpenAI-compatible HTTP interface.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use selfplay_client::Secret;
use selfplay_server::{Arena, ServeOptions, ServerLimits, serve};

use super::stage::flag;
use crate::chain::dir::refuse_chain;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;
use crate::hub::Hub;
use crate::inputs::judge_writer::load_preference_model;
use crate::inputs::{find_preference_model, preference_place};
use crate::recipe::{Purpose, Recipe, load};
use crate::serving::{PolicyPlace, load_policies, places_of_model, places_of_run};
use crate::signals::StopFlag;

/// The variable that is looked for without `--api-key-env`.
const KEY_VARIABLE: &str = "SELFPLAY_API_KEY";

const EXAMPLES: &str = "\
Examples:
  selfplay serve --model runs/mine --only iteration_03 --only base
  selfplay serve --model ORG/NAME --adapter mine=path/to/adapter --port 8080
  SELFPLAY_API_KEY=… selfplay serve --model DIR --host 0.0.0.0
  curl http://127.0.0.1:8000/v1/completions -H content-type:application/json \\
    -d '{\"prompt\": \"Hi\"}'        # the arena: http://127.0.0.1:8000/arena";

/// The flags of `selfplay serve`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A model, or a run: its iterations and base
    ///
    /// A model is a folder, a GGUF, a hub id or random:FOLDER.
    #[arg(long, value_name = "DIR|RUN")]
    pub model: String,
    /// What requests call the model [its folder's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// An adapter over it, under its own name; repeats
    #[arg(long, value_name = "NAME=DIR", value_parser = name_and_folder)]
    pub adapter: Vec<(String, String)>,
    /// Of a run: a policy, as iteration_02; repeats
    ///
    /// No others are served; the first answers requests that name none.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Where to listen [127.0.0.1]; others need a key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", hide_default_value = true)]
    pub host: String,
    /// The port; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub port: u16,
    /// The key's variable, if not SELFPLAY_API_KEY
    ///
    /// Where one of the two is set, requests must bring it.
    #[arg(long, value_name = "NAME")]
    pub api_key_env: Option<String>,
    /// The arena's preference model
    #[arg(long, value_name = "DIR")]
    pub preference_model: Option<String>,
    /// The arena's votes, as pairs [votes.jsonl]
    #[arg(long, value_name = "FILE", default_value = "votes.jsonl", hide_default_value = true)]
    pub votes: PathBuf,
    /// Read its [policy], [sample] and [score]
    ///
    /// Of a run, its own is read.
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Tokens of a response at most [what fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Prompts at a time; then 429
    ///
    /// In work or waiting.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub queue: u32,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// A request's body at most
    #[arg(long, value_name = "MIB", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_body: u32,
    /// That an answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: u32,
    /// That a head, then a body, may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub read_timeout: u32,
    /// For answers in work at a signal
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u32,
}

/// Runs the command until a signal.
///
/// # Errors
/// A model or a flag that is wrong, an address that is taken; the signal.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let api_key = api_key(args)?;
    let listener = listen(args, api_key.is_some())?;
    let stop = StopFlag::of_process()
        .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
    let progress = Progress::new(common.verbosity());
    let device = common.device.open()?;
    let (recipe, places) = places(args, common)?;
    hopper::take(&device, None)?;
    let arena = Arena::new(preference_model(args, &recipe, &device)?, &args.votes)?;
    let policies = load_policies(&places, &device, &progress)?;
    let names: Vec<String> = policies.iter().map(|policy| policy.name.clone()).collect();
    let address = listener
        .local_addr()
        .map_err(|source| EngineError::failure(format!("--port {}: {source}", args.port)))?;
    progress.line(format!("serving {} at http://{address}", names.join(", ")));
    super::print(&format!("http://{address}\n"))?;
    let flag = stop.clone();
    let options = ServeOptions {
        listener,
        policies,
        api_key,
        limits: limits(args),
        arena,
        stops: Box::new(move || flag.requested().is_some()),
    };
    let drained = serve(options).map_err(|source| EngineError::failure(format!("serve: {source}")))?;
    match stop.requested() {
        None => Ok(()),
        Some(signal) => {
            let kept = if drained {
                "all answers in progress were ended".to_owned()
            } else {
                format!("answers that took longer than {} s were cut off", args.grace)
            };
            Err(EngineError::Stopped { signal, kept })
        }
    }
}

fn limits(args: &Args) -> ServerLimits {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    ServerLimits {
        connections: args.connections as usize,
        body_bytes: (args.max_body as usize) << 20,
        queue: args.queue as usize,
        max_tokens: args.max_tokens.map(|tokens| tokens as usize),
        head_time: seconds(args.read_timeout),
        body_time: seconds(args.read_timeout),
        answer_time: seconds(args.timeout),
        grace: seconds(args.grace),
        ..ServerLimits::default()
    }
}

/// The recipe that says how, and the policies that it or the run has.
fn places(args: &Args, common: &Common) -> Result<(Recipe, Vec<PolicyPlace>)> {
    let folder = Path::new(&args.model);
    refuse_chain(folder, "a run or a model is served: name a link's folder, or the policy in it")?;
    let mut overrides = common.set.clone();
    overrides.extend(flag("score.model", args.preference_model.as_ref()));
    if !folder.join("manifest.json").is_file() || folder.join("config.json").is_file() {
        if let Some(name) = args.only.first() {
            return Err(EngineError::input(format!("--only {name}: {} is no run", folder.display())));
        }
        overrides.extend(flag("policy.model", Some(&args.model)));
        let recipe = load(args.recipe.as_deref(), &overrides, Purpose::Stage)?;
        let own =
            || folder.file_stem().map_or("model".to_owned(), |name| name.to_string_lossy().into_owned());
        let name =
            args.name.clone().unwrap_or_else(|| if folder.exists() { own() } else { args.model.clone() });
        let places = places_of_model(&recipe, name, &args.adapter)?;
        return Ok((recipe, places));
    }
    for (given, flag) in [
        (args.name.is_some(), "--name"),
        (!args.adapter.is_empty(), "--adapter"),
        (args.recipe.is_some(), "--recipe"),
    ] {
        if given {
            let message = format!(
                "{flag}: goes with a model; {} is a run, whose policies have names",
                folder.display()
            );
            return Err(EngineError::input(message));
        }
    }
    let recipe = load(None, &overrides, Purpose::Stage)?;
    let places = chosen(places_of_run(folder, &common.set)?, &args.only)?;
    Ok((recipe, places))
}

/// Those of `--only`, in its order; all where it is not given.
fn chosen(places: Vec<PolicyPlace>, only: &[String]) -> Result<Vec<PolicyPlace>> {
    if only.is_empty() {
        return Ok(places);
    }
    let names: Vec<String> = places.iter().map(|place| place.name.clone()).collect();
    let mut places: Vec<Option<PolicyPlace>> = places.into_iter().map(Some).collect();
    let take = |name: &String| {
        let place = names.iter().position(|other| other == name).and_then(|at| places[at].take());
        place.ok_or_else(|| {
            let message = format!("--only {name}: the run has {}, each to be named once", names.join(", "));
            EngineError::input(message)
        })
    };
    only.iter().map(take).collect()
}

fn preference_model(
    args: &Args,
    recipe: &Recipe,
    device: &candle_core::Device,
) -> Result<Option<Box<dyn selfplay_scorer::PreferenceModel>>> {
    if args.preference_model.is_none() && !recipe.score.settings.kind.runs_elsewhere() {
        return Ok(None);
    }
    let files = find_preference_model(recipe, &Hub::default())?;
    load_preference_model(preference_place(files.as_ref()), &recipe.score.settings, device).map(Some)
}

fn api_key(args: &Args) -> Result<Option<String>> {
    let name = match &args.api_key_env {
        Some(name) => name.as_str(),
        None if std::env::var_os(KEY_VARIABLE).is_some() => KEY_VARIABLE,
        None => return Ok(None),
    };
    Ok(Some(Secret::from_env(name)?.exposed().to_owned()))
}

/// Binds the port before any model is loaded.
fn listen(args: &Args, has_key: bool) -> Result<TcpListener> {
    let Args { host, port, .. } = args;
    let place = format!("--host {host} --port {port}");
    let found = (host.as_str(), *port).to_socket_addrs();
    let address = found
        .map_err(|error| EngineError::input(format!("{place}: {error}")))?
        .next()
        .ok_or_else(|| EngineError::input(format!("{place}: the name has no address")))?;
    if !has_key && !is_loopback(address.ip()) {
        return Err(EngineError::input(format!(
            "--host {host}: whoever reaches this address could ask; set {KEY_VARIABLE}, or name a variable that holds a key \
             with --api-key-env"
        )));
    }
    TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied => {
            EngineError::input(format!("{place}: {error}; name another with --port or --host"))
        }
        _ => EngineError::failure(format!("{place}: {error}")),
    })
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn name_and_folder(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok((name.to_owned(), folder.to_owned()))
        }
        _ => Err("expected NAME=DIR, as in mine=path/to/adapter".to_owned()),
    }
}
