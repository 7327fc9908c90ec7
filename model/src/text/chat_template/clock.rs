//! The clock of `strftime_now`, which some templates print as today's date.

use std::fmt::Write;

use chrono::format::StrftimeItems;
use chrono::{Local, NaiveDate, NaiveDateTime};
use minijinja::{Error, ErrorKind};

/// The environment variable that stands in for the clock.
const CLOCK: &str = "SELFPLAY_CLOCK";

/// The present local time in `format`, Python's strftime.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let now = match std::env::var(CLOCK) {
        Ok(text) => parse(&text).ok_or_else(|| {
            let what = format!("{CLOCK} is {text:?}, not a time like 2026-11-22 or 2026-11-22T08:30:00");
            Error::new(ErrorKind::InvalidOperation, what)
        })?,
        Err(_) => Local::now().naive_local(),
    };
    let bad =
        || Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {format:?} is not a time format"));
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
