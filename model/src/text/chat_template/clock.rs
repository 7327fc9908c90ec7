//! The clock of `strftime_now`, which some templates print as today's date.
//!
//! The text that a template makes decides every id after it, so a piece of work that is begun on one day and ended on
//! the next must go by one of them: [`fix`] holds the clock for this process. Where nothing is fixed it is
//! `SELFPLAY_CLOCK=2026-11-22` of the environment (or with a time, `2026-11-22T08:30:00`), else the local time.

use std::fmt::Write;
use std::sync::RwLock;

use chrono::format::StrftimeItems;
use chrono::{Local, NaiveDate, NaiveDateTime};

use crate::error::ModelError;

/// The environment variable that stands in for the clock.
const CLOCK: &str = "SELFPLAY_CLOCK";
/// How a time is kept in a file.
const KEPT: &str = "%Y-%m-%dT%H:%M:%S";

static FIXED: RwLock<Option<NaiveDateTime>> = RwLock::new(None);

/// The time that templates read now, to be kept beside what they made.
///
/// Error: `SELFPLAY_CLOCK` is no time.
pub fn now() -> Result<String, ModelError> {
    let time = time().map_err(|what| ModelError::value(what, "unset it, or give a time"))?;
    Ok(time.format(KEPT).to_string())
}

/// Holds the clock at `time` (as [`now`] gives it) for the rest of this process.
///
/// Error: it is no time.
pub fn fix(time: &str) -> Result<(), ModelError> {
    let parsed = parse(time).ok_or_else(|| {
        ModelError::value(format!("{time:?} is no time"), "a time is written like 2026-11-22T08:30:00")
    })?;
    *FIXED.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(parsed);
    Ok(())
}

fn time() -> Result<NaiveDateTime, String> {
    if let Some(time) = *FIXED.read().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Ok(time);
    }
    match std::env::var(CLOCK) {
        Ok(text) => parse(&text)
            .ok_or_else(|| format!("{CLOCK} is {text:?}, not a time like 2026-11-22 or 2026-11-22T08:30:00")),
        Err(_) => Ok(Local::now().naive_local()),
    }
}

/// The time in `format`, Python's strftime.
pub(in crate::text) fn strftime_now(format: &str) -> Result<String, String> {
    let now = time()?;
    let bad = || format!("strftime_now: {format:?} is not a time format");
    // Formatting a naive time with items that it cannot give (a time zone) fails in the writer, not before.
    let items = StrftimeItems::new(format).parse().map_err(|_| bad())?;
    let mut text = String::new();
    write!(text, "{}", now.format_with_items(items.iter())).map_err(|_| bad())?;
    Ok(text)
}

fn parse(text: &str) -> Option<NaiveDateTime> {
    let date = || text.parse::<NaiveDate>().ok().and_then(|date| date.and_hms_opt(0, 0, 0));
    text.parse::<NaiveDateTime>().ok().or_else(date)
}
