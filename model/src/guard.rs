//! What a foreign crate panics on is the fault of the data that it was given: caught here, without the message that a
//! defect of ours gets.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; `Err` says on what it panicked. What `work` leaves half done must not be used afterwards.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
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
    fn a_panic_is_told_and_a_value_is_given() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(
            caught(|| -> u8 { panic!("the table has {} rows", 0) }),
            Err("the table has 0 rows".to_owned())
        );
    }
}
