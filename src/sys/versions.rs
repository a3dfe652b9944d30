//! A file of state with its earlier versions beside it: replaced one writer at a time, and read past a broken one.

use super::files::{self, Readers, Written};
use super::localtime;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The most that is read of a file, in bytes: a thousand apps take some 10 MB.
const SIZE_LIMIT: u64 = 256 << 20;
/// How often a lock that another holds is tried again.
const LOCK_PERIOD: Duration = Duration::from_millis(5);
/// How many files may be set aside in one second.
const ASIDE_LIMIT: u32 = 100;

/// A file and where its earlier versions are, the latest first.
#[derive(Debug, Clone)]
pub struct Versioned {
    path: PathBuf,
    earlier: Vec<PathBuf>,
}

/// A version that could not be used.
#[derive(Debug)]
pub struct Broken {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub cause: String,
    /// Where it was moved to; `None`: it could not be read or moved, and is where it was.
    pub aside: Option<PathBuf>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.path.display(), self.cause)?;
        match &self.aside {
            Some(aside) => write!(out, "; it is kept as {}", aside.display()),
            None => Ok(()),
        }
    }
}

/// What reading came to.
#[derive(Debug)]
pub struct Found<T> {
    /// The latest version that is whole, and where it was.
    pub version: Option<(T, PathBuf)>,
    /// Later ones that are not.
    pub broken: Vec<Broken>,
}

/// The right to replace the file. Another process waits for it; it ends with its holder, however that ends.
#[derive(Debug)]
pub struct Writing<'a> {
    of: &'a Versioned,
    _lock: Flock<File>,
}

impl Versioned {
    /// With one earlier version.
    pub fn pair(path: PathBuf, backup: PathBuf) -> Self {
        Self {
            path,
            earlier: vec![backup],
        }
    }

    /// With two earlier versions: `backup`, and the same with `.1` behind it.
    pub fn triple(path: PathBuf, backup: PathBuf) -> Self {
        let oldest = with_suffix(&backup, ".1");
        Self {
            path,
            earlier: vec![backup, oldest],
        }
    }

    /// Where the latest version is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The latest version that `parse` takes. One that it refuses is moved aside, to `NAME.broken-TIME`.
    pub fn read<T>(&self, parse: impl Fn(&[u8]) -> Result<T, String>) -> Found<T> {
        let mut broken = Vec::new();
        for path in std::iter::once(&self.path).chain(&self.earlier) {
            match self.read_one(path, &parse) {
                Ok(Some(value)) => {
                    return Found {
                        version: Some((value, path.clone())),
                        broken,
                    };
                }
                Ok(None) => {}
                Err(one) => broken.push(one),
            }
        }
        Found {
            version: None,
            broken,
        }
    }

    /// `None`: there is no such file.
    fn read_one<T>(
        &self,
        path: &Path,
        parse: &impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, Broken> {
        let unread = |error: io::Error| Broken {
            path: path.to_owned(),
            cause: error.to_string(),
            aside: None,
        };
        let look = || match read_bounded(path) {
            Ok(bytes) => Ok(Some(parse(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unread(error)),
        };
        match look()? {
            None => return Ok(None),
            Some(Ok(value)) => return Ok(Some(value)),
            Some(Err(_)) => {}
        }
        // Under the lock, and looked at once more: a writer may have put a whole one there meanwhile.
        let lock = self.lock(Duration::from_secs(5));
        match look()? {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(cause)) => Err(Broken {
                path: path.to_owned(),
                cause,
                // Without the lock it is read past and left where it is.
                aside: lock.ok().and_then(|_held| set_aside(path).ok()),
            }),
        }
    }

    /// Waits, for so long at most, until no other process is writing.
    ///
    /// # Errors
    /// `WouldBlock` when another still is; else what opening or locking the lock file answers.
    pub fn lock(&self, limit: Duration) -> io::Result<Writing<'_>> {
        Ok(Writing {
            of: self,
            _lock: exclusive(&self.path, limit)?,
        })
    }
}

/// Waits, for so long at most, until this process is the only one that has the lock beside `path`; there need be no such file.
///
/// # Errors
/// `WouldBlock` when another process still has it; else what opening or locking the lock file answers.
pub fn exclusive(path: &Path, limit: Duration) -> io::Result<Flock<File>> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let path = files::folder_of(path).join(format!(".{}.lock", name.to_string_lossy()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Whatever somebody may have put there: no link is followed, no FIFO waited for.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let deadline = Instant::now() + limit;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = back,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another process is writing it",
                ));
            }
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(LOCK_PERIOD);
    }
}

impl Writing<'_> {
    /// Replaces the file; what was there becomes the first of the earlier versions, if `whole` takes it, and is moved aside if
    /// not. At no moment is there none. What was moved aside is returned.
    ///
    /// # Errors
    /// After one, the file is as it was before.
    pub fn replace(
        &self,
        bytes: &[u8],
        readers: Readers,
        whole: impl Fn(&[u8]) -> Result<(), String>,
    ) -> io::Result<Option<Broken>> {
        let path = &self.of.path;
        // Written first: when the disk is full nothing has been moved yet.
        let written = Written::beside(path, bytes, readers)?;
        for link in self.of.earlier.iter().filter(|path| path.is_symlink()) {
            // Not ours, and what it points to is nobody's earlier version.
            fs::remove_file(link)?;
        }
        let broken = match read_bounded(path) {
            Ok(old) => match whole(&old) {
                Ok(()) => {
                    self.shift(&old, readers)?;
                    None
                }
                Err(cause) => Some(Broken {
                    path: path.clone(),
                    cause,
                    aside: Some(set_aside(path)?),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        written.become_file(path)?;
        Ok(broken)
    }

    /// Each version takes the place of the one before it; the file itself stays, under both names.
    fn shift(&self, old: &[u8], readers: Readers) -> io::Result<()> {
        let earlier = &self.of.earlier;
        for pair in earlier.windows(2).rev() {
            match fs::rename(&pair[0], &pair[1]) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let Some(first) = earlier.first() else {
            return Ok(());
        };
        // The link of a writer that was killed: nobody else makes one while we hold the lock.
        files::sweep(first)?;
        if files::link_over(&self.of.path, first).is_err() {
            files::replace(first, old, readers)?;
        }
        // One sync for all of the renames, before the one that they prepare.
        files::sync_folder(files::folder_of(first))
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Non-blocking: a FIFO must not keep us.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} MiB", SIZE_LIMIT >> 20),
        ));
    }
    Ok(bytes)
}

/// Moves a file to `NAME.broken-TIME`, replacing none. Where to.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let stamp = localtime::text("YYYYMMDD-HHmmss", now.as_millis() as u64);
    for turn in 0..ASIDE_LIMIT {
        let suffix = match turn {
            0 => format!(".broken-{stamp}"),
            turn => format!(".broken-{stamp}-{turn}"),
        };
        let aside = with_suffix(path, &suffix);
        if aside.symlink_metadata().is_err() {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn numbers(bytes: &[u8]) -> Result<Vec<u32>, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    fn rig() -> (tempfile::TempDir, Versioned) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let file = Versioned::triple(at("dump"), at("dump.bak"));
        (folder, file)
    }

    fn save(file: &Versioned, text: &str) -> Option<Broken> {
        let writing = file.lock(Duration::ZERO).unwrap();
        writing
            .replace(text.as_bytes(), Readers::Owner, |old| {
                numbers(old).map(drop)
            })
            .unwrap()
    }

    fn texts(folder: &Path) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| !entry.file_name().to_string_lossy().ends_with(".lock"))
            .map(|entry| {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "nobody else may read it");
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn the_last_three_are_kept() {
        let (folder, file) = rig();
        for text in ["[1]", "[2]", "[3]", "[4]"] {
            assert!(save(&file, text).is_none());
        }
        let want = [("dump", "[4]"), ("dump.bak", "[3]"), ("dump.bak.1", "[2]")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(texts(folder.path()), want);
    }

    #[test]
    fn a_broken_one_is_set_aside_and_the_one_before_it_is_read() {
        let (folder, file) = rig();
        for text in ["[1]", "[2]", "[3]"] {
            save(&file, text);
        }
        for name in ["dump", "dump.bak"] {
            fs::write(folder.path().join(name), "[3").unwrap();
        }
        let found = file.read(numbers);
        let (value, from) = found.version.unwrap();
        assert_eq!((value, from), (vec![1], folder.path().join("dump.bak.1")));
        assert_eq!(found.broken.len(), 2);
        for broken in found.broken {
            let aside = broken.aside.unwrap();
            assert_eq!(fs::read_to_string(&aside).unwrap(), "[3");
            assert!(broken.cause.contains("EOF"), "{}", broken.cause);
        }
        assert!(file.read(numbers).broken.is_empty(), "told once");
    }

    #[test]
    fn a_broken_one_never_takes_the_place_of_a_whole_one() {
        let (folder, file) = rig();
        save(&file, "[1]");
        save(&file, "[2]");
        fs::write(file.path(), "").unwrap();
        let broken = save(&file, "[3]").unwrap();
        assert_eq!(fs::read(broken.aside.unwrap()).unwrap(), b"");
        let kept: Vec<String> = texts(folder.path())
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(kept, ["[3]", "[1]", ""]);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_left() {
        let (folder, file) = rig();
        save(&file, "[1]");
        save(&file, "[2]");
        fs::remove_file(file.path()).unwrap();
        fs::create_dir(file.path()).unwrap();
        let found = file.read(numbers);
        assert_eq!(found.version.unwrap().0, [1]);
        assert_eq!(found.broken[0].aside, None);
        assert!(folder.path().join("dump").is_dir());
    }

    #[test]
    fn one_writes_at_a_time() {
        let (_folder, file) = rig();
        let held = file.lock(Duration::ZERO).unwrap();
        let refused = file.lock(Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(file.lock(Duration::ZERO).is_ok());
    }

    #[test]
    fn without_hard_links_the_backup_is_a_copy() {
        let (folder, file) = rig();
        let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
            println!("no second file system to try: /dev/shm is not there");
            return;
        };
        let far = Versioned::pair(file.path().to_owned(), shm.path().join("far.bak"));
        save(&far, "[1]");
        save(&far, "[2]");
        assert_eq!(fs::read(shm.path().join("far.bak")).unwrap(), b"[1]");
        assert_eq!(fs::read(folder.path().join("dump")).unwrap(), b"[2]");
    }
}
