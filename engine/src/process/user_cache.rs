//! The folder for what a user's programs may keep and can make again.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// XDG_CACHE_HOME, else `.cache` at home; `None` where neither is a whole path.
pub(crate) fn user_cache() -> Option<PathBuf> {
    user_cache_of(&|name| env::var_os(name))
}

fn user_cache_of(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // Paths that are not whole are to be passed over (XDG's specification).
    let whole = |path: PathBuf| path.is_absolute().then_some(path);
    let named = variable("XDG_CACHE_HOME").map(PathBuf::from).and_then(whole);
    named.or_else(|| whole(PathBuf::from(variable("HOME")?).join(".cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_goes_before_the_home_and_half_a_path_is_none() {
        let of = |cache: &str, home: &str| {
            let value = |name: &str| OsString::from(if name == "HOME" { home } else { cache });
            user_cache_of(&|name| Some(value(name)).filter(|value| !value.is_empty()))
        };
        assert_eq!(of("/c", "/h"), Some("/c".into()));
        for cache in ["", "c"] {
            assert_eq!(of(cache, "/h"), Some("/h/.cache".into()));
            assert_eq!(of(cache, ""), None);
        }
    }
}
