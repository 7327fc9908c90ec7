//! Who may ask: whoever has the key; without a key, programs of this machine.
//!
//! A web page of elsewhere can make a browser ask 127.0.0.1, under a name of its own that resolves to it. So without a key the
//! request must name this machine; and bodies must be JSON, which a page of elsewhere may not send unasked.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};

use crate::error::ApiError;

/// What a request must bring.
pub(super) struct Guard {
    key: Option<String>,
    address: IpAddr,
}

impl Guard {
    pub(super) fn new(key: Option<String>, address: IpAddr) -> Self {
        Self { key, address }
    }

    /// # Errors
    /// A request without the key, or for another machine.
    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        match &self.key {
            Some(_) if path == "/health" || path == "/arena" => Ok(()),
            Some(key) => {
                let given =
                    headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
                let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
                if same(given, key.as_bytes()) {
                    return Ok(());
                }
                let message = "a key is wanted: Authorization: Bearer KEY";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, message))
            }
            None => {
                let Some(host) = headers.get(header::HOST) else { return Ok(()) };
                if host.to_str().is_ok_and(|host| self.is_here(host)) {
                    return Ok(());
                }
                Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "host: this server answers for its own machine alone",
                ))
            }
        }
    }

    fn is_here(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || address == self.address)
    }
}

/// Compares without telling by its time where the two differ.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_key_is_compared_whole_and_some_paths_need_none() {
        let guard = Guard::new(Some("secret".into()), "0.0.0.0".parse().unwrap());
        let asked = |value: &str| {
            guard
                .check("/v1/models", &headers(header::AUTHORIZATION, value))
                .map_err(|error| error.status.as_u16())
        };
        assert_eq!(asked("Bearer secret"), Ok(()));
        for wrong in ["Bearer secre", "Bearer secretx", "secret", "Bearer ", "Basic secret"] {
            assert_eq!(asked(wrong), Err(401), "{wrong}");
        }
        assert_eq!(guard.check("/v1/models", &HeaderMap::new()).unwrap_err().status, 401);
        assert!(guard.check("/health", &HeaderMap::new()).is_ok());
    }

    #[test]
    fn without_a_key_another_machines_name_is_refused() {
        let guard = Guard::new(None, "127.0.0.1".parse().unwrap());
        for (host, right) in [
            ("127.0.0.1:8000", true),
            ("localhost:8000", true),
            ("[::1]:8000", true),
            ("LocalHost", true),
            ("evil.example:8000", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(guard.check("/v1/models", &headers(header::HOST, host)).is_ok(), right, "{host}");
        }
    }
}
