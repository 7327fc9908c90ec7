//! An endpoint's address: `http(s)://HOST[:PORT][/PATH]`, as OpenAI's own clients take it (`https://api.openai.com/v1`).

use std::fmt;
use std::net::Ipv6Addr;

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
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || !is_host(host) {
            return Err(wanted);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// The address of `path` below this one; of itself where `path` is empty.
    pub(crate) fn below(&self, path: &str) -> String {
        if path.is_empty() { self.0.clone() } else { format!("{}/{path}", self.0) }
    }
}

/// Whether a text is `NAME[:PORT]` or `[IPV6][:PORT]`. What is none would be found out by a connection that fails, again and again.
fn is_host(host: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some(rest) = host.strip_prefix('[') {
        let Some((name, after)) = rest.split_once(']') else { return false };
        let name = name.split('%').next().unwrap_or_default();
        let port = after.strip_prefix(':');
        return name.parse::<Ipv6Addr>().is_ok() && (after.is_empty() || port.is_some_and(is_port));
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_name && port.is_none_or(is_port)
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
        for right in ["http://my_host.example:8000", "https://[fe80::1%25eth0]", "http://[::1]/v1"] {
            assert!(EndpointAddress::parse(right).is_ok(), "{right}");
        }
        for (wrong, words) in [
            ("", "http://HOST"),
            ("api.example/v1", "http://HOST"),
            ("http://", "http://HOST"),
            ("http:///v1", "http://HOST"),
            ("http://a b/", "http://HOST"),
            ("http://[::1", "http://HOST"),
            ("http://[::1]8000", "http://HOST"),
            ("http://[host]:80", "http://HOST"),
            ("http://host:99999/v1", "http://HOST"),
            ("http://host:0/v1", "http://HOST"),
            ("http://host:/v1", "http://HOST"),
            ("http://::1/v1", "http://HOST"),
            ("http://host\\path", "http://HOST"),
            ("http://user:hunter2@host/v1", "api_key_env"),
            ("http://host/v1?key=hunter2", "no key"),
        ] {
            let problem = EndpointAddress::parse(wrong).unwrap_err();
            assert!(problem.contains(words) && !problem.contains("hunter2"), "{wrong}: {problem}");
        }
    }
}
