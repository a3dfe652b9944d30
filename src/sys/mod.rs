//! Thin, safe faces over system calls: the only place with `unsafe` code.
#![allow(unsafe_code)]

pub mod affinity;
pub mod batch;
pub mod cgroup;
pub mod clock;
pub mod fdpass;
pub mod fds;
pub mod files;
pub mod heap;
pub mod limits;
pub mod localtime;
pub mod lockfile;
pub mod memory;
pub mod memory_room;
pub mod notify;
pub mod owner;
pub mod packets;
pub mod parent;
pub mod pidfd;
pub mod private;
pub mod procfs;
pub mod program;
pub mod shm;
pub mod signals;
pub mod spawn;
pub mod versions;
