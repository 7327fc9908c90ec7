//! How the program's allocator treats freed memory.

/// Keeps freed memory with the process, and takes from the system only what is used. Runs by itself before `main` on
/// Linux: the first allocation reserves an arena by the options of that moment.
///
/// A training step frees and takes the same tensors again; pages that were returned to the system must be requested and zeroed again, a
/// fifth of a step's time at 110 million parameters. Arenas that are committed as a whole come in huge pages, which
/// makes a layer's few tensors cost nearly twice their size (both in docs/log.md).
pub extern "C" fn keep_freed_memory() {
    /// `mi_option_purge_delay`, which the bindings leave out; −1 is never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    /// `mi_option_arena_eager_commit`, likewise; 0 is no.
    const ARENA_EAGER_COMMIT: libmimalloc_sys::mi_option_t = 4;
    // SAFETY: sets numbers in the allocator's table of options.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
        libmimalloc_sys::mi_option_set(ARENA_EAGER_COMMIT, 0);
    }
}

#[cfg(target_os = "linux")]
#[used]
// SAFETY: the section holds functions without arguments that the C library calls before `main`; this one sets two numbers.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = keep_freed_memory;
