//! Panics of foreign crates, turned into errors.
//!
//! Parsers of other projects still panic on some damaged files (a Parquet page's bit width, a tokenizer's table). That is a
//! fault of the file, not of this program: it becomes an error, and the panic's message doesn't reach standard error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it becomes `Err` with the first 120 characters of the panic's message. Panics elsewhere are
/// reported as before. State that `work` changed may be incomplete after an `Err` and must be dropped.
///
/// # Errors
/// `work` panicked.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let text =
            payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        // Long values of the data may stand in it.
        text.unwrap_or("no message").lines().next().unwrap_or_default().chars().take(120).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_becomes_an_error_and_a_value_is_returned() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(
            caught(|| -> u8 { panic!("the table has {} rows", 0) }),
            Err("the table has 0 rows".to_owned())
        );
    }
}
