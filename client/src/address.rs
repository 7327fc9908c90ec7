//! An endpoint's address: `http(s)://HOST[:PORT][/PATH]`, as OpenAI's own clients take it (`https://api.openai.com/v1`).

use std::fmt;

/// The address of an endpoint, without a `/` at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointAddress(String);

impl EndpointAddress {
    /// Reads `text`.
    ///
    /// # Errors
    /// What would be right. It does not repeat `text`, which may hold a password.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let wanted = "http://HOST[:PORT][/PATH] or https://…, as in \"http://127.0.0.1:8000/v1\"";
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or(wanted)?;
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return Err("an address without user and password: name the key's variable with api_key_env");
        }
        if text.contains(['?', '#']) {
            return Err("an address without ? and #: no key or parameter belongs in it");
        }
        let name = host.split(':').next().unwrap_or_default();
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || (name.is_empty() && !host.starts_with('[')) {
            return Err(wanted);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// The address of `path` below this one; of itself where `path` is empty.
    pub(crate) fn below(&self, path: &str) -> String {
        if path.is_empty() { self.0.clone() } else { format!("{}/{path}", self.0) }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_joined() {
        let address = EndpointAddress::parse("http://127.0.0.1:8000/v1/").unwrap();
        assert_eq!(address.below("chat/completions"), "http://127.0.0.1:8000/v1/chat/completions");
        assert_eq!(EndpointAddress::parse("https://[::1]:80").unwrap().below(""), "https://[::1]:80");
        for (wrong, words) in [
            ("", "http://HOST"),
            ("api.example/v1", "http://HOST"),
            ("http://", "http://HOST"),
            ("http:///v1", "http://HOST"),
            ("http://a b/", "http://HOST"),
            ("http://user:hunter2@host/v1", "api_key_env"),
            ("http://host/v1?key=hunter2", "no key"),
        ] {
            let problem = EndpointAddress::parse(wrong).unwrap_err();
            assert!(problem.contains(words) && !problem.contains("hunter2"), "{wrong}: {problem}");
        }
    }
}
