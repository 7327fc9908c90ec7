//! Errors that are the user's to mend.

use std::fmt::Display;

use selfplay_records::{HasKind, Kind};

/// The message of such an error.
///
/// # Panics
/// There is no error, or it is of another kind.
#[track_caller]
pub fn refusal<T, E: HasKind + Display>(result: Result<T, E>) -> String {
    let Err(error) = result else { panic!("it must be refused") };
    assert!(error.kind() == Kind::Input, "{error}");
    error.to_string()
}

/// The rest of a message that names the path where the error is first.
#[track_caller]
pub fn refusal_at<T, E: HasKind + Display>(path: &str, result: Result<T, E>) -> String {
    let text = refusal(result);
    let rest = text.strip_prefix(path).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or_else(|| panic!("{path} is not named first in: {text}")).to_owned()
}
