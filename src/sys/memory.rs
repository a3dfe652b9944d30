//! Files that lie in memory and have no name (memfd_create(2)).

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::CStr;
use std::fs::File;
use std::io;

/// An empty one, close-on-exec. It lives as long as any descriptor of it. `name` is for /proc only.
pub fn file(name: &CStr) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into())
}
