//! When a failed request is tried again.

use std::time::{Duration, SystemTime};

use selfplay_records::counter;

/// The pause after the first failed try; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is waited for: a longer one means that a quota is used up.
pub(crate) const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// The pause after the `failed`-th failed try (from 1) of the request whose number is `request`: from half to all of a time that
/// doubles, by a number of its own, so that requests which failed together do not come back together.
pub(crate) fn pause(failed: u32, request: u64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)));
    let part = counter::key(request, [u64::from(failed)]) as f64 / u64::MAX as f64;
    doubled.min(LONGEST_PAUSE).mul_f64(0.5 + 0.5 * part)
}

/// The time that a `Retry-After` header asks for: seconds or a date.
pub(crate) fn asked(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = chrono::DateTime::parse_from_rfc2822(header).ok()?;
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(date.timestamp()).ok()?);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_bounds_and_differ_between_requests() {
        for failed in 1..12 {
            let most = (0.5 * f64::from(2_u32.pow(failed - 1))).min(60.0);
            for request in 0..50 {
                let pause = pause(failed, request).as_secs_f64();
                assert!((most / 2.0..=most).contains(&pause), "{failed} {pause}");
            }
        }
        let pauses: std::collections::BTreeSet<_> = (0..50).map(|request| pause(3, request)).collect();
        assert!(pauses.len() > 45, "{}", pauses.len());
        assert_eq!(pause(3, 7), pause(3, 7));
        assert!(pause(u32::MAX, 1) <= LONGEST_PAUSE);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480 - 30);
        assert_eq!(asked(" 20 ", now), Some(Duration::from_secs(20)));
        assert_eq!(asked("0.5", now), Some(Duration::from_millis(500)));
        // The date of RFC 9110's example, 30 s after `now`.
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:20:00 GMT", now), Some(Duration::ZERO));
        for wrong in ["", "soon", "-1", "nan"] {
            assert_eq!(asked(wrong, now), None, "{wrong}");
        }
    }
}
