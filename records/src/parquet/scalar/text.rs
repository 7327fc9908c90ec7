//! The texts of values that JSON has no type for.

use chrono::{DateTime, FixedOffset, NaiveTime, SecondsFormat, TimeDelta, Utc};

use super::SecondPart;

/// `1970-01-31`.
pub(in crate::parquet) fn date(days: i32) -> String {
    match DateTime::from_timestamp(i64::from(days) * 86_400, 0) {
        Some(moment) => moment.date_naive().to_string(),
        None => format!("{days} days since 1970-01-01"),
    }
}

/// `23:59:59.5`.
pub(in crate::parquet) fn time(unit: SecondPart, value: i64) -> String {
    let (seconds, nanos) = unit.split(value);
    let time = u32::try_from(seconds)
        .ok()
        .and_then(|seconds| NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos));
    time.map_or_else(|| format!("{value} {unit:?}seconds since midnight"), |time| time.to_string())
}

/// `1970-01-31T23:59:59.5`, with `Z` or `+01:00` where it is so many seconds east of UTC.
pub(in crate::parquet) fn moment(unit: SecondPart, east: Option<i32>, value: i64) -> String {
    let (seconds, nanos) = unit.split(value);
    match DateTime::from_timestamp(seconds, nanos) {
        Some(moment) => moment_text(moment, east),
        None => format!("{value} {unit:?}seconds since 1970-01-01"),
    }
}

fn moment_text(moment: DateTime<Utc>, east: Option<i32>) -> String {
    let Some(east) = east else { return format!("{:?}", moment.naive_utc()) };
    let zone = FixedOffset::east_opt(east).filter(|_| east != 0);
    match zone {
        Some(zone) => moment.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => moment.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    }
}

/// `PT90S`.
pub(in crate::parquet) fn duration(unit: SecondPart, value: i64) -> String {
    let (seconds, nanos) = unit.split(value);
    TimeDelta::new(seconds, nanos)
        .map_or_else(|| format!("{value} {unit:?}seconds"), |length| length.to_string())
}

/// As [`moment`], of nanoseconds of a day and the day's Julian number.
pub(in crate::parquet) fn int96(parts: &[u32], east: Option<i32>) -> String {
    const EPOCH: i64 = 2_440_588;
    let &[low, high, day] = parts else { return String::new() };
    let nanos = (u64::from(high) << 32 | u64::from(low)).cast_signed();
    let (seconds, nanos) = SecondPart::Nano.split(nanos);
    let seconds = (i64::from(day.cast_signed()) - EPOCH) * 86_400 + seconds;
    match DateTime::from_timestamp(seconds, nanos) {
        Some(moment) => moment_text(moment, east),
        None => format!("{seconds} seconds since 1970-01-01"),
    }
}

/// `1 mons 2 days 3 hours 4 mins 5.006 secs`, without the parts that are zero.
pub(in crate::parquet) fn interval(bytes: &[u8]) -> String {
    let number = |place: usize| {
        let part = bytes.get(4 * place..).and_then(|bytes| bytes.first_chunk::<4>());
        part.map_or(0, |bytes| i64::from(i32::from_le_bytes(*bytes)))
    };
    let (months, days, millis) = (number(0), number(1), number(2));
    let seconds = millis / 1000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let mut parts = Vec::new();
    for (value, name) in [(months, "mons"), (days, "days"), (hours, "hours"), (minutes - hours * 60, "mins")]
    {
        if value != 0 {
            parts.push(format!("{value} {name}"));
        }
    }
    let (seconds, millis) = (seconds - minutes * 60, millis % 1000);
    if seconds != 0 || millis != 0 {
        let sign = if seconds < 0 || millis < 0 { "-" } else { "" };
        parts.push(format!("{sign}{}.{:03} secs", seconds.abs(), millis.abs()));
    }
    if parts.is_empty() { "0 secs".to_owned() } else { parts.join(" ") }
}

/// The digits of an integer of any length, from its bytes in two's complement, the highest first; `scale` of them after
/// the point.
pub(in crate::parquet) fn decimal(bytes: &[u8], scale: i32) -> String {
    let is_negative = bytes.first().is_some_and(|&byte| byte & 0x80 != 0);
    // The magnitude: a negative number's bits turned, plus one.
    let mut carry = is_negative;
    let mut magnitude: Vec<u8> = bytes
        .iter()
        .rev()
        .map(|&byte| {
            let (byte, over) = (if is_negative { !byte } else { byte }).overflowing_add(carry.into());
            carry = over;
            byte
        })
        .collect();
    // Digits from the last one on, nine at a time, by long division.
    let mut digits: Vec<u8> = Vec::new();
    while magnitude.last().is_some_and(|&byte| byte == 0) {
        magnitude.pop();
    }
    while !magnitude.is_empty() {
        let mut rest = 0_u64;
        for byte in magnitude.iter_mut().rev() {
            let part = rest << 8 | u64::from(*byte);
            *byte = (part / 1_000_000_000) as u8;
            rest = part % 1_000_000_000;
        }
        while magnitude.last().is_some_and(|&byte| byte == 0) {
            magnitude.pop();
        }
        for _ in 0..9 {
            digits.push(b'0' + (rest % 10) as u8);
            rest /= 10;
        }
    }
    let after = usize::try_from(scale).unwrap_or(0);
    while digits.len() > after + 1 && digits.last() == Some(&b'0') {
        digits.pop();
    }
    digits.resize(digits.len().max(after + 1), b'0');
    if after > 0 {
        digits.insert(after, b'.');
    }
    if is_negative {
        digits.push(b'-');
    }
    digits.reverse();
    String::from_utf8_lossy(&digits).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_all_their_digits() {
        for (bytes, scale, text) in [
            (150_i32.to_be_bytes().to_vec(), 2, "1.50"),
            ((-5_i32).to_be_bytes().to_vec(), 2, "-0.05"),
            (vec![0], 0, "0"),
            (vec![0, 0], 3, "0.000"),
            (vec![], 0, "0"),
            (vec![0x80], 0, "-128"),
            (i128::MIN.to_be_bytes().to_vec(), 0, "-170141183460469231731687303715884105728"),
            (i128::MAX.to_be_bytes().to_vec(), 38, "1.70141183460469231731687303715884105727"),
            (1_000_000_000_000_000_000_i64.to_be_bytes().to_vec(), 9, "1000000000.000000000"),
        ] {
            assert_eq!(decimal(&bytes, scale), text);
        }
        for value in [i64::MIN, -1_000_000_001, -1, 0, 7, 999_999_999, 1_000_000_000, i64::MAX] {
            assert_eq!(decimal(&value.to_be_bytes(), 0), value.to_string());
        }
    }

    #[test]
    fn times_are_iso_8601() {
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(i32::MAX), "2147483647 days since 1970-01-01");
        assert_eq!(time(SecondPart::Milli, 86_399_001), "23:59:59.001");
        assert_eq!(time(SecondPart::Micro, -1), "-1 Microseconds since midnight");
        assert_eq!(moment(SecondPart::Micro, None, -1), "1969-12-31T23:59:59.999999");
        assert_eq!(moment(SecondPart::Nano, Some(0), 1_500_000_000), "1970-01-01T00:00:01.500Z");
        assert_eq!(
            moment(SecondPart::Micro, Some(0), i64::MAX),
            "9223372036854775807 Microseconds since 1970-01-01"
        );
        assert_eq!(moment(SecondPart::Whole, Some(-5400), 0), "1969-12-31T22:30:00-01:30");
        assert_eq!(duration(SecondPart::Milli, 90_500), "PT90.5S");
        assert_eq!(duration(SecondPart::Whole, -1), "-PT1S");
        // Noon of 1970-01-02: nanoseconds of the day, and the day.
        let noon = 43_200_000_000_000_u64;
        assert_eq!(int96(&[noon as u32, (noon >> 32) as u32, 2_440_589], None), "1970-01-02T12:00:00");
    }

    #[test]
    fn intervals_name_their_parts() {
        let of = |months: i32, days: i32, millis: i32| {
            interval(&[months.to_le_bytes(), days.to_le_bytes(), millis.to_le_bytes()].concat())
        };
        assert_eq!(of(0, 0, 0), "0 secs");
        assert_eq!(of(1, 2, 11_045_006), "1 mons 2 days 3 hours 4 mins 5.006 secs");
        assert_eq!(of(0, 0, -1_500), "-1.500 secs");
        assert_eq!(of(0, 0, 3_600_000), "1 hours");
    }
}
