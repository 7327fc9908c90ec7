//! Bringing the policy's weights to a server.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use selfplay_client::{Client, kill_group};
use selfplay_records::shown::quoted;
use selfplay_sampler::{SampleSettings, WeightDelivery};
use serde_json::{Value, json};

use crate::error::EngineError;
use crate::signals::StopFlag;

/// How often a command that runs is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long a server or a command is waited for.
pub(super) fn patience(settings: &SampleSettings) -> Duration {
    Duration::from_secs_f64(settings.timeout_s.unwrap_or(600.0))
}

/// What a server is given.
pub(super) struct PolicyToBring {
    /// The policy as a whole model.
    pub(super) folder: PathBuf,
    /// Its adapter over the base.
    pub(super) adapter: Option<PathBuf>,
    /// What a server is to call these weights: their iteration and the run's seed.
    pub(super) version: String,
}

impl PolicyToBring {
    /// Brings the weights to the endpoint at a place. Whoever calls sees for itself whether a signal asks for a stop.
    ///
    /// # Errors
    /// What stands in the way: files that are not there, a server that refuses, a command that fails.
    pub(super) fn bring(
        &self,
        settings: &SampleSettings,
        client: &Client,
        stop: &StopFlag,
        endpoint: usize,
    ) -> Result<(), EngineError> {
        match settings.weights() {
            // The latter is native's: no server has it.
            WeightDelivery::Served | WeightDelivery::Fp8 => Ok(()),
            WeightDelivery::Update => {
                let folder = self.whole_folder()?;
                let body = json!({"model_path": folder, "weight_version": self.version});
                let answer = client.tell_at(endpoint, "update_weights_from_disk", &body)?;
                let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                if answer["success"] == true {
                    return Ok(());
                }
                let message = quoted(answer["message"].as_str().unwrap_or("no reason given"));
                Err(EngineError::failure(format!("did not load {}: {message}", folder.display())))
            }
            WeightDelivery::Adapter => {
                let Some(adapter) = &self.adapter else {
                    return Err(EngineError::input(
                        "has other weights, and this policy has no adapter to bring: start it with the policy's base",
                    ));
                };
                let path = std::path::absolute(adapter).unwrap_or_else(|_| adapter.clone());
                // One of the same name is that of a run before; where there is none, the server says so.
                let name = json!({"lora_name": self.version});
                let unloaded = client.tell_at(endpoint, "unload_lora_adapter", &name);
                tracing::debug!("unload_lora_adapter {}: {unloaded:?}", self.version);
                let body = json!({"lora_name": self.version, "lora_path": path});
                client.tell_at(endpoint, "load_lora_adapter", &body)?;
                Ok(())
            }
            WeightDelivery::Command => {
                let address = settings.endpoints.iter().flatten().nth(endpoint).cloned().unwrap_or_default();
                self.run_command(settings, stop, &address)
            }
        }
    }

    /// The folder of the whole model, which must be there.
    fn whole_folder(&self) -> Result<PathBuf, EngineError> {
        if !self.folder.exists() {
            return Err(EngineError::input(format!(
                "{}: absent, and a server is given whole models; set train.lora.merge = \"always\"",
                self.folder.display()
            )));
        }
        Ok(std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone()))
    }

    fn run_command(
        &self,
        settings: &SampleSettings,
        stop: &StopFlag,
        address: &str,
    ) -> Result<(), EngineError> {
        let words = settings.weights_command.as_deref().unwrap_or_default();
        let Some((program, rest)) = words.split_first() else {
            return Err(EngineError::input("sample.weights_command: absent"));
        };
        let told = |problem: String| EngineError::failure(format!("sample.weights_command: {problem}"));
        // A policy that is an adapter alone is brought as one.
        let folder: &Path = match &self.adapter {
            Some(adapter) if !self.folder.exists() => adapter,
            _ => &self.folder,
        };
        let mut child = Command::new(program)
            .args(rest)
            .env("SELFPLAY_POLICY", std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()))
            .env("SELFPLAY_ENDPOINT", address)
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .process_group(0)
            .spawn()
            .map_err(|error| told(format!("cannot be started: {error}")))?;
        let until = Instant::now() + patience(settings);
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(told(format!("ended with {status} for {address}"))),
                Ok(None) => {}
                Err(error) => return Err(told(format!("cannot be waited for: {error}"))),
            }
            let is_late = Instant::now() > until;
            let is_stopped = stop.requested().is_some();
            if is_late || is_stopped {
                kill_group(&child);
                let _ = child.wait();
                if is_stopped {
                    return Err(told("was stopped by a signal".to_owned()));
                }
                return Err(told("has not ended in time (sample.timeout_s bounds the wait)".to_owned()));
            }
            thread::sleep(TICK);
        }
    }
}
