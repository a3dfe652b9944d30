//! The clock that every process of the machine shares and nobody can set.

/// Milliseconds of the monotonic clock (clock_gettime(2)): since boot, the time asleep not counted.
pub fn monotonic_ms() -> u64 {
    // SAFETY: all-zero is a valid timespec.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: a timespec of ours to fill in; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
