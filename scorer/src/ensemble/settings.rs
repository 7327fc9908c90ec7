//! The settings of an ensemble, and the keys of its members.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use crate::{PreferenceKind, ScoreKeys, ScoreSettings};

/// What form a member's scores have when they are added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MemberScale {
    /// As they are.
    #[default]
    None,
    /// Over their root mean square in each prompt.
    Deviation,
    /// As probabilities; the ensemble's score is the logit of their mean.
    Probability,
}

/// The keys of one member: those of `[score]` that a member can have, and its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemberKeys {
    /// How much it counts beside the others.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: f64,
    /// Its kind; an ensemble has none in it.
    pub kind: PreferenceKind,
    /// Its folder, or the model's name at its endpoint. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// As score.tau.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// As score.max_length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// As score.command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// As score.endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// As score.api_key_env.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// As score.concurrency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// As score.timeout_s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
}

impl Default for MemberKeys {
    fn default() -> Self {
        Self {
            weight: 1.0,
            kind: PreferenceKind::Auto,
            model: None,
            tau: None,
            max_length: None,
            command: None,
            endpoint: None,
            api_key_env: None,
            concurrency: None,
            timeout_s: None,
        }
    }
}

impl MemberKeys {
    /// Whether `model` names files that are loaded.
    pub fn names_model(&self) -> bool {
        self.score_keys().names_model()
    }

    fn score_keys(&self) -> ScoreKeys {
        ScoreKeys {
            kind: self.kind,
            tau: self.tau,
            max_length: self.max_length,
            command: self.command.clone(),
            endpoint: self.endpoint.clone(),
            api_key_env: self.api_key_env.clone(),
            concurrency: self.concurrency,
            timeout_s: self.timeout_s,
            ..ScoreKeys::default()
        }
    }
}

/// A member: how it compares, and how much it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct EnsembleMember {
    /// Beside the other members'.
    pub weight: f64,
    /// How it compares.
    pub settings: ScoreSettings,
    /// Its model's folder, where its kind has one.
    pub folder: Option<PathBuf>,
    /// Its keys as they are written.
    keys: MemberKeys,
}

impl EnsembleMember {
    /// Its keys as they are written.
    pub fn keys(&self) -> &MemberKeys {
        &self.keys
    }
}

/// Members, and what form their scores have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnsembleSettings {
    /// The members, in their order.
    pub members: Vec<EnsembleMember>,
    /// The form of their scores.
    pub scale: MemberScale,
}

impl EnsembleSettings {
    /// The settings of these members. What is wrong goes to `problems`, without the section's name.
    pub(crate) fn resolve(keys: &[MemberKeys], scale: MemberScale, problems: &mut Problems) -> Self {
        if keys.is_empty() {
            let want = "absent: a list of preference models, as in [{ model = \"a\" }, { model = \"b\", weight = 2 }]";
            problems.key("members", want);
        }
        let mut members = Vec::with_capacity(keys.len());
        for (place, keys) in keys.iter().enumerate() {
            let mut own = Problems::default();
            members.push(member(keys, &mut own));
            problems.extend(own.within(&format!("members[{place}]")));
        }
        Self { members, scale }
    }
}

fn member(keys: &MemberKeys, problems: &mut Problems) -> EnsembleMember {
    problems.refuse(
        !(keys.weight.is_finite() && keys.weight > 0.0),
        "weight",
        keys.weight,
        "a positive number",
    );
    let is_ensemble = keys.kind == PreferenceKind::Ensemble;
    problems.refuse(is_ensemble, "kind", keys.kind, "any kind but ensemble");
    let kind = if is_ensemble { PreferenceKind::Auto } else { keys.kind };
    let score = ScoreKeys { kind, ..keys.score_keys() };
    let names_model = score.names_model();
    // A folder is no model's name: the key is one or the other.
    let settings =
        ScoreKeys { model: keys.model.clone().filter(|_| !names_model), ..score }.resolve(problems);
    let folder = keys.model.as_deref().filter(|name| names_model && !name.is_empty()).map(Path::new);
    problems.refuse(names_model && folder.is_none(), "model", "absent", "a model's folder");
    EnsembleMember {
        weight: keys.weight,
        settings,
        folder: folder.map(Path::to_path_buf),
        keys: keys.clone(),
    }
}
