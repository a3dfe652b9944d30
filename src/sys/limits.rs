//! The limit of open files (getrlimit(2)), raised for ourselves and given back to what we start; and errors that say that
//! something is used up.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::sync::OnceLock;

static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises our soft limit of open files to the hard one; what it was is kept for [`for_children`]. A refusal leaves it.
pub fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    BEFORE.get_or_init(|| soft);
    // The hard limit may always be reached; only a policy beyond it (seccomp) refuses, and then the old one holds.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
}

/// The soft limit that a child is to have: programs that use select(2) break past 1024. `None`: ours was never changed.
pub fn for_children() -> Option<u64> {
    BEFORE.get().copied()
}

/// Whether this error says that something is used up, and can be had again without anybody's mending something.
pub fn is_starvation(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::EAGAIN
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::ENOSPC
        )
    )
}
