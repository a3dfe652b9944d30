//! What the prelude asks of the machine: files, names and figures. Answers are JSON: `{"value": …}` or `{"error": {…}}`.

use nix::errno::Errno;
use serde_json::{Value, json};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The most entries of a folder that are told.
const ENTRIES: usize = 100_000;

/// A plain file's bytes, at most `limit`. Pipes and devices would block or never end.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::other(format!(
            "it holds more than {limit} bytes"
        ))),
        false => Ok(bytes),
    }
}

/// Answers one question.
pub(super) fn answer(op: &str, args: &str) -> String {
    let args: Vec<Value> = serde_json::from_str(args).unwrap_or_default();
    let text = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
    let path = Path::new(text(0));
    let value = match op {
        "stat" => path.metadata().map(|meta| stat(&meta)),
        "lstat" => path.symlink_metadata().map(|meta| stat(&meta)),
        // Opened without waiting: a pipe has no writer.
        "readable" => path.metadata().and_then(|meta| match meta.is_dir() {
            true => Err(Errno::EISDIR.into()),
            false => nix::unistd::access(path, nix::unistd::AccessFlags::R_OK)
                .map(|()| Value::Null)
                .map_err(io::Error::from),
        }),
        "access" => {
            let mode = args
                .get(1)
                .and_then(Value::as_i64)
                .and_then(|mode| i32::try_from(mode).ok())
                .unwrap_or_default();
            let flags = nix::unistd::AccessFlags::from_bits_truncate(mode);
            nix::unistd::access(path, flags)
                .map(|()| Value::Null)
                .map_err(io::Error::from)
        }
        "text" => read(path, super::FILE).map(|bytes| String::from_utf8_lossy(&bytes).into()),
        "readdir" => readdir(path),
        "realpath" => path
            .canonicalize()
            .map(|path| path.to_string_lossy().into()),
        "readlink" => path.read_link().map(|path| path.to_string_lossy().into()),
        "url" => return url_parts(text(0), args.get(1).and_then(Value::as_str)),
        "fileURLToPath" => return file_path(text(0)),
        "pathToFileURL" => url::Url::from_file_path(path)
            .map(|url| url.as_str().into())
            .map_err(|()| Errno::EINVAL.into()),
        _ => Ok(machine(op)),
    };
    match value {
        Ok(value) => json!({ "value": value }).to_string(),
        Err(error) if error.raw_os_error().is_none() => {
            json!({"error": {"message": format!("{}: {error}", path.display()), "code": "EINVAL"}})
                .to_string()
        }
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            // Node's form of the message.
            let call = if op == "readdir" {
                "scandir"
            } else if op == "readable" {
                "open"
            } else {
                op
            };
            let message = format!(
                "{errno:?}: {}, {call} '{}'",
                errno.desc().to_lowercase(),
                path.display()
            );
            json!({"error": {"message": message, "code": format!("{errno:?}"), "errno": -(errno as i32), "syscall": call, "path": path.display().to_string()}}).to_string()
        }
    }
}

fn kind(kind: fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_file() => "file",
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "link",
        kind if kind.is_fifo() => "fifo",
        kind if kind.is_socket() => "socket",
        kind if kind.is_block_device() => "block",
        _ => "character",
    }
}

fn stat(meta: &Metadata) -> Value {
    let ms = |seconds: i64, nanos: i64| seconds * 1000 + nanos / 1_000_000;
    json!({
        "kind": kind(meta.file_type()), "size": meta.len(), "mode": meta.mode(), "uid": meta.uid(), "gid": meta.gid(), "ino": meta.ino(), "dev": meta.dev(), "nlink": meta.nlink(),
        "mtimeMs": ms(meta.mtime(), meta.mtime_nsec()), "ctimeMs": ms(meta.ctime(), meta.ctime_nsec()), "atimeMs": ms(meta.atime(), meta.atime_nsec()),
    })
}

fn readdir(path: &Path) -> io::Result<Value> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)?.take(ENTRIES) {
        let entry = entry?;
        names.push((
            entry.file_name().to_string_lossy().into_owned(),
            kind(entry.file_type()?),
        ));
    }
    names.sort_unstable();
    Ok(json!(names))
}

fn url_parts(text: &str, base: Option<&str>) -> String {
    let parsed = match base {
        Some(base) => url::Url::parse(base).and_then(|base| base.join(text)),
        None => url::Url::parse(text),
    };
    let Ok(url) = parsed else {
        return json!({"error": {"message": "Invalid URL", "code": "ERR_INVALID_URL", "input": text}}).to_string();
    };
    let some = |text: Option<&str>, mark: &str| {
        text.filter(|text| !text.is_empty())
            .map_or_else(String::new, |text| format!("{mark}{text}"))
    };
    let port = url.port().map_or_else(String::new, |port| port.to_string());
    let host = url.host_str().unwrap_or_default();
    json!({"value": {
        "href": url.as_str(), "protocol": format!("{}:", url.scheme()), "username": url.username(), "password": url.password().unwrap_or_default(),
        "hostname": host, "port": port, "host": if port.is_empty() { host.to_owned() } else { format!("{host}:{port}") },
        "pathname": url.path(), "search": some(url.query(), "?"), "hash": some(url.fragment(), "#"), "origin": url.origin().ascii_serialization(),
    }})
    .to_string()
}

fn file_path(text: &str) -> String {
    let path = url::Url::parse(text)
        .ok()
        .filter(|url| url.scheme() == "file")
        .and_then(|url| url.to_file_path().ok());
    match path {
        Some(path) => json!({ "value": path.to_string_lossy() }).to_string(),
        None => json!({"error": {"message": "The URL must be of scheme file", "code": "ERR_INVALID_URL_SCHEME"}}).to_string(),
    }
}

/// Figures of the machine; `null` for one that nobody knows.
fn machine(op: &str) -> Value {
    let words = |path: &str| fs::read_to_string(path).unwrap_or_default();
    match op {
        "uname" => nix::sys::utsname::uname().map_or(Value::Null, |name| {
            let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
            json!({"hostname": text(name.nodename()), "release": text(name.release()), "version": text(name.version()), "machine": text(name.machine())})
        }),
        "cpus" => cpus(&words("/proc/cpuinfo")),
        "parallelism" => json!(std::thread::available_parallelism().map_or(1, usize::from)),
        "memory" => {
            let text = words("/proc/meminfo");
            let figure = |name: &str| -> u64 {
                let line = text.lines().find(|line| line.starts_with(name));
                line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default() * 1024
            };
            json!({"total": figure("MemTotal:"), "available": figure("MemAvailable:")})
        }
        "load" => json!(words("/proc/loadavg").split(' ').take(3).filter_map(|word| word.parse::<f64>().ok()).collect::<Vec<_>>()),
        "uptime" => json!(words("/proc/uptime").split(' ').next().and_then(|word| word.parse::<f64>().ok())),
        "user" => user(),
        "interfaces" => interfaces(),
        _ => Value::Null,
    }
}

fn cpus(text: &str) -> Value {
    let field = |block: &str, name: &str| {
        let line = block.lines().find(|line| line.starts_with(name))?;
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
    };
    let blocks = text
        .split("\n\n")
        .filter(|block| block.starts_with("processor"));
    let one = |block: &str| {
        let speed = field(block, "cpu MHz")
            .and_then(|mhz| mhz.split('.').next()?.parse::<u64>().ok())
            .unwrap_or_default();
        json!({"model": field(block, "model name").unwrap_or_else(|| "unknown".to_owned()), "speed": speed, "times": {"user": 0, "nice": 0, "sys": 0, "idle": 0, "irq": 0}})
    };
    blocks.map(one).collect()
}

fn user() -> Value {
    let uid = nix::unistd::geteuid();
    let entry = nix::unistd::User::from_uid(uid).ok().flatten();
    json!({
        "uid": uid.as_raw(), "gid": nix::unistd::getegid().as_raw(), "username": entry.as_ref().map_or_else(|| uid.to_string(), |user| user.name.clone()),
        "homedir": entry.as_ref().map_or_else(|| "/".to_owned(), |user| user.dir.display().to_string()), "shell": entry.as_ref().map(|user| user.shell.display().to_string()),
    })
}

fn interfaces() -> Value {
    let mut all = serde_json::Map::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let internal = entry
            .flags
            .contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
        let Some(address) = entry.address else {
            continue;
        };
        let told = if let Some(address) = address.as_sockaddr_in() {
            json!({"address": address.ip().to_string(), "family": "IPv4", "internal": internal})
        } else if let Some(address) = address.as_sockaddr_in6() {
            json!({"address": address.ip().to_string(), "family": "IPv6", "internal": internal, "scopeid": address.scope_id()})
        } else {
            continue;
        };
        if let Some(list) = all
            .entry(entry.interface_name)
            .or_insert_with(|| json!([]))
            .as_array_mut()
        {
            list.push(told);
        }
    }
    Value::Object(all)
}
