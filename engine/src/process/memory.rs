//! How much memory the process has had.

/// Most bytes that were resident at once since the process began; `None` where the system does not say.
pub(crate) fn peak_bytes() -> Option<u64> {
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole struct that outlives the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return None;
    }
    let most = u64::try_from(usage.ru_maxrss).ok().filter(|&most| most > 0)?;
    // Apple counts bytes, others KiB.
    Some(if cfg!(target_vendor = "apple") { most } else { most * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_used_is_counted() {
        let before = peak_bytes().unwrap();
        let used = vec![1_u8; 64 << 20];
        assert!(used.iter().map(|&one| u64::from(one)).sum::<u64>() == 64 << 20);
        let after = peak_bytes().unwrap();
        assert!(after >= before && after >= 64 << 20, "{before} {after}");
    }
}
