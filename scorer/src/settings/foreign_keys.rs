//! Keys that mean nothing to a kind are refused beside it. Defaults are let through: a recipe that is written out has them.

use selfplay_client::ClientSettings;
use selfplay_records::Problems;

use super::keys::ScoreKeys;
use crate::{
    Advantages, CommandSettings, JudgeSettings, MemberScale, ReadingSettings, Tokenization, VerdictForm,
};

impl ScoreKeys {
    /// Keys that mean nothing to a kind without embeddings. Defaults are let through: a recipe that is written out has them.
    pub(super) fn refuse_keys_of_embeddings(&self, problems: &mut Problems) {
        self.refuse(problems, &[("tau", self.tau.is_some())]);
        self.refuse_keys_of_embedders(problems);
    }

    pub(super) fn refuse_keys_of_embedders(&self, problems: &mut Problems) {
        let given = [
            ("embeddings", self.embeddings == Some(true)),
            ("tokenization", self.tokenization.is_some_and(|given| given != Tokenization::Auto)),
            ("advantages", self.advantages.is_some_and(|given| given != Advantages::Off)),
            ("dsppo_lambda", self.dsppo_lambda.is_some()),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without a model of ours.
    pub(super) fn refuse_keys_of_models(&self, problems: &mut Problems) {
        let model = self.model.as_deref().unwrap_or_default();
        if !model.is_empty() {
            let want = format!(
                "no model is read beside score.kind = \"{}\"; leave it out, or set it to \"\"",
                self.kind
            );
            problems.value("model", format!("{model:?}"), want);
        }
        self.refuse_keys_of_embedders(problems);
        self.refuse_keys_of_readers(problems);
    }

    /// Keys that mean nothing to a kind without a decoder.
    pub(super) fn refuse_keys_of_readers(&self, problems: &mut Problems) {
        let default = ReadingSettings::default();
        let given = [
            ("dtype", self.dtype.is_some_and(|given| given != default.dtype)),
            ("max_length", self.max_length.is_some_and(|given| given != default.max_length)),
            ("batch_tokens", self.batch_tokens.is_some_and(|given| given != default.batch_tokens)),
            ("chat_template", self.chat_template.is_some()),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without a program.
    pub(super) fn refuse_keys_of_commands(&self, problems: &mut Problems) {
        let is_given = self.command.as_ref().is_some_and(|words| !words.is_empty());
        self.refuse(problems, &[("command", is_given)]);
    }

    /// Keys that mean nothing to a kind that nobody else computes. Defaults of either are let through, as above.
    pub(super) fn refuse_keys_of_patience(&self, problems: &mut Problems) {
        let (command, service) = (CommandSettings::default(), ClientSettings::default());
        let counts = [command.concurrency, service.concurrency];
        let retries = [command.retries, service.retries as usize];
        let given = [
            ("concurrency", self.concurrency.is_some_and(|given| !counts.contains(&given))),
            (
                "timeout_s",
                self.timeout_s.is_some_and(|given| given != command.timeout_s && given != service.timeout_s),
            ),
            ("retries", self.retries.is_some_and(|given| !retries.contains(&given))),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without an endpoint.
    pub(super) fn refuse_keys_of_services(&self, problems: &mut Problems) {
        let given = [
            ("endpoint", self.endpoint.is_some()),
            ("companion", self.companion.is_some()),
            ("api_key_env", self.api_key_env.is_some()),
            ("price_prompt", self.price_prompt.is_some()),
            ("price_completion", self.price_completion.is_some()),
            ("transcript", self.transcript.is_some()),
        ];
        self.refuse(problems, &given);
    }

    /// Keys of an endpoint beside a companion.
    pub(super) fn refuse_keys_beside_companions(&self, problems: &mut Problems) {
        let given = [("endpoint", self.endpoint.is_some()), ("api_key_env", self.api_key_env.is_some())];
        for (key, is_given) in given {
            let want = "no such key beside score.companion, which takes the endpoint's place";
            problems.refuse(is_given && self.companion.is_some(), key, "set", want);
        }
    }

    /// Keys that mean nothing to a kind that is asked no question.
    pub(super) fn refuse_keys_of_judges(&self, problems: &mut Problems) {
        let given = [
            ("template", self.template.is_some()),
            ("verdict", self.verdict.is_some_and(|given| given != VerdictForm::default())),
            (
                "verdict_tokens",
                self.verdict_tokens.is_some_and(|given| given != JudgeSettings::VERDICT_TOKENS),
            ),
        ];
        self.refuse(problems, &given);
    }

    /// Keys that mean nothing to a kind without members.
    pub(super) fn refuse_keys_of_ensembles(&self, problems: &mut Problems) {
        let given = [
            ("members", self.members.as_ref().is_some_and(|members| !members.is_empty())),
            ("normalize", self.normalize.is_some_and(|given| given != MemberScale::default())),
        ];
        self.refuse(problems, &given);
    }

    pub(super) fn refuse(&self, problems: &mut Problems, given: &[(&str, bool)]) {
        for (key, _) in given.iter().filter(|(_, is_given)| *is_given) {
            problems.value(*key, "set", format!("no such key beside score.kind = \"{}\"", self.kind));
        }
    }
}
