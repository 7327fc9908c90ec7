//! An endpoint as a client sees it: how it is reached, how busy it is, whether it rests. And which of several is asked next.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::address::EndpointAddress;
use crate::companion::Companion;
use crate::exchange::{JsonExchange, RequestFailure};
use crate::lock::lock;

/// Something that answers.
#[derive(Debug)]
pub(crate) struct ServiceEndpoint {
    reach: Reach,
    /// When it may be asked again after it said that it is asked too fast, or failed and there are others.
    not_before: Mutex<Option<Instant>>,
    on_their_way: AtomicUsize,
    /// Failures since the last answer.
    failures: AtomicU32,
    is_left_out: AtomicBool,
}

#[derive(Debug)]
enum Reach {
    Http(EndpointAddress),
    Companion(Companion),
}

impl ServiceEndpoint {
    /// A server.
    pub(crate) fn http(address: EndpointAddress) -> Self {
        Self::new(Reach::Http(address))
    }

    /// A program.
    pub(crate) fn companion(companion: Companion) -> Self {
        Self::new(Reach::Companion(companion))
    }

    fn new(reach: Reach) -> Self {
        Self {
            reach,
            not_before: Mutex::default(),
            on_their_way: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            is_left_out: AtomicBool::new(false),
        }
    }

    /// One try.
    pub(crate) fn send(
        &self,
        exchange: &JsonExchange,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, RequestFailure> {
        self.on_their_way.fetch_add(1, Ordering::Relaxed);
        let answer = match &self.reach {
            Reach::Http(address) => exchange.send(address, path, body),
            Reach::Companion(companion) => companion.send(path, body),
        };
        self.on_their_way.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// One try, whose answer is any text. A companion has no such calls.
    pub(crate) fn send_for_text(
        &self,
        exchange: &JsonExchange,
        path: &str,
        body: &Value,
    ) -> Result<String, RequestFailure> {
        match &self.reach {
            Reach::Http(address) => exchange.send_for_text(address, path, Some(body)),
            Reach::Companion(companion) => companion.send(path, Some(body)).map(|answer| answer.to_string()),
        }
    }

    /// What messages call it and a path below it.
    pub(crate) fn below(&self, path: &str) -> String {
        match &self.reach {
            Reach::Http(address) => address.below(path),
            Reach::Companion(companion) => format!("{}: {path}", companion.name()),
        }
    }

    /// Another try is asked of it, or not, only after a time.
    pub(crate) fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut not_before = lock(&self.not_before);
        *not_before = Some(not_before.map_or(until, |other| other.max(until)));
    }

    /// How long it rests still.
    pub(crate) fn rests_for(&self) -> Duration {
        lock(&self.not_before).map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Counts a failure; how many there were since the last answer.
    pub(crate) fn count_failure(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Notes an answer.
    pub(crate) fn count_answer(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Asks it, or not, while there are others.
    pub(crate) fn set_left_out(&self, is_left_out: bool) {
        self.is_left_out.store(is_left_out, Ordering::Relaxed);
    }

    fn is_left_out(&self) -> bool {
        self.is_left_out.load(Ordering::Relaxed)
    }

    /// Ends what was started here.
    pub(crate) fn close(&self) {
        if let Reach::Companion(companion) = &self.reach {
            companion.close();
        }
    }
}

/// Which endpoint a try is made at: one that is not left out, not at rest, not the one that has `failed`; of these the one with the
/// fewest requests on their way, and of equals the next after `turn`.
pub(crate) fn choose(endpoints: &[Arc<ServiceEndpoint>], turn: usize, failed: Option<usize>) -> usize {
    let count = endpoints.len().max(1);
    let order = |place: &usize| {
        let endpoint = &endpoints[*place];
        (
            endpoint.is_left_out(),
            !endpoint.rests_for().is_zero(),
            failed == Some(*place),
            endpoint.on_their_way.load(Ordering::Relaxed),
            (*place + count - turn % count) % count,
        )
    };
    (0..endpoints.len()).min_by_key(order).unwrap_or(0)
}

/// Whether a failed try has another endpoint to go to.
pub(crate) fn has_another(endpoints: &[Arc<ServiceEndpoint>], failed: usize) -> bool {
    endpoints.iter().enumerate().any(|(place, endpoint)| place != failed && !endpoint.is_left_out())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_busy_endpoint_is_asked_and_others_while_it_can_be_avoided_are_not() {
        let endpoint = || Arc::new(ServiceEndpoint::http(EndpointAddress::parse("http://a").unwrap()));
        let endpoints = [endpoint(), endpoint(), endpoint()];
        assert_eq!([0, 1, 2, 3].map(|turn| choose(&endpoints, turn, None)), [0, 1, 2, 0]);
        assert_eq!(choose(&endpoints, 1, Some(1)), 2);
        endpoints[0].on_their_way.store(5, Ordering::Relaxed);
        assert_eq!(choose(&endpoints, 0, None), 1);
        endpoints[1].rest(Duration::from_secs(60));
        assert_eq!(choose(&endpoints, 0, None), 2);
        endpoints[2].set_left_out(true);
        assert_eq!(choose(&endpoints, 0, None), 0);
        // Where all the others rest or are left out, the one that failed is asked again.
        assert_eq!(choose(&endpoints, 0, Some(0)), 0);
        assert!(has_another(&endpoints, 0));
        endpoints[1].set_left_out(true);
        assert!(!has_another(&endpoints, 0));
    }
}
