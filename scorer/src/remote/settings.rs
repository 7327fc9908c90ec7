//! The settings of a reward server.

use std::path::PathBuf;

use selfplay_client::ClientSettings;
use selfplay_records::Problems;

/// A server, and how patiently it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteSettings {
    /// How it is reached.
    pub service: ClientSettings,
    /// Divides differences of scores.
    pub tau: f64,
    /// Where its answers are kept; `None`: where the work is done.
    pub transcript: Option<PathBuf>,
}

impl RemoteSettings {
    /// Every wrong value, without the section's name; empty when all is well.
    pub(crate) fn validate(&self) -> Problems {
        let mut problems = self.service.validate();
        for problem in &mut problems.list {
            // The recipe has one endpoint under a name of its own.
            if problem.key.starts_with("endpoints") {
                problem.key = "endpoint".into();
            }
        }
        if !(self.tau.is_finite() && self.tau > 0.0) {
            problems.value("tau", self.tau, "a positive number");
        }
        problems
    }
}
