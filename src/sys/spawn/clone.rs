//! From clone to exec: the part of a spawn that runs in the child.

use super::UserIds;
use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// clone3(2); the libc crate's constants overflow their type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where the child failed, as it tells us through the error pipe.
#[repr(u8)]
#[derive(Clone, Copy)]
pub(super) enum Stage {
    Setup = 1,
    Chdir = 2,
    User = 3,
    Exec = 4,
}

/// What the child needs, in a form that takes no allocation to use.
pub(super) struct Prepared<'a> {
    pub program: *const libc::c_char,
    pub argv: &'a [*const libc::c_char],
    pub envp: &'a [*const libc::c_char],
    pub cwd: *const libc::c_char,
    pub fds: [RawFd; 3],
    pub channel: RawFd,
    pub user: Option<&'a UserIds>,
    pub sibling: bool,
    /// The soft limit of open files.
    pub files: Option<u64>,
    /// The signals that we ignore, a bit each.
    pub ignored: u64,
    /// Every signal is to be reset, not only those.
    pub reset_all: Cell<bool>,
    pub report: RawFd,
}

/// clone3 into the cgroup, or without it if the kernel refuses that; clone where clone3 itself is refused (old kernels, and
/// containers with an old seccomp profile).
pub(super) fn clone_child(
    prepared: &Prepared<'_>,
    cgroup: Option<&OwnedFd>,
) -> io::Result<(u32, OwnedFd, bool)> {
    if let Some(cgroup) = cgroup
        && let Ok((pid, pidfd)) = clone_clear(prepared, Some(cgroup))
    {
        return Ok((pid, pidfd, true));
    }
    let (pid, pidfd) = match clone_clear(prepared, None) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)
            ) =>
        {
            prepared.reset_all.set(true);
            clone_plain(prepared)?
        }
        cloned => cloned?,
    };
    Ok((pid, pidfd, false))
}

/// clone3, with all handlers of signals cleared in the child.
fn clone_clear(prepared: &Prepared<'_>, cgroup: Option<&OwnedFd>) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args; the fields used are set below.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if prepared.sibling {
        // It tells our parent as we do; clone3 wants no signal named then.
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let mut stack: Vec<u128> = Vec::new();
    if prepared.user.is_none() && cfg!(target_arch = "x86_64") {
        stack.reserve(STACK / size_of::<u128>());
        args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        args.stack = stack.as_mut_ptr() as u64;
        args.stack_size = (stack.capacity() * size_of::<u128>()) as u64;
    }
    // SAFETY: with a stack of its own the child borrows our memory, as in `clone_plain`; without, it works on a copy. Either
    // way it runs `entry` only, which never returns.
    let pid = unsafe { clone3(&mut args, prepared) }?;
    // SAFETY: the kernel has stored a new, close-on-exec descriptor there, and nobody else knows it.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The C library has no face for clone3, and only assembly can go on in the child, whose stack is another.
///
/// # Safety
/// What `args` points to must live until the child has been exec'ed or has ended.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &mut libc::clone_args, prepared: &Prepared<'_>) -> io::Result<u32> {
    let outcome: i64;
    // SAFETY: the system call's own convention (rcx and r11 are lost); the child calls `entry` on an aligned stack.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {prepared}",
            "call {entry}",
            "ud2",
            "2:",
            prepared = in(reg) std::ptr::from_ref(prepared),
            entry = in(reg) entry as *const (),
            inlateout("rax") libc::SYS_clone3 => outcome,
            in("rdi") std::ptr::from_mut(args),
            in("rsi") size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    u32::try_from(outcome).map_err(|_| io::Error::from_raw_os_error(-outcome as i32))
}

/// Elsewhere the child works on a copy of our memory and of our stack.
///
/// # Safety
/// What `args` points to must live until the child has been exec'ed or has ended.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3(args: &mut libc::clone_args, prepared: &Prepared<'_>) -> io::Result<u32> {
    let args: *mut libc::clone_args = args;
    // SAFETY: a valid clone_args without CLONE_VM.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args, size_of::<libc::clone_args>()) };
    match pid {
        0 => child_main(prepared),
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid as u32),
    }
}

/// Where a child begins that has a stack of its own.
extern "C" fn entry(prepared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the pointer given to clone; the thread that owns it waits, or this is a copy.
    child_main(unsafe { &*prepared.cast::<Prepared<'_>>() })
}

/// What the child needs of stack until exec, in bytes.
const STACK: usize = 32 << 10;

fn clone_plain(prepared: &Prepared<'_>) -> io::Result<(u32, OwnedFd)> {
    let mut flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    if prepared.user.is_none() {
        flags |= libc::CLONE_VM | libc::CLONE_VFORK;
    }
    if prepared.sibling {
        flags |= libc::CLONE_PARENT;
    }
    let mut pidfd: RawFd = -1;
    // Of 16-byte words, since a stack must be aligned so.
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    // No handler of ours may run in the child, which shares our memory: nothing is delivered until its signals are reset.
    let blocked = SignalsBlocked::now();
    // SAFETY: `stack` is large enough for `child_main`, which has small frames and never returns; it and `prepared` live
    // until the child has been exec'ed or has ended, since CLONE_VFORK keeps us here; without it the child has copies.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        let argument = std::ptr::from_ref(prepared).cast_mut().cast();
        libc::clone(entry, top.cast(), flags, argument, &raw mut pidfd)
    };
    let error = io::Error::last_os_error();
    drop(blocked);
    match pid {
        -1 => Err(error),
        // SAFETY: the kernel has stored a new, close-on-exec descriptor there, and nobody else knows it.
        pid => Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// All signals of this thread wait until this is dropped.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn now() -> Self {
        // SAFETY: both sets live on this stack; sigfillset and pthread_sigmask cannot fail with valid pointers.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: a set that the kernel filled in.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            );
        }
    }
}

/// The child, from clone to exec. Never returns, allocates nothing, takes no lock.
fn child_main(prepared: &Prepared<'_>) -> ! {
    let failed = match child_setup(prepared) {
        Ok(()) => {
            // SAFETY: the pointers come from live C strings and null-ended arrays of them.
            unsafe {
                libc::execve(
                    prepared.program,
                    prepared.argv.as_ptr(),
                    prepared.envp.as_ptr(),
                )
            };
            Stage::Exec
        }
        Err(stage) => stage,
    };
    let errno = nix::errno::Errno::last_raw().to_ne_bytes();
    let report = [failed as u8, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: five readable bytes and an open pipe; _exit ends the child without running anything of ours.
    unsafe {
        libc::write(prepared.report, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

fn child_setup(prepared: &Prepared<'_>) -> Result<(), Stage> {
    // SAFETY: raw calls on integers and on pointers that live in the copied memory; see the module's note.
    unsafe {
        check(libc::setsid(), Stage::Setup)?;
        reset_signals(prepared);
        for (target, source) in prepared.fds.iter().enumerate() {
            check(libc::dup2(*source, target as RawFd), Stage::Setup)?;
        }
        if prepared.channel >= 0 {
            check(libc::dup2(prepared.channel, 3), Stage::Setup)?;
        }
        if let Some(soft) = prepared.files {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = soft.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
        check(libc::chdir(prepared.cwd), Stage::Chdir)?;
    }
    prepared.user.map_or(Ok(()), take_user)
}

/// The kernel's own `struct sigaction`: handler, flags, restorer and mask, all zero for the default action.
type KernelSigaction = [u64; 4];

/// A child must not inherit that its parent ignored SIGINT: Python installs no handler then (comfyui-facts 4.7). By system
/// call, because the C library refuses its two own signals, which its posix_spawn leaves ignored in whoever started us.
fn reset_signals(prepared: &Prepared<'_>) {
    let default: KernelSigaction = [0; 4];
    let none = 0_u64;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: a readable action and a readable mask of the kernel's size, 8 bytes for 64 signals.
    unsafe {
        for signal in 1..=64 {
            // KILL and STOP can't be set: nothing to do about those.
            if prepared.reset_all.get() || prepared.ignored >> (signal - 1) & 1 == 1 {
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, 8);
            }
        }
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            null,
            8,
        );
    }
}

/// By system call, not by the C library, whose versions talk to all threads of a process, and here are none.
fn take_user(user: &UserIds) -> Result<(), Stage> {
    // SAFETY: integers, and one array with its length.
    unsafe {
        check(
            libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr())
                as libc::c_int,
            Stage::User,
        )?;
        check(
            libc::syscall(libc::SYS_setgid, user.gid) as libc::c_int,
            Stage::User,
        )?;
        check(
            libc::syscall(libc::SYS_setuid, user.uid) as libc::c_int,
            Stage::User,
        )
    }
}

fn check(outcome: libc::c_int, stage: Stage) -> Result<(), Stage> {
    if outcome < 0 { Err(stage) } else { Ok(()) }
}
