//! Memory of processes.

use std::process::Child;

/// The greatest resident set of this process so far, in bytes.
pub fn peak_rss_bytes() -> u64 {
    // SAFETY: getrusage fills the struct that it is given, and zeros are a valid one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    bytes(usage.ru_maxrss)
}

/// Waits for a process and gives its greatest resident set, in bytes.
///
/// # Panics
/// The process fails.
pub fn peak_rss_bytes_of(child: Child) -> u64 {
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours and nobody else waits for it; zeros are a valid rusage.
    let usage = unsafe {
        assert_eq!(libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()), pid);
        usage.assume_init()
    };
    assert_eq!(status, 0, "the process failed");
    bytes(usage.ru_maxrss)
}

/// Linux counts in kibibytes, macOS in bytes.
fn bytes(maximum: libc::c_long) -> u64 {
    u64::try_from(maximum).unwrap() * if cfg!(target_os = "macos") { 1 } else { 1024 }
}
