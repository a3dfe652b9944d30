//! The C library's heap, kept small: a daemon that is idle nearly always should not hold what a busy moment needed.

/// Heaps that threads may have. The library's own choice is eight a core, each with free space of its own.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Blocks of this size and above come from the kernel and go back to it at once (the library's default, in bytes; setting it
/// keeps the library from raising it after the first such block is freed).
#[cfg(target_env = "gnu")]
const OWN_MAPPING: libc::c_int = 128 << 10;

/// For the rest of the process. Before any thread is started.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; a refusal leaves the default.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
    }
}

/// Gives free pages back to the kernel. Blocking for as long as the free lists are long: tens of microseconds here.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
