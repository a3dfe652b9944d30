//! Children that end with their parent.

use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The child is killed when the thread that starts it ends, however that comes (prctl(2), PR_SET_PDEATHSIG). What it has
/// started itself is not.
pub fn die_with_us(command: &mut Command) {
    let us = nix::unistd::getpid();
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the call.
            match nix::unistd::getppid() == us {
                true => Ok(()),
                false => Err(nix::errno::Errno::ESRCH.into()),
            }
        });
    }
}
