//! The keys of `[sample]` that reach a server.

use selfplay_client::ClientSettings;
use selfplay_records::Problems;
use selfplay_sampler::{BackendKind, SampleSettings};

/// Requests at a time, where the recipe doesn't say: a server batches them.
const CONCURRENCY: usize = 64;

/// How the servers of `sample.endpoints` are reached.
pub fn sample_client(sample: &SampleSettings) -> ClientSettings {
    let default = ClientSettings::default();
    ClientSettings {
        endpoints: sample.endpoints.clone().unwrap_or_default(),
        api_key_env: sample.api_key_env.clone(),
        concurrency: sample.concurrency.unwrap_or(CONCURRENCY),
        timeout_s: sample.timeout_s.unwrap_or(default.timeout_s),
        retries: sample.retries.unwrap_or(default.retries),
        price_prompt: None,
        price_completion: None,
    }
}

/// What is wrong with these keys, without the section's name.
pub(super) fn validate(sample: &SampleSettings) -> Problems {
    if sample.backend.is_endpoint() {
        return sample_client(sample).validate();
    }
    let mut problems = Problems::default();
    for (key, is_given) in [
        ("endpoints", sample.endpoints.is_some()),
        ("endpoint_model", sample.endpoint_model.is_some()),
        ("api_key_env", sample.api_key_env.is_some()),
        ("concurrency", sample.concurrency.is_some()),
        ("timeout_s", sample.timeout_s.is_some()),
        ("retries", sample.retries.is_some()),
    ] {
        if is_given {
            problems.key(key, "no such key without backend = \"vllm\" or \"openai\"");
        }
    }
    problems
}

/// Why a run of so many iterations cannot sample through this backend.
pub(super) fn check_iterations(sample: &SampleSettings, iterations: usize) -> Problems {
    let mut problems = Problems::default();
    problems.refuse(
        sample.backend == BackendKind::Openai && iterations > 1,
        "iterations",
        iterations,
        "1 with sample.backend = \"openai\": such a server can't be told apart from one that still serves the policy before; \
         native and vllm can follow the policy",
    );
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_belong_to_their_backends() {
        let mut sample = SampleSettings { api_key_env: Some("KEY".into()), ..SampleSettings::default() };
        assert_eq!(validate(&sample).keys(), ["api_key_env"]);
        sample.backend = BackendKind::Vllm;
        assert_eq!(validate(&sample).keys(), ["endpoints"]);
        sample.endpoints = Some(vec!["http://127.0.0.1:1/v1".into()]);
        assert!(validate(&sample).is_empty());
        assert!(check_iterations(&sample, 3).is_empty());
        sample.backend = BackendKind::Openai;
        assert_eq!(check_iterations(&sample, 3).keys(), ["iterations"]);
        assert!(check_iterations(&sample, 1).is_empty());
    }
}
