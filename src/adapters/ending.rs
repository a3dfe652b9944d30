//! How the end of a root process is noticed: its pidfd becomes readable. Where the kernel has no room to tell it, the process is
//! looked at: no run is ever without a supervisor.

use super::keeper::Keeper;
use crate::core::exit::ExitCause;
use crate::core::keeping::Standing;
use crate::sys::pidfd;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How often a process is looked at whose end nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So often a process is looked at that ended as the child of a stranger, every 5 ms.
const REAPED_WITHIN: u32 = 40;

/// The end of one process. Owner: its runner.
#[derive(Debug)]
pub(super) struct Ending {
    pid: u32,
    pidfd: Option<AsyncFd<OwnedFd>>,
    gone: bool,
    keeper: Keeper,
}

impl Ending {
    /// Of a process whose pidfd could be had, or not. Within a runtime.
    pub fn of(pid: u32, pidfd: io::Result<OwnedFd>, keeper: Keeper) -> Self {
        let (pidfd, gone) = match pidfd.and_then(watched) {
            Ok(pidfd) => (Some(pidfd), false),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => (None, true),
            Err(error) => {
                tracing::error!(pid, %error, "the kernel cannot tell when this process ends; it is looked at ten times a second");
                (None, false)
            }
        };
        Self {
            pid,
            pidfd,
            gone,
            keeper,
        }
    }

    /// Of a process that had ended before it could be watched.
    pub fn past(pid: u32, keeper: Keeper) -> Self {
        Self {
            pid,
            pidfd: None,
            gone: true,
            keeper,
        }
    }

    /// Waits until it has ended.
    pub async fn come(&self) {
        if self.gone {
            return;
        }
        if let Some(pidfd) = &self.pidfd {
            match pidfd.readable().await {
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(pid = self.pid, %error, "cannot wait for a child; it is looked at")
                }
            }
        }
        while self.lives().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn lives(&self) -> bool {
        match self.keeper.standing(self.pid).await {
            Standing::Alive => true,
            Standing::Ended(_) => false,
            // The child of whoever has inherited it. It takes no descriptor to ask for a pid.
            Standing::Unknown => {
                let pid = i32::try_from(self.pid).map(Pid::from_raw);
                pid.is_ok_and(|pid| kill(pid, None) != Err(Errno::ESRCH))
            }
        }
    }

    /// How it has ended whose parent is not our keeper but whoever has inherited it.
    pub async fn of_stranger(&self) -> ExitCause {
        if let Some(pidfd) = &self.pidfd {
            for _ in 0..REAPED_WITHIN {
                if let Some(cause) = pidfd::exit_of_stranger(pidfd.get_ref()) {
                    return cause;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        ExitCause::Unknown
    }
}

#[expect(
    deprecated,
    reason = "the safe constructor; an OwnedFd is never swapped under the poller here"
)]
fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// How long an end that has come may take to be noticed.
    const SOON: Duration = Duration::from_secs(30);

    async fn is_noticed(pidfd: impl FnOnce(u32) -> io::Result<OwnedFd>) {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let ending = Ending::of(child.id(), pidfd(child.id()), Keeper::default());
        let early = tokio::time::timeout(3 * LOOK_EVERY, ending.come()).await;
        assert!(early.is_err(), "it lives");
        child.kill().unwrap();
        tokio::time::timeout(SOON, ending.come()).await.unwrap();
        child.wait().unwrap();
        // Reaped by another parent: still no reason to wait for ever.
        tokio::time::timeout(SOON, ending.come()).await.unwrap();
    }

    #[tokio::test]
    async fn an_end_is_noticed_with_and_without_the_kernels_word() {
        is_noticed(pidfd::open).await;
        is_noticed(|_| Err(io::Error::from_raw_os_error(libc::EMFILE))).await;
        is_noticed(|_| Err(io::Error::from_raw_os_error(libc::ENOSPC))).await;
    }

    #[tokio::test]
    async fn what_has_gone_is_not_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let ending = Ending::of(child.id(), pidfd::open(child.id()), Keeper::default());
        tokio::time::timeout(SOON, ending.come()).await.unwrap();
        let past = Ending::past(child.id(), Keeper::default());
        tokio::time::timeout(SOON, past.come()).await.unwrap();
    }
}
