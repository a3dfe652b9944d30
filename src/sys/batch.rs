//! SCHED_BATCH for a process of ours (sched_setscheduler(2)): woken, it takes the processor from nobody, and finds more to do when its
//! turn comes. Its share of processor time stays the same.

use nix::libc;
use std::io;

/// How a process is scheduled, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// As usual (SCHED_OTHER).
    Usual,
    /// In batches (SCHED_BATCH).
    Batch,
    /// Otherwise: somebody has decided that.
    Other,
}

/// Of the main thread of this process.
///
/// # Errors
/// There is no such process (ESRCH).
pub fn policy(pid: u32) -> io::Result<Policy> {
    // SAFETY: one number goes in, one comes out.
    let told = unsafe { libc::syscall(libc::SYS_sched_getscheduler, pid as libc::pid_t) };
    match libc::c_int::try_from(told) {
        Ok(libc::SCHED_OTHER) => Ok(Policy::Usual),
        Ok(libc::SCHED_BATCH) => Ok(Policy::Batch),
        Ok(other) if other >= 0 => Ok(Policy::Other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Turns it on or off, for the main thread. Nice levels stay. What it starts from then on is born with it.
///
/// # Errors
/// There is no such process (ESRCH), or it is somebody else's (EPERM).
pub fn set(pid: u32, batch: bool) -> io::Result<()> {
    let policy = if batch {
        libc::SCHED_BATCH
    } else {
        libc::SCHED_OTHER
    };
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one sched_param, which outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            pid as libc::pid_t,
            policy,
            &raw const param,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn it_is_on_until_it_is_off() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = sleeper.id();
        assert_eq!(policy(pid).unwrap(), Policy::Usual);
        set(pid, true).unwrap();
        assert_eq!(policy(pid).unwrap(), Policy::Batch);
        set(pid, false).unwrap();
        assert_eq!(policy(pid).unwrap(), Policy::Usual);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let gone = policy(pid).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ESRCH));
    }
}
