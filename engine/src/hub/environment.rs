//! The variables of the environment that Hugging Face's libraries read, in their meaning.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::HubError;
use super::address::{Address, percent_decoded};

/// Where HF_ENDPOINT is absent.
const ENDPOINT: &str = "https://huggingface.co";

/// Seconds without a byte after which a connection counts as dead, where HF_HUB_DOWNLOAD_TIMEOUT is absent.
const PATIENCE: u64 = 60;

/// The hub, and how requests to it are authorised.
pub(super) struct Endpoint {
    pub(super) address: Address,
    /// Value of the `Authorization` header.
    authorization: Option<String>,
}

impl Endpoint {
    /// HF_ENDPOINT, with HF_TOKEN or the token file, or with the user part of the address.
    pub(super) fn from_env() -> Result<Self, HubError> {
        let text = text_of("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self::new(&text, token()?)
    }

    /// HF_ENDPOINT alone.
    pub(super) fn without_token() -> Result<Self, HubError> {
        Self::new(&text_of("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()), None)
    }

    /// A user part wins over the token, as there is one `Authorization` header.
    fn new(text: &str, token: Option<String>) -> Result<Self, HubError> {
        let wrong = || HubError::Setting {
            name: "HF_ENDPOINT".to_owned(),
            problem: "is no address; http://HOST[:PORT] or https://HOST[:PORT] is wanted",
        };
        let (address, user) = Address::parse(text.trim()).ok_or_else(wrong)?;
        let basic = |user: String| format!("Basic {}", BASE64_STANDARD.encode(percent_decoded(&user)));
        let bearer = |token: String| format!("Bearer {token}");
        Ok(Self { address, authorization: user.map(basic).or(token.map(bearer)) })
    }

    /// Whether requests to the hub are authorised.
    pub(super) fn is_authorised(&self) -> bool {
        self.authorization.is_some()
    }

    /// The `Authorization` header for a request to `address`: none for any other server than the hub.
    pub(super) fn authorization_for(&self, address: &Address) -> Option<&str> {
        self.authorization.as_deref().filter(|_| self.address.same_server(address))
    }
}

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenPlace {
    /// A variable of the environment.
    Variable(&'static str),
    /// A file.
    File(PathBuf),
}

/// Where the token is, without the token.
///
/// # Errors
/// A token that is none.
pub(crate) fn token_place() -> Result<Option<TokenPlace>, HubError> {
    Ok(found_token()?.map(|(place, _)| place))
}

/// HF_TOKEN, else the content of the token file; `None` where there is neither.
pub(super) fn token() -> Result<Option<String>, HubError> {
    Ok(found_token()?.map(|(_, token)| token))
}

fn found_token() -> Result<Option<(TokenPlace, String)>, HubError> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(value) = env::var_os(name)
            && let Some(token) = cleaned(name, &value.to_string_lossy())?
        {
            return Ok(Some((TokenPlace::Variable(name), token)));
        }
    }
    if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    let file = match path_of("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token"))) {
        Some(file) if file.is_file() => file,
        _ => return Ok(None),
    };
    let bytes = std::fs::read(&file).map_err(|source| HubError::Io { path: file.clone(), source })?;
    let token = cleaned(&file.display().to_string(), &String::from_utf8_lossy(&bytes))?;
    Ok(token.map(|token| (TokenPlace::File(file), token)))
}

/// A token without the line ends that copying brings along; `None` where nothing is left.
fn cleaned(name: &str, value: &str) -> Result<Option<String>, HubError> {
    let token: String = value.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let token = token.trim();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = "holds a character that no token has; the token alone is wanted, as hf_…";
        return Err(HubError::Setting { name: name.to_owned(), problem });
    }
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

/// The folder of all repositories: HF_HUB_CACHE, else HF_HOME/hub.
pub(crate) fn cache_folder() -> Result<PathBuf, HubError> {
    let found = path_of("HF_HUB_CACHE")
        .or_else(|| path_of("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(home()?.join("hub")));
    found.ok_or_else(|| HubError::Setting {
        name: "HF_HOME".to_owned(),
        problem: "is not set, and neither is HOME; the folder of the hub's cache is wanted",
    })
}

/// HF_HOME, else the user's cache folder.
fn home() -> Option<PathBuf> {
    path_of("HF_HOME")
        .or_else(|| Some(path_of("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(path_of("HOME")?.join(".cache/huggingface")))
}

/// HF_HUB_OFFLINE, with the values that the Python library accepts.
pub(super) fn is_offline() -> bool {
    match text_of("HF_HUB_OFFLINE") {
        Some(_) => is_on("HF_HUB_OFFLINE"),
        None => is_on("TRANSFORMERS_OFFLINE"),
    }
}

/// Time without a byte after which a connection is abandoned.
pub(super) fn patience() -> Duration {
    let seconds = text_of("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.filter(|seconds| (1..=3600).contains(seconds)).unwrap_or(PATIENCE))
}

fn is_on(name: &str) -> bool {
    text_of(name)
        .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "TRUE" | "YES" | "ON"))
}

fn text_of(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

/// A path, with `~/` as shells read it.
fn path_of(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(name).filter(|value| !value.is_empty())?);
    match path.strip_prefix("~") {
        Ok(rest) => Some(PathBuf::from(env::var_os("HOME")?).join(rest)),
        Err(_) => Some(path),
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    #[test]
    fn a_token_is_trimmed_or_refused_and_never_printed() {
        for value in ["hf_secret", "hf_secret\n", " hf_secret\r\n", "hf_\rsecret"] {
            assert_eq!(cleaned("HF_TOKEN", value).unwrap().as_deref(), Some("hf_secret"), "{value:?}");
        }
        assert_eq!(cleaned("HF_TOKEN", " \n").unwrap(), None);
        for value in ["hf_secreté", "hf secret", "hf_secret\u{1}", "hf_secret\u{fffd}"] {
            let error = cleaned("HF_TOKEN", value).unwrap_err();
            assert_eq!(error.kind(), Kind::Input);
            let text = error.to_string();
            assert!(text.starts_with("HF_TOKEN holds") || text.starts_with("HF_TOKEN: holds"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_token_is_for_the_hub_s_own_server() {
        let endpoint = Endpoint::new("http://hub.example:81/base/", Some("hf_secret".into())).unwrap();
        let to = |text: &str| endpoint.authorization_for(&Address::parse(text).unwrap().0).map(str::to_owned);
        assert_eq!(to("http://hub.example:81/api").as_deref(), Some("Bearer hf_secret"));
        for other in ["http://hub.example/api", "https://hub.example:81/api", "http://cdn.hub.example:81/"] {
            assert_eq!(to(other), None, "{other}");
        }
    }

    #[test]
    fn a_user_part_is_sent_as_such_and_shown_nowhere() {
        let endpoint =
            Endpoint::new("http://user:pass%2Dword@hub.example", Some("hf_secret".into())).unwrap();
        assert_eq!(endpoint.address.url(), "http://hub.example/");
        // base64("user:pass-word"), from coreutils.
        let header = endpoint.authorization_for(&endpoint.address);
        assert_eq!(header, Some("Basic dXNlcjpwYXNzLXdvcmQ="));
        let error = Endpoint::new("http://user:pass-word@[", None).err().unwrap().to_string();
        assert!(error.contains("HF_ENDPOINT") && !error.contains("pass-word"), "{error}");
    }
}
