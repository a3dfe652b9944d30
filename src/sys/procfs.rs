//! The little that supervision reads from /proc (proc(5)): cheap, and never trusting a pid without its start time.

use std::fs;
use std::io::Read;
use std::time::Duration;

/// More than /proc/vmstat has on any kernel so far (4 kB on 6.18); a longer one is read too, only slower.
const VMSTAT_BYTES: usize = 16 << 10;

/// One process as /proc/PID/stat tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcStat {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid.
    pub ppid: u32,
    /// The session it belongs to.
    pub session: u32,
    /// `Z` for one that has ended and is not reaped yet.
    pub state: u8,
    /// User and system time, in clock ticks.
    pub cpu_ticks: u64,
    /// User and system time of its reaped children, in clock ticks.
    pub children_ticks: u64,
    /// When it started, in clock ticks after boot: with the pid, an identity.
    pub start_time: u64,
    /// Resident memory, in pages.
    pub rss_pages: u64,
}

impl ProcStat {
    /// Ended, only waiting to be reaped.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Parses the text of a `stat` file. The name in parentheses may hold anything, parentheses too, so it ends at the last one.
pub fn parse_stat(text: &[u8]) -> Option<ProcStat> {
    let open = memchr::memchr(b'(', text)?;
    let close = memchr::memrchr(b')', text)?;
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.trim().parse::<u64>().ok();
    let pid = number(text.get(..open)?)? as u32;
    let mut rest = text.get(close + 2..)?.split(|byte| *byte == b' ');
    let state = *rest.next()?.first()?;
    let fields: [u64; 21] = {
        let mut all = [0_u64; 21];
        for slot in &mut all {
            let field = rest.next()?;
            // Fields such as tpgid and priority are signed; none of those we use is negative.
            *slot = number(field).unwrap_or(0);
        }
        all
    };
    Some(ProcStat {
        pid,
        state,
        ppid: fields[0] as u32,
        session: fields[2] as u32,
        cpu_ticks: fields[10] + fields[11],
        children_ticks: fields[12] + fields[13],
        start_time: fields[18],
        rss_pages: fields[20],
    })
}

/// The process with this pid, if there is one.
pub fn stat(pid: u32) -> Option<ProcStat> {
    let mut file = fs::File::open(format!("/proc/{pid}/stat")).ok()?;
    let mut buffer = [0_u8; 1024];
    let length = file.read(&mut buffer).ok()?;
    parse_stat(&buffer[..length])
}

/// What a process's main thread has had of the processors since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadTimes {
    /// It ran.
    pub ran: Duration,
    /// It could have run, and waited for a processor.
    pub waited: Duration,
}

/// Of this process. None if there is no such process, or the kernel does not count that (CONFIG_SCHED_INFO).
pub fn main_thread_times(pid: u32) -> Option<ThreadTimes> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let mut fields = text.split_whitespace().map(|field| field.parse().ok());
    let mut next = || fields.next().flatten().map(Duration::from_nanos);
    let (ran, waited) = (next()?, next()?);
    // Where nothing is counted all are 0, and nobody has run for no time at all.
    (!ran.is_zero()).then_some(ThreadTimes { ran, waited })
}

/// Every process that can be seen.
pub fn all() -> Vec<ProcStat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(stat)
        .collect()
}

/// The children of a process, of any of its threads, without looking at others (needs CONFIG_PROC_CHILDREN; `None` without).
pub fn children(pid: u32) -> Option<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = match fs::read_to_string(task.path().join("children")) {
            Ok(text) => text,
            // A thread may end while we look; the file missing for a live one means the kernel lacks it.
            Err(_) if !task.path().exists() => continue,
            Err(_) => return None,
        };
        children.extend(
            text.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    Some(children)
}

/// The value of a variable in the environment that the process was started with.
pub fn environ_value(pid: u32, name: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// Whether the process was started with this `NAME=value` in its environment.
pub fn environ_has(pid: u32, entry: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|byte| *byte == 0)
            .any(|line| line == entry.as_bytes())
    })
}

/// The short name of a process (`comm`), for messages.
pub fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()
        .map(|name| name.trim_end().to_owned())
}

/// The kernel's count of out-of-memory kills since boot (`oom_kill` in /proc/vmstat).
pub fn oom_kills() -> Option<u64> {
    let mut file = fs::File::open("/proc/vmstat").ok()?;
    // The kernel adds all of it up anew for every read(2): room for the whole makes it one, 27 us and not 200.
    let mut text = Vec::with_capacity(VMSTAT_BYTES);
    file.read_to_end(&mut text).ok()?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let count = lines.find_map(|line| line.strip_prefix(b"oom_kill "))?;
    std::str::from_utf8(count).ok()?.trim().parse().ok()
}

/// What a process has read and written, as /proc/PID/io tells it. Needs the rights of a debugger for another user's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcIo {
    /// Bytes by read(2) and its like, from wherever (`rchar`).
    pub read: u64,
    /// Bytes that had to come from a disk, mapped pages too (`read_bytes`).
    pub fetched: u64,
    /// Bytes by write(2) and its like (`wchar`).
    pub written: u64,
}

/// The counters of a process; `None` if they cannot be read.
pub fn io(pid: u32) -> Option<ProcIo> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(ProcIo {
        read: field("rchar:")?,
        fetched: field("read_bytes:")?,
        written: field("wchar:")?,
    })
}

/// How often each thread of a process but its first gave up the processor, by thread id; ascending.
pub fn thread_switches(pid: u32) -> Vec<(u32, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut threads: Vec<(u32, u64)> = tasks
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|thread| *thread != pid)
        .filter_map(|thread| {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
            let counts = text
                .lines()
                .filter_map(|line| line.split_once("ctxt_switches:"))
                .filter_map(|(_, count)| count.trim().parse::<u64>().ok());
            Some((thread, counts.sum()))
        })
        .collect();
    threads.sort_unstable();
    threads
}

/// Clock ticks in a second.
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes an integer and returns one.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks)
        .ok()
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// Bytes in a page.
pub fn page_size() -> u64 {
    // SAFETY: sysconf takes an integer and returns one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size)
        .ok()
        .filter(|size| *size > 0)
        .unwrap_or(4096)
}

/// Who listens on a TCP port of this machine: the pids that can be seen holding such a socket. Empty when nobody can be named.
pub fn listeners(port: u16) -> Vec<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| {
            text.lines()
                .skip(1)
                .filter_map(|line| listening_inode(line, port))
                .collect::<Vec<_>>()
        })
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let holds = |pid: u32| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
            fds.flatten().any(|fd| {
                fs::read_link(fd.path())
                    .is_ok_and(|to| inodes.iter().any(|inode| to.as_os_str() == inode.as_str()))
            })
        })
    };
    all()
        .into_iter()
        .map(|process| process.pid)
        .filter(|pid| holds(*pid))
        .collect()
}

/// The socket's name as fd links show it, if this line of /proc/net/tcp is a listener on the port.
fn listening_inode(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let of_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()? == port;
    (of_port && state == "0A").then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = b"42 (a) b (c)) S 7 42 40 0 -1 4194304 1 2 3 4 11 22 33 44 20 0 1 0 987 1000 55 18446744073709551615 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.pid, stat.ppid, stat.session, stat.state),
            (42, 7, 40, b'S')
        );
        assert_eq!(
            (
                stat.cpu_ticks,
                stat.children_ticks,
                stat.start_time,
                stat.rss_pages
            ),
            (33, 77, 987, 55)
        );
    }

    #[test]
    fn rubbish_is_no_process() {
        for text in [
            &b""[..],
            b"1",
            b"1 (x",
            b"1 (x) S",
            b") (",
            b"x (y) S 1 2 3",
        ] {
            assert_eq!(parse_stat(text), None);
        }
    }

    #[test]
    fn this_process_is_seen_with_its_parent() {
        let me = stat(std::process::id()).unwrap();
        assert_eq!(me.ppid, std::os::unix::process::parent_id());
        assert!(me.rss_pages > 0);
        assert!(all().iter().any(|process| process.pid == me.pid));
    }
}
