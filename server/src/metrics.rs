//! Counters in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::worker::PolicyHandle;

/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// What the server has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answered: Mutex<BTreeMap<(&'static str, u16), u64>>,
    prompt_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    /// Connections now.
    pub(crate) connections: AtomicUsize,
    /// Connections that were closed because there were too many.
    pub(crate) refused_connections: AtomicU64,
    seconds: Histogram,
    first_token: Histogram,
}

impl Metrics {
    /// A request was answered with this status.
    pub(crate) fn answered(&self, path: &'static str, status: u16) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered.entry((path, status)).or_default() += 1;
    }

    /// An answer is whole.
    pub(crate) fn generated(&self, prompt_tokens: usize, tokens: usize, time: Duration) {
        self.prompt_tokens.fetch_add(prompt_tokens as u64, Ordering::Relaxed);
        self.generated_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.seconds.add(time);
    }

    /// A stream has its first token.
    pub(crate) fn first_token(&self, time: Duration) {
        self.first_token.add(time);
    }

    /// All of them as text.
    pub(crate) fn render(&self, policies: &[Arc<PolicyHandle>]) -> String {
        let mut text = MetricText::default();
        text.head("selfplay_requests_total", "counter", "Requests by path and status.");
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((path, status), count) in answered {
            text.line("selfplay_requests_total", &[("path", path), ("status", &status.to_string())], count);
        }
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let held = |value: &AtomicUsize| value.load(Ordering::Relaxed) as u64;
        for (name, kind, help, value) in [
            (
                "selfplay_prompt_tokens_total",
                "counter",
                "Tokens of answered prompts.",
                load(&self.prompt_tokens),
            ),
            (
                "selfplay_generated_tokens_total",
                "counter",
                "Tokens of whole answers.",
                load(&self.generated_tokens),
            ),
            ("selfplay_connections", "gauge", "Open connections.", held(&self.connections)),
            (
                "selfplay_refused_connections_total",
                "counter",
                "Connections closed because there were too many.",
                load(&self.refused_connections),
            ),
        ] {
            text.head(name, kind, help);
            text.line(name, &[], value);
        }
        type Gauge = fn(&PolicyHandle) -> u64;
        let by_model: [(&str, &str, &str, Gauge); 9] = [
            ("selfplay_model_outstanding", "gauge", "Prompts taken and not answered.", |p| {
                p.outstanding() as u64
            }),
            ("selfplay_model_running", "gauge", "Responses in the batch.", |p| {
                p.gauges.running.load(Ordering::Relaxed) as u64
            }),
            ("selfplay_model_waiting", "gauge", "Prompts not begun.", |p| {
                p.gauges.waiting.load(Ordering::Relaxed) as u64
            }),
            ("selfplay_model_pages", "gauge", "Cache pages.", |p| {
                p.gauges.pages.load(Ordering::Relaxed) as u64
            }),
            ("selfplay_model_free_pages", "gauge", "Cache pages that nobody holds.", |p| {
                p.gauges.free_pages.load(Ordering::Relaxed) as u64
            }),
            ("selfplay_model_tokens_total", "counter", "Tokens drawn, also of aborted answers.", |p| {
                p.gauges.tokens.load(Ordering::Relaxed)
            }),
            ("selfplay_model_steps_total", "counter", "Steps of the sampler.", |p| {
                p.gauges.steps.load(Ordering::Relaxed)
            }),
            ("selfplay_model_preemptions_total", "counter", "Responses that gave their pages back.", |p| {
                p.gauges.preemptions.load(Ordering::Relaxed)
            }),
            ("selfplay_model_aborted_total", "counter", "Prompts whose client left before the end.", |p| {
                p.gauges.aborted.load(Ordering::Relaxed)
            }),
        ];
        for (name, kind, help, value) in by_model {
            text.head(name, kind, help);
            for policy in policies {
                text.line(name, &[("model", &policy.shape.name)], value(policy));
            }
        }
        self.seconds.render(
            &mut text,
            "selfplay_answer_seconds",
            "Seconds from a request's body to its answer's end.",
        );
        self.first_token.render(
            &mut text,
            "selfplay_first_token_seconds",
            "Seconds from a request's body to a stream's first token.",
        );
        text.0
    }
}

/// Durations in buckets.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        if let Some(place) = BOUNDS.iter().position(|&bound| time.as_secs_f64() <= bound) {
            self.buckets[place].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn render(&self, text: &mut MetricText, name: &str, help: &str) {
        text.head(name, "histogram", help);
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            text.line(&format!("{name}_bucket"), &[("le", &bound.to_string())], below);
        }
        let count = self.count.load(Ordering::Relaxed);
        text.line(&format!("{name}_bucket"), &[("le", "+Inf")], count);
        text.line(&format!("{name}_sum"), &[], self.micros.load(Ordering::Relaxed) as f64 / 1e6);
        text.line(&format!("{name}_count"), &[], count);
    }
}

#[derive(Default)]
struct MetricText(String);

impl MetricText {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if place == 0 { "{" } else { "," });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_labels_are_escaped() {
        let metrics = Metrics::default();
        metrics.answered("/v1/completions", 200);
        metrics.answered("/v1/completions", 200);
        metrics.answered("/v1/completions", 429);
        metrics.generated(7, 5, Duration::from_millis(30));
        metrics.generated(1, 2, Duration::from_secs(1000));
        let text = metrics.render(&[]);
        for line in [
            "selfplay_requests_total{path=\"/v1/completions\",status=\"200\"} 2",
            "selfplay_requests_total{path=\"/v1/completions\",status=\"429\"} 1",
            "selfplay_prompt_tokens_total 8",
            "selfplay_generated_tokens_total 7",
            "selfplay_answer_seconds_bucket{le=\"0.025\"} 0",
            "selfplay_answer_seconds_bucket{le=\"0.05\"} 1",
            "selfplay_answer_seconds_bucket{le=\"300\"} 1",
            "selfplay_answer_seconds_bucket{le=\"+Inf\"} 2",
            "selfplay_answer_seconds_sum 1000.03",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let mut text = MetricText::default();
        text.line("x", &[("model", "a\"b\\c\nd")], 1);
        assert_eq!(text.0, "x{model=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
