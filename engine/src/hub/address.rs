//! Addresses of HTTP servers, read strictly: what is sent where must not depend on who reads the text.
//!
//! A server is scheme, host and port. The token goes to one server alone, so two readers that disagree about the host
//! of `http://a\@b/` would be a leak: anything unusual is no address, and the client gets the text that is put
//! together again from the parts.

/// `http[s]://HOST[:PORT]/PATH[?QUERY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    https: bool,
    /// In small letters; IPv6 with its brackets.
    host: String,
    port: u16,
    /// Path and query; begins with a slash.
    path: String,
}

impl Address {
    /// Reads an address, and beside it its user part (`USER:PASSWORD`), which is never part of it.
    pub(super) fn parse(text: &str) -> Option<(Self, Option<String>)> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>' | b'`');
        if !text.bytes().all(plain) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, server) = match authority.rsplit_once('@') {
            Some((user, server)) => (Some(user.to_owned()), server),
            None => (None, authority),
        };
        let (host, port) = match server.rfind(':').filter(|colon| !server[*colon..].contains(']')) {
            Some(colon) => (&server[..colon], Some(&server[colon + 1..])),
            None => (server, None),
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None if https => 443,
            None => 80,
        };
        let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(name),
        };
        if !is_host || port == 0 {
            return None;
        }
        let host = host.to_ascii_lowercase();
        Some((Self { https, host, port, path: path_of(path) }, user))
    }

    /// Where a `Location` header leads from here; its user part is dropped.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let scheme = if self.https { "https" } else { "http" };
        if location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':')) {
            return Self::parse(location).map(|(address, _)| address);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}")).map(|(address, _)| address);
        }
        let own = self.path.split('?').next().unwrap_or("/");
        let path = match location.chars().next()? {
            '/' => location.to_owned(),
            '?' => format!("{own}{location}"),
            '#' => self.path.clone(),
            _ => format!("{}/{location}", own.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        Self::parse(&format!("{}{path}", self.server())).map(|(address, _)| address)
    }

    /// This address with `path`, which begins with a slash, after its own.
    pub(super) fn under(&self, path: &str) -> Self {
        let own = self.path.split('?').next().unwrap_or("").trim_end_matches('/');
        Self { path: format!("{own}{path}"), ..self.clone() }
    }

    /// Whether both are of one scheme, host and port.
    pub(super) fn same_server(&self, other: &Self) -> bool {
        self.https == other.https && self.host == other.host && self.port == other.port
    }

    /// Whether going on to `next` gives up encryption.
    pub(super) fn downgrades_to(&self, next: &Self) -> bool {
        self.https && !next.https
    }

    /// Scheme, host and port, for messages.
    pub(super) fn server(&self) -> String {
        match (self.https, self.port) {
            (true, 443) => format!("https://{}", self.host),
            (false, 80) => format!("http://{}", self.host),
            (https, port) => format!("http{}://{}:{port}", if https { "s" } else { "" }, self.host),
        }
    }

    /// The whole address.
    pub(super) fn url(&self) -> String {
        format!("{}{}", self.server(), self.path)
    }
}

/// Path and query without the fragment, beginning with a slash.
fn path_of(text: &str) -> String {
    let text = text.split('#').next().unwrap_or("");
    if text.starts_with('/') { text.to_owned() } else { format!("/{text}") }
}

/// `text` with everything but letters, digits, `-._~` and the bytes of `kept` percent-encoded.
pub(super) fn percent_encoded(text: &str, kept: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The bytes that a percent-encoded text stands for.
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap().0
    }

    #[test]
    fn an_address_is_read_into_its_parts() {
        let (parsed, user) = Address::parse("HTTPS://me:p%40ss@Hub.Example:8443/base/?x#y").unwrap();
        assert_eq!(parsed.url(), "https://hub.example:8443/base/?x");
        assert_eq!(user.as_deref(), Some("me:p%40ss"));
        assert_eq!(parsed.under("/api/models").url(), "https://hub.example:8443/base/api/models");
        assert_eq!(address("https://h").url(), "https://h/");
        assert_eq!(address("http://[::1]:90/a").server(), "http://[::1]:90");
    }

    #[test]
    fn what_two_readers_could_take_for_two_hosts_is_no_address() {
        for text in [
            "",
            "h/a",
            "ftp://h/",
            "file:///etc/passwd",
            "http://",
            "http://a\\@b/",
            "http://a b/",
            "http://a\n/",
            "http://h:x/",
            "http://h:99999/",
            "http://h:0/",
            "http://é/",
            "http://[::1/",
            "http://[x]/",
        ] {
            assert!(Address::parse(text).is_none(), "{text:?}");
        }
        // The host comes after the last @ of the authority.
        assert_eq!(address("http://hub.example@evil.example/").server(), "http://evil.example");
        assert_eq!(address("http://hub.example/@evil.example").server(), "http://hub.example");
    }

    #[test]
    fn a_redirect_is_followed_as_browsers_do() {
        let here = address("https://hub.example/a/b?x=1");
        let join = |location: &str| here.join(location).map(|next| next.url());
        assert_eq!(join("/c?d").as_deref(), Some("https://hub.example/c?d"));
        assert_eq!(join("c").as_deref(), Some("https://hub.example/a/c"));
        assert_eq!(join("?y").as_deref(), Some("https://hub.example/a/b?y"));
        assert_eq!(join("//cdn.example/c").as_deref(), Some("https://cdn.example/c"));
        assert_eq!(join("http://u:p@cdn.example/c").as_deref(), Some("http://cdn.example/c"));
        assert_eq!(join("file:///etc/passwd"), None);
        assert_eq!(join("javascript:x"), None);
        assert_eq!(join(""), None);
    }

    #[test]
    fn another_port_or_scheme_is_another_server() {
        let here = address("https://hub.example/a");
        assert!(here.same_server(&address("https://HUB.example:443/b")));
        for other in ["http://hub.example:443/a", "https://hub.example:444/a", "https://hub.example.evil/a"] {
            assert!(!here.same_server(&address(other)), "{other}");
        }
        assert!(here.downgrades_to(&address("http://cdn.example/")));
    }

    #[test]
    fn names_survive_percent_encoding() {
        assert_eq!(percent_encoded("a b/ü%?#.json", "/"), "a%20b/%C3%BC%25%3F%23.json");
        assert_eq!(percent_encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(percent_decoded("p%40s%zs%4"), b"p@s%zs%4");
    }
}
