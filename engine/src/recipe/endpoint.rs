//! The keys of `[sample]` that reach a server.

use std::path::Path;

use selfplay_client::{ClientSettings, CompanionSettings};
use selfplay_records::Problems;
use selfplay_sampler::{BackendKind, SampleSettings, WeightDelivery};

/// Requests at a time, where the recipe doesn't say: a server batches them.
const CONCURRENCY: usize = 64;

/// How the servers of `sample.endpoints` are reached, or the companion of `sample.companion`, which runs `model`.
pub fn sample_client(sample: &SampleSettings, model: &Path) -> ClientSettings {
    let endpoints = sample.endpoints.iter().flatten();
    let is_sglang = sample.backend == BackendKind::Sglang;
    // SGLang's own calls are not below OpenAI's, which the address of such a server often names.
    let own = |address: &String| match address.trim_end_matches('/').strip_suffix("/v1") {
        Some(server) if is_sglang => server.to_owned(),
        _ => address.clone(),
    };
    let companion = (sample.backend == BackendKind::Mistralrs).then(|| {
        CompanionSettings::of("sample.companion", sample.companion.as_deref(), model.display().to_string())
    });
    ClientSettings {
        endpoints: endpoints.map(own).collect(),
        companion,
        api_key_env: sample.api_key_env.clone(),
        ..ClientSettings::patient(sample.concurrency.or(Some(CONCURRENCY)), sample.timeout_s, sample.retries)
    }
}

/// What is wrong with these keys, without the section's name.
pub(super) fn validate(sample: &SampleSettings) -> Problems {
    let mut problems = Problems::default();
    let backend = sample.backend;
    let by_http = matches!(backend, BackendKind::Vllm | BackendKind::Sglang | BackendKind::Openai);
    let has_ids = matches!(backend, BackendKind::Vllm | BackendKind::Sglang);
    let with = |backends: &str| format!("no such key without backend = {backends}");
    let others = with("\"vllm\", \"sglang\", \"mistralrs\" or \"openai\"");
    for (key, is_given, is_allowed, want) in [
        ("endpoints", sample.endpoints.is_some(), by_http, with("\"vllm\", \"sglang\" or \"openai\"")),
        (
            "endpoint_model",
            sample.endpoint_model.is_some(),
            by_http && backend != BackendKind::Sglang,
            with("\"vllm\" or \"openai\""),
        ),
        ("api_key_env", sample.api_key_env.is_some(), by_http, with("\"vllm\", \"sglang\" or \"openai\"")),
        ("concurrency", sample.concurrency.is_some(), backend.is_endpoint(), others.clone()),
        ("timeout_s", sample.timeout_s.is_some(), backend.is_endpoint(), others.clone()),
        ("retries", sample.retries.is_some(), backend.is_endpoint(), others),
        ("companion", sample.companion.is_some(), backend == BackendKind::Mistralrs, with("\"mistralrs\"")),
        (
            "weights",
            sample.weights.is_some() && !sample.is_fp8(),
            has_ids,
            "no such key without backend = \"vllm\" or \"sglang\", but for \"fp8\" with \"native\""
                .to_owned(),
        ),
        (
            "weights_command",
            sample.weights_command.is_some(),
            sample.weights() == WeightDelivery::Command,
            "no such key without weights = \"command\"".to_owned(),
        ),
        (
            "kv_cache_dtype",
            sample.kv_cache_dtype.is_some(),
            backend == BackendKind::Native,
            "no such key without backend = \"native\": a server keeps keys and values in its own way"
                .to_owned(),
        ),
        (
            "log_prob_tolerance",
            sample.log_prob_tolerance.is_some(),
            has_ids || backend == BackendKind::Mistralrs,
            with("\"vllm\", \"sglang\" or \"mistralrs\""),
        ),
    ] {
        if is_given && !is_allowed {
            problems.key(key, want);
        }
    }
    let wrong = match (sample.weights(), backend) {
        (WeightDelivery::Fp8, backend) if backend.is_endpoint() => {
            Some("fp8 with backend = \"native\" alone: a server has its own ways to round weights")
        }
        (WeightDelivery::Update, BackendKind::Vllm) => {
            Some("served, adapter or command with backend = \"vllm\"")
        }
        (WeightDelivery::Adapter, BackendKind::Sglang) => {
            Some("served, update or command with backend = \"sglang\"")
        }
        _ => None,
    };
    if let Some(want) = wrong {
        problems.key("weights", want);
    }
    let has_command = sample.weights_command.as_ref().is_some_and(|words| !words.is_empty());
    if sample.weights() == WeightDelivery::Command && has_ids && !has_command {
        problems.key("weights_command", "absent: a list of words, as in [\"sh\", \"restart.sh\"]");
    }
    if let Some(tolerance) = sample.log_prob_tolerance
        && !(tolerance > 0.0 && tolerance.is_finite())
    {
        problems.value("log_prob_tolerance", tolerance, "a positive number of nats");
    }
    if backend.is_endpoint() {
        problems.extend(sample_client(sample, Path::new("")).validate());
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
         native, vllm, sglang and mistralrs can follow the policy",
    );
    problems
}

#[cfg(test)]
mod tests {
    use selfplay_sampler::KvCacheDtype;

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

    #[test]
    fn weights_and_companions_belong_to_their_backends() {
        let endpoints = Some(vec!["http://127.0.0.1:1/v1/".into()]);
        let sglang = SampleSettings { backend: BackendKind::Sglang, endpoints, ..SampleSettings::default() };
        assert!(validate(&sglang).is_empty());
        assert_eq!(sglang.weights(), WeightDelivery::Update);
        assert_eq!(sample_client(&sglang, Path::new("p")).endpoints, ["http://127.0.0.1:1"]);
        let vllm = SampleSettings { backend: BackendKind::Vllm, ..sglang.clone() };
        assert_eq!(sample_client(&vllm, Path::new("p")).endpoints, ["http://127.0.0.1:1/v1/"]);
        let of = |weights: WeightDelivery| SampleSettings { weights: Some(weights), ..vllm.clone() };
        assert_eq!(validate(&of(WeightDelivery::Update)).keys(), ["weights"]);
        assert_eq!(validate(&of(WeightDelivery::Fp8)).keys(), ["weights"]);
        let native = |weights| SampleSettings { weights: Some(weights), ..SampleSettings::default() };
        assert!(validate(&native(WeightDelivery::Fp8)).is_empty());
        assert_eq!(validate(&native(WeightDelivery::Served)).keys(), ["weights"]);
        for dtype in [KvCacheDtype::Auto, KvCacheDtype::Fp8] {
            let kv_cache_dtype = Some(dtype);
            let problems = validate(&SampleSettings { kv_cache_dtype, ..vllm.clone() });
            assert_eq!(problems.keys(), ["kv_cache_dtype"]);
            assert!(problems.list[0].to_string().contains("native"), "{problems:?}");
            assert!(validate(&SampleSettings { kv_cache_dtype, ..SampleSettings::default() }).is_empty());
        }
        assert_eq!(validate(&of(WeightDelivery::Command)).keys(), ["weights_command"]);
        assert!(validate(&of(WeightDelivery::Adapter)).is_empty());
        let companion = Some(vec!["x".to_owned()]);
        assert_eq!(validate(&SampleSettings { companion: companion.clone(), ..vllm }).keys(), ["companion"]);
        let mistralrs = SampleSettings {
            backend: BackendKind::Mistralrs,
            companion,
            log_prob_tolerance: Some(0.0),
            ..SampleSettings::default()
        };
        assert_eq!(validate(&mistralrs).keys(), ["log_prob_tolerance"]);
        let with_endpoints =
            SampleSettings { endpoints: sglang.endpoints, log_prob_tolerance: None, ..mistralrs };
        assert_eq!(validate(&with_endpoints).keys(), ["endpoints"]);
    }
}
