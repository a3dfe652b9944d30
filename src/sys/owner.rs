//! A command that a daemon belongs to, named so that no other process can be taken for it.

use super::{pidfd, procfs};
use std::io;
use std::os::fd::OwnedFd;

/// Names the command to the daemon that it starts and to that one's successors: its pid and its start time (proc_pid_stat(5), in
/// ticks), with a colon between.
pub const VARIABLE: &str = "FORNAX_OWNER";

/// This process, in these words. `None` if the kernel does not tell when it began.
pub fn ourselves() -> Option<String> {
    let pid = std::process::id();
    Some(format!("{pid}:{}", procfs::stat(pid)?.start_time))
}

/// Whom a daemon belongs to.
#[derive(Debug)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// A command that has ended.
    Ended,
    /// It can't be told whether it runs.
    Unknown(io::Error),
    /// A command that runs; this is readable once it has ended.
    Running(OwnedFd),
}

impl Owner {
    /// As this process's environment says.
    pub fn from_env() -> Self {
        let named = std::env::var(VARIABLE).ok();
        named
            .as_deref()
            .and_then(parse)
            .map_or(Self::Nobody, Self::find)
    }

    fn find((pid, began): (u32, u64)) -> Self {
        // Opened first: what is looked at then is what is waited for.
        let pidfd = match pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Self::Ended,
            // Want of descriptors is no reason to end everything.
            Err(error) => return Self::Unknown(error),
        };
        match procfs::stat(pid) {
            Some(stat) if stat.start_time != began => Self::Ended,
            // The descriptor tells soon if it has ended.
            Some(_) | None => Self::Running(pidfd),
        }
    }
}

fn parse(text: &str) -> Option<(u32, u64)> {
    let (pid, began) = text.split_once(':')?;
    Some((pid.parse().ok()?, began.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_pid_and_a_start_time() {
        assert_eq!(parse("12:345"), Some((12, 345)));
        for wrong in ["", "12", "12:", ":3", "a:3", "-1:3"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let us = ourselves().as_deref().and_then(parse);
        assert_eq!(us.map(|(pid, _)| pid), Some(std::process::id()));
    }

    #[test]
    fn another_process_with_its_pid_is_not_taken_for_it() {
        let us = std::process::id();
        let began = procfs::stat(us).map_or(0, |stat| stat.start_time);
        assert!(matches!(Owner::find((us, began)), Owner::Running(_)));
        assert!(matches!(Owner::find((us, began + 1)), Owner::Ended));
    }
}
