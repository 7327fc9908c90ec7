//! How the program's allocator treats freed memory.

/// Keeps freed memory with the process. A training step frees and takes the same tensors again; pages that went back
/// to the system come anew and zeroed, a fifth of a step's time at 110 million parameters (docs/log.md).
pub fn keep_freed_memory() {
    /// `mi_option_purge_delay`, which the bindings leave out; −1 is never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number in the allocator's table of options.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
