//! What a keeper leaves for itself when it executes a newer program in its place.

use super::daemon::Program;
use super::table::Table;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{self, Held, Key};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The first line. A later version that writes more adds lines, which this one passes over.
const TITLE: &str = "fornax keeper 1";

/// What is remembered.
#[derive(Debug)]
pub struct Memory {
    /// The daemon's pid.
    pub pid: u32,
    /// Our end of the socket to it.
    pub socket: RawFd,
    /// What is held.
    pub held: Vec<(Key, RawFd)>,
}

impl Memory {
    /// Of these.
    pub fn of(pid: u32, socket: &OwnedFd, table: &Table) -> Self {
        let held = table.entries().iter();
        Self {
            pid,
            socket: socket.as_raw_fd(),
            held: held.map(|(key, fd)| (*key, fd.as_raw_fd())).collect(),
        }
    }

    /// Written to a memory file that survives exec, as do the descriptors it names.
    pub fn leave(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"fornax-keeper", MFdFlags::empty())?);
        writeln!(file, "{TITLE}\n{} {}", self.pid, self.socket)?;
        for (key, fd) in &self.held {
            let number = key.held as u8;
            writeln!(file, "{number} {} {} {fd}", key.id, key.generation)?;
        }
        self.keep_over_exec(true)?;
        Ok(file.into())
    }

    /// Executes another program in our place, which recalls this. It returns only if that fails; then all is as it was.
    pub fn become_program(&self, program: &Program) -> io::Error {
        let executed = self.leave().and_then(|left| {
            let path = CString::new(program.path().into_os_string().into_vec())?;
            let mut env = Vec::new();
            let kept = std::env::vars_os().filter(|(name, _)| {
                name != keeping::MEMORY_VARIABLE && name != keeping::ORPHAN_VARIABLE
            });
            for (name, value) in kept {
                let line = [name.as_bytes(), b"=", value.as_bytes()].concat();
                env.push(CString::new(line)?);
            }
            let memory = format!("{}={}", keeping::MEMORY_VARIABLE, left.as_raw_fd());
            env.push(CString::new(memory)?);
            let title = std::env::args_os().next().unwrap_or_default();
            let args = [CString::new(title.into_vec())?, c"daemon".to_owned()];
            Ok(nix::unistd::execve(&path, &args, &env)?)
        });
        // Nothing of ours is for what we start.
        let _ = self.keep_over_exec(false);
        match executed {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Read by whoever was executed.
    pub fn recall(fd: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(fd);
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        let memory = Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "not what a keeper leaves")
        })?;
        memory.keep_over_exec(false)?;
        Ok(memory)
    }

    /// Whether the descriptors stay open when another program is executed.
    pub fn keep_over_exec(&self, kept: bool) -> io::Result<()> {
        let flag = if kept {
            FdFlag::empty()
        } else {
            FdFlag::FD_CLOEXEC
        };
        let all = self.held.iter().map(|(_, fd)| *fd).chain([self.socket]);
        for fd in all {
            let fd = crate::sys::fds::known(fd);
            fcntl(fd, FcntlArg::F_SETFD(flag))?;
        }
        Ok(())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let (pid, socket) = lines.next()?.split_once(' ')?;
        let held = lines.filter_map(|line| {
            let mut words = line.split(' ');
            let held = Held::of_number(words.next()?.parse().ok()?)?;
            let id = PmId(words.next()?.parse().ok()?);
            let generation = Generation(words.next()?.parse().ok()?);
            Some((Key::run(held, id, generation), words.next()?.parse().ok()?))
        });
        Some(Self {
            pid: pid.parse().ok()?,
            socket: socket.parse().ok()?,
            held: held.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_recalls_what_it_left() {
        let open = |held| {
            let fd: OwnedFd = File::open("/dev/null").unwrap().into();
            (Key::run(held, PmId(3), Generation(9)), fd)
        };
        let mut table = Table::default();
        for (key, fd) in [open(Held::Output), open(Held::Listener)] {
            table.hold(key, fd);
        }
        let socket: OwnedFd = File::open("/dev/null").unwrap().into();
        let left = Memory::of(4711, &socket, &table);
        let recalled = Memory::recall(left.leave().unwrap()).unwrap();
        assert_eq!((recalled.pid, recalled.socket), (4711, socket.as_raw_fd()));
        assert_eq!(recalled.held, left.held);
        assert!(Memory::parse("something else\n1 2\n").is_none());
    }
}
