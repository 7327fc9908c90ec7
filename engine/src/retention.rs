//! Which training checkpoints go, decided purely.

/// Steps to remove: all but the newest `keep`, oldest first.
///
/// `keep = None` keeps every one. Within an iteration one is kept by default; when the iteration's `policy/`
/// is written none is needed any more.
pub fn removals(present: &[u64], keep: Option<usize>) -> Vec<u64> {
    let mut steps = present.to_vec();
    steps.sort_unstable();
    steps.dedup();
    let kept = keep.unwrap_or(steps.len()).min(steps.len());
    steps.truncate(steps.len() - kept);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        assert_eq!(removals(&[400, 200, 600], Some(1)), [200, 400]);
        assert_eq!(removals(&[400, 200, 600], Some(2)), [200]);
        assert_eq!(removals(&[400, 200], Some(5)), [0_u64; 0]);
        assert_eq!(removals(&[400, 200], Some(0)), [200, 400]);
        assert_eq!(removals(&[400, 200], None), [0_u64; 0]);
        assert_eq!(removals(&[], Some(1)), [0_u64; 0]);
    }
}
