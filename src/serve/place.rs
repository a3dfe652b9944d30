//! From a request's path to an open file: nothing outside the folder is ever opened, by whatever links or dots.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What is at a path.
#[derive(Debug)]
pub enum Place {
    /// A file, open, with its facts.
    File(File, Metadata),
    /// A folder, open.
    Folder(File),
    /// Nothing that is served.
    Nothing,
    /// Something that the server may not read, or that leads out of the folder.
    Closed,
}

/// Why a path is no path of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPath {
    /// It cannot be decoded.
    Malformed,
    /// It climbs.
    Climbs,
}

/// The parts of a request's path, decoded. Empty ones and `.` are left out.
pub fn parts(path: &str) -> Result<Vec<String>, BadPath> {
    let mut parts = Vec::new();
    // Decoded first: an encoded slash or dot is one.
    let bytes = decode(path).ok_or(BadPath::Malformed)?;
    let text = String::from_utf8(bytes).map_err(|_| BadPath::Malformed)?;
    if text.contains(['\0', '\\']) {
        return Err(BadPath::Malformed);
    }
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(BadPath::Climbs),
            part => parts.push(part.to_owned()),
        }
    }
    Ok(parts)
}

fn decode(path: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            let pair = std::str::from_utf8(&pair).ok()?;
            // from_str_radix takes a sign.
            if pair.starts_with(['+', '-']) {
                return None;
            }
            out.push(u8::from_str_radix(pair, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// Whether one of the parts is hidden, as `.git` or `.env`. `.well-known` is there to be asked for (RFC 8615).
pub fn is_hidden(parts: &[String]) -> bool {
    parts
        .iter()
        .any(|part| part.starts_with('.') && part != ".well-known")
}

/// Opens what is below the folder. The kernel refuses what leads out of it (openat2(2), RESOLVE_BENEATH): links within it
/// are followed, others are not.
pub fn open(root: &File, parts: &[String]) -> io::Result<Place> {
    let relative: PathBuf = match parts {
        [] => ".".into(),
        parts => parts.iter().collect(),
    };
    let how = OpenHow::new()
        // A fifo must not hold us.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = loop {
        match openat2(root.as_fd(), relative.as_path(), how) {
            // Something moved while it was looked up (openat2(2)).
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ENOSYS) => return beneath(root, &relative),
            opened => break opened,
        }
    };
    match opened {
        Ok(fd) => sort(File::from(fd)),
        Err(errno) => from_error(errno.into()),
    }
}

/// The same for kernels before 5.6, where what is looked up could change in between.
fn beneath(root: &File, relative: &Path) -> io::Result<Place> {
    use std::os::fd::AsRawFd;
    let root = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
    let path = match root.join(relative).canonicalize() {
        Ok(path) => path,
        Err(error) => return from_error(error),
    };
    if !path.starts_with(&root) {
        return Ok(Place::Closed);
    }
    match File::open(path) {
        Ok(file) => sort(file),
        Err(error) => from_error(error),
    }
}

fn sort(file: File) -> io::Result<Place> {
    let facts = file.metadata()?;
    Ok(if facts.is_dir() {
        Place::Folder(file)
    } else if facts.is_file() {
        Place::File(file, facts)
    } else {
        Place::Closed
    })
}

fn from_error(error: io::Error) -> io::Result<Place> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            Ok(Place::Nothing)
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices => Ok(Place::Closed),
        // A socket, links in a circle.
        _ if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ELOOP)) => Ok(Place::Closed),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_are_decoded_once_and_never_climb() {
        assert_eq!(parts("/a%20b//./c").unwrap(), ["a b", "c"]);
        assert_eq!(parts("/%2541").unwrap(), ["%41"]);
        assert_eq!(parts("/").unwrap(), Vec::<String>::new());
        for climbs in [
            "/..",
            "/a/../b",
            "/%2e%2e/x",
            "/a%2f..%2fb",
            "/..%2f..%2fetc/passwd",
        ] {
            assert_eq!(parts(climbs), Err(BadPath::Climbs), "{climbs}");
        }
        for bad in ["/%", "/%2", "/%zz", "/%00", "/a\\..\\b", "/%ff", "/%+1"] {
            assert_eq!(parts(bad), Err(BadPath::Malformed), "{bad}");
        }
    }

    #[test]
    fn links_within_are_followed_and_links_out_are_not() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/x"), "x").unwrap();
        symlink("sub/x", root.join("within")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink(outer.path().join("secret"), root.join("absolute")).unwrap();
        symlink("..", root.join("sub/up")).unwrap();
        symlink("../..", root.join("sub/out")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();
        let folder = File::open(&root).unwrap();
        let look = |path: &str| match open(&folder, &parts(path).unwrap()).unwrap() {
            Place::File(mut file, _) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            }
            Place::Folder(_) => "folder".to_owned(),
            Place::Nothing => "nothing".to_owned(),
            Place::Closed => "closed".to_owned(),
        };
        assert_eq!(look("/sub/x"), "x");
        assert_eq!(look("/within"), "x");
        assert_eq!(look("/sub/up/within"), "x");
        assert_eq!(look("/sub"), "folder");
        assert_eq!(look("/none"), "nothing");
        assert_eq!(look("/sub/x/y"), "nothing");
        for closed in ["/out", "/absolute", "/sub/out/secret", "/pipe"] {
            assert_eq!(look(closed), "closed", "{closed}");
        }
        for path in ["out", "absolute", "sub/out/secret"] {
            assert!(matches!(
                beneath(&folder, Path::new(path)).unwrap(),
                Place::Closed
            ));
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_or_climbs(path in ".{0,64}") {
            if let Ok(parts) = parts(&path) {
                prop_assert!(parts.iter().all(|part| part != ".." && !part.contains(['/', '\0'])));
            }
        }
    }
}
