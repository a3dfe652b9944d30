//! Binding to processors: of this thread for a while, so that a child made meanwhile is born bound (sched_setaffinity(2)).

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::io;

/// This thread is bound until this is dropped.
#[derive(Debug)]
pub struct Bound {
    before: CpuSet,
}

/// Binds this thread to these processors; those that this machine, or our cgroup, does not have are left out by the kernel.
///
/// # Errors
/// None of them can be used (EINVAL), or a number is above 1023.
pub fn bind(processors: &[usize]) -> io::Result<Bound> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    let mut wanted = CpuSet::new();
    for processor in processors {
        wanted.set(*processor)?;
    }
    sched_setaffinity(this, &wanted)?;
    Ok(Bound { before })
}

impl Drop for Bound {
    fn drop(&mut self) {
        // What was allowed before is allowed again; a cgroup that has been narrowed meanwhile is the kernel's to respect.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_born_bound_and_its_parent_is_free_again() {
        let allowed = || {
            let output = std::process::Command::new("grep")
                .args(["Cpus_allowed_list", "/proc/self/status"])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let before = allowed();
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let first = (0..1024).find(|at| set.is_set(*at).unwrap()).unwrap();
        {
            let _bound = bind(&[first]).unwrap();
            assert_eq!(allowed(), format!("Cpus_allowed_list:\t{first}\n"));
        }
        assert_eq!(allowed(), before);
        assert!(bind(&[1023]).is_err() || set.is_set(1023).unwrap());
        assert!(bind(&[5000]).is_err());
    }
}
