//! A small file system of its own, to be filled up.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs; unmounted at the end.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at a folder, which is made. `None`, told on standard output, where that right is missing.
    pub fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let done = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700"),
                "tmpfs",
            ])
            .arg(at)
            .output();
        let mounted = done.is_ok_and(|output| output.status.success());
        if !mounted {
            println!(
                "NOT TESTED: a full disk; there is no right to mount a tmpfs (root is needed)"
            );
        }
        mounted.then(|| Self(at.to_owned()))
    }

    /// Fills it to the last page. The file to remove again.
    pub fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        let page = [0_u8; 4096];
        while std::io::Write::write_all(&mut file, &page).is_ok() {}
        ballast
    }

    /// Makes it read-only for whatever is opened from now on, or writable again. By a mount on top of it: the kernel makes no
    /// file system read-only in which files are being written.
    pub fn read_only(&self, read_only: bool) {
        let run = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).arg(&self.0).status();
            assert!(done.unwrap().success(), "{program} {args:?}");
        };
        if read_only {
            run("mount", &["--bind", self.0.to_str().unwrap()]);
            run("mount", &["-o", "remount,ro,bind"]);
        } else {
            run("umount", &["-l"]);
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .output()
            .unwrap();
    }
}
