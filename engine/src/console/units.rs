//! Numbers with their units, for people.

/// `1.5 GB`; powers of ten, as disks and devices are sold.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = unit_of(bytes);
    format!("{:.1} {name}", bytes as f64 / unit)
}

/// As [`size`], never less than `bytes`.
pub(crate) fn size_at_least(bytes: u64) -> String {
    let (unit, name) = unit_of(bytes);
    format!("{:.1} {name}", (bytes as f64 / unit * 10.0).ceil() / 10.0)
}

fn unit_of(bytes: u64) -> (f64, &'static str) {
    match bytes as f64 {
        b if b >= 1e12 => (1e12, "TB"),
        b if b >= 1e9 => (1e9, "GB"),
        b if b >= 1e6 => (1e6, "MB"),
        _ => (1e3, "kB"),
    }
}

/// `8.03 billion`.
pub(crate) fn count(number: u64) -> String {
    match number as f64 {
        n if n >= 1e9 => format!("{:.2} billion", n / 1e9),
        n if n >= 1e6 => format!("{:.1} million", n / 1e6),
        n => format!("{n:.0}"),
    }
}

/// A time in the unit that suits it, to two or three digits: `20.0 ms`, `1.5 h`, `3.5 days`; `-` of no number.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "-".to_owned(),
        s if s >= 72.0 * 3600.0 => format!("{:.1} days", s / 86_400.0),
        s if s >= 5400.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 90.0 => format!("{:.1} min", s / 60.0),
        s if s >= 0.1 => format!("{s:.1} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_powers_of_ten() {
        assert_eq!(size(1_500_000_000), "1.5 GB");
        assert_eq!(size(1_540_000_000), "1.5 GB");
        assert_eq!(size_at_least(1_510_000_000), "1.6 GB");
        assert_eq!(size(999), "1.0 kB");
    }

    #[test]
    fn large_counts_are_words() {
        assert_eq!(count(8_030_261_248), "8.03 billion");
        assert_eq!(count(886_528), "886528");
    }

    #[test]
    fn durations_are_shown_in_one_unit() {
        let shown = [0.02, 12.34, 90.0, 5400.0, 300_000.0, f64::INFINITY].map(duration);
        assert_eq!(shown, ["20.0 ms", "12.3 s", "1.5 min", "1.5 h", "3.5 days", "-"]);
    }
}
