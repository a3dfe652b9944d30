//! Resident memory, kept small: a daemon that is idle nearly always should not hold what a busy moment needed.

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

/// Unmaps the pages of program code that a start has touched, the daemon's own or that of many apps: nearly all of it, of which
/// an idle daemon uses a fifth. What is used again comes back by a minor fault from the page cache. Once after such a start, and
/// not in between: what a working daemon uses stays mapped, so that it is not the first to go when memory is short.
pub fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, length) in maps.lines().filter_map(code_range) {
        // SAFETY: the range is a private mapping of a file that is never written (no `w`, no text relocations), so dropping
        // its pages loses nothing: the kernel reads the same bytes again. An error leaves them where they are.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length, if this line of /proc/self/maps is code from a file. Data that is read-only after relocation is none: it
/// has been written and is no longer what the file says.
fn code_range(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let path = rest.split_ascii_whitespace().nth(4)?;
    let (start, end) = range.split_once('-')?;
    let at = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (at(start)?, at(end)?);
    (rest.starts_with("r-xp ") && path.starts_with('/')).then(|| (start, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_from_a_file_is_released_and_nothing_else() {
        for (line, want) in [
            (
                "1000-3000 r-xp 00001000 fe:00 42   /usr/bin/fornax",
                Some((0x1000, 0x2000)),
            ),
            (
                "1000-3000 r-xp 00001000 fe:00 42   /usr/bin/fornax (deleted)",
                Some((0x1000, 0x2000)),
            ),
            ("1000-3000 r--p 00001000 fe:00 42   /usr/bin/fornax", None),
            ("1000-3000 rwxp 00000000 fe:00 42   /usr/bin/fornax", None),
            ("1000-3000 r-xp 00000000 00:00 0    [vdso]", None),
            ("1000-3000 r-xp 00000000 00:00 0", None),
            ("rubbish", None),
        ] {
            assert_eq!(code_range(line), want, "{line}");
        }
    }

    #[test]
    fn code_that_was_released_still_runs() {
        release_code();
        trim();
        assert_eq!("a,b".split(',').count(), 2);
    }
}
