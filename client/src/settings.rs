//! How a service is reached and how patiently it is asked: the keys that every section with an endpoint shares.

use selfplay_records::Problems;

use crate::address::EndpointAddress;
use crate::{CompanionSettings, Secret};

/// Requests at a time at most.
const MOST_AT_A_TIME: usize = 1024;

/// Further tries of one request at most.
const MOST_RETRIES: u32 = 100;

/// Seconds that one try may take at most: a day.
const LONGEST_S: f64 = 86_400.0;

/// How a service is reached and how patiently it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSettings {
    /// Addresses that serve the same: requests go to the least busy one, a further try to another.
    pub endpoints: Vec<String>,
    /// A program that answers in their place.
    pub companion: Option<CompanionSettings>,
    /// The variable of the environment that holds the key; `None`: no key is sent.
    pub api_key_env: Option<String>,
    /// Requests at a time, over all endpoints.
    pub concurrency: usize,
    /// Seconds that one try may take, from connecting to the last byte.
    pub timeout_s: f64,
    /// Further tries after a temporary failure.
    pub retries: u32,
    /// Price of a million tokens that are read, in any currency; `None`: no cost is reckoned.
    pub price_prompt: Option<f64>,
    /// Price of a million tokens that are written.
    pub price_completion: Option<f64>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            companion: None,
            api_key_env: None,
            concurrency: 8,
            timeout_s: 600.0,
            retries: 5,
            price_prompt: None,
            price_completion: None,
        }
    }
}

impl ClientSettings {
    /// The default settings of one endpoint.
    pub fn of(endpoint: impl Into<String>) -> Self {
        Self { endpoints: vec![endpoint.into()], ..Self::default() }
    }

    /// The default settings, but for what a section's keys say of how patiently a service is asked.
    pub fn patient(concurrency: Option<usize>, timeout_s: Option<f64>, retries: Option<u32>) -> Self {
        let default = Self::default();
        Self {
            concurrency: concurrency.unwrap_or(default.concurrency),
            timeout_s: timeout_s.unwrap_or(default.timeout_s),
            retries: retries.unwrap_or(default.retries),
            ..default
        }
    }

    /// Every wrong value, without the section's name; empty when all is well. Opens nothing and does not look into the environment.
    /// What may be a key or hold a password is not repeated.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        if let Some(companion) = &self.companion {
            problems.extend(companion.validate());
        } else if self.endpoints.is_empty() {
            problems.key("endpoints", "absent: a list of addresses, as in [\"http://127.0.0.1:8000/v1\"]");
        }
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            if let Err(want) = EndpointAddress::parse(endpoint) {
                problems.key(format!("endpoints[{place}]"), want);
            }
        }
        if self.api_key_env.as_deref().is_some_and(|name| !Secret::is_variable(name)) {
            let want = "the name of the environment's variable that holds the key, in capitals, as in \"OPENAI_API_KEY\"; \
                        never the key itself";
            problems.key("api_key_env", want);
        }
        if !(1..=MOST_AT_A_TIME).contains(&self.concurrency) {
            problems.value("concurrency", self.concurrency, format!("from 1 to {MOST_AT_A_TIME}"));
        }
        if !(self.timeout_s > 0.0 && self.timeout_s <= LONGEST_S) {
            problems.value("timeout_s", self.timeout_s, "a positive number of seconds, at most a day");
        }
        problems.refuse(
            self.retries > MOST_RETRIES,
            "retries",
            self.retries,
            format!("at most {MOST_RETRIES}"),
        );
        for (key, price) in [("price_prompt", self.price_prompt), ("price_completion", self.price_completion)]
        {
            if let Some(price) = price
                && !(price.is_finite() && price >= 0.0)
            {
                problems.value(key, price, "the price of a million tokens, 0 or more");
            }
        }
        if self.price_prompt.is_some() != self.price_completion.is_some() {
            let absent = if self.price_prompt.is_some() { "price_completion" } else { "price_prompt" };
            problems.key(absent, "absent: both prices or neither");
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named_and_no_key_is_repeated() {
        assert!(ClientSettings::of("http://127.0.0.1:1/v1").validate().is_empty());
        let wrong = ClientSettings {
            endpoints: vec!["http://me:hunter2@host/v1".to_owned()],
            companion: None,
            api_key_env: Some("sk-hunter2".to_owned()),
            concurrency: 0,
            timeout_s: f64::NAN,
            retries: 101,
            price_prompt: Some(-1.0),
            price_completion: None,
        };
        let problems = wrong.validate();
        let keys = [
            "endpoints[0]",
            "api_key_env",
            "concurrency",
            "timeout_s",
            "retries",
            "price_prompt",
            "price_completion",
        ];
        assert_eq!(problems.keys(), keys);
        assert!(!problems.to_string().contains("hunter2"), "{problems}");
        assert_eq!(ClientSettings::default().validate().keys(), ["endpoints"]);
    }

    #[test]
    fn what_keys_do_not_say_is_as_by_default() {
        assert_eq!(ClientSettings::patient(None, None, None), ClientSettings::default());
        let own = ClientSettings::patient(Some(3), Some(2.5), Some(0));
        assert_eq!((own.concurrency, own.timeout_s, own.retries), (3, 2.5, 0));
    }
}
