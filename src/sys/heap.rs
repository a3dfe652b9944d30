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

/// Unmaps the pages of program code and constants that a start has touched, the daemon's own or that of many apps: nearly all
/// of it, of which an idle daemon uses a fifth. What is used again comes back by a minor fault from the page cache. Once after
/// such a start, and not in between: what a working daemon uses stays mapped, so that it is not the first to go when memory is
/// short.
pub fn release_program() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in program_ranges(&maps) {
        // SAFETY: the range is a private mapping of a file, not writable, and no page of it is our own copy, so dropping its
        // pages loses nothing: the kernel reads the same bytes again. An error leaves them where they are.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length of each mapping of /proc/self/smaps that is code or constants as the file has them. Data that is read-only
/// after relocation is not: it has been written, and its pages are ours (`Anonymous`).
fn program_ranges(smaps: &str) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    let mut open = None;
    for line in smaps.lines() {
        if let Some(range) = read_only(line) {
            open = range;
        } else if let Some(kilobytes) = line.strip_prefix("Anonymous:")
            && let Some(range) = open.take()
            && kilobytes.trim() == "0 kB"
        {
            ranges.push(range);
        }
    }
    ranges
}

/// `Some` for the first line of a mapping; `Some(Some(..))` if nobody can write there and it is of a file.
fn read_only(line: &str) -> Option<Option<(usize, usize)>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let at = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (at(start)?, at(end)?);
    let path = rest.split_ascii_whitespace().nth(4);
    let kept = (rest.starts_with("r-xp ") || rest.starts_with("r--p "))
        && path.is_some_and(|path| path.starts_with('/'));
    Some(kept.then(|| (start, end.saturating_sub(start))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_the_file_has_it_is_released_and_nothing_else() {
        let mapping = |line: &str, anonymous| {
            format!("{line}\nRss: 8 kB\nAnonymous:        {anonymous} kB\nVmFlags: rd\n")
        };
        for (line, anonymous, want) in [
            (
                "1000-3000 r-xp 00001000 fe:00 42   /usr/bin/fornax",
                0,
                true,
            ),
            (
                "1000-3000 r-xp 00001000 fe:00 42   /usr/bin/fornax (deleted)",
                0,
                true,
            ),
            (
                "1000-3000 r--p 00001000 fe:00 42   /usr/bin/fornax",
                0,
                true,
            ),
            (
                "1000-3000 r--p 00001000 fe:00 42   /usr/bin/fornax",
                8,
                false,
            ),
            (
                "1000-3000 rw-p 00001000 fe:00 42   /usr/bin/fornax",
                0,
                false,
            ),
            (
                "1000-3000 rwxp 00000000 fe:00 42   /usr/bin/fornax",
                0,
                false,
            ),
            ("1000-3000 r-xp 00000000 00:00 0    [vdso]", 0, false),
            ("1000-3000 r-xp 00000000 00:00 0", 0, false),
            ("rubbish", 0, false),
        ] {
            let found = program_ranges(&mapping(line, anonymous));
            let wanted = want.then_some((0x1000, 0x2000));
            assert_eq!(found, Vec::from_iter(wanted), "{line} {anonymous}");
        }
    }

    #[test]
    fn code_that_was_released_still_runs() {
        release_program();
        trim();
        assert_eq!("a,b".split(',').count(), 2);
    }
}
