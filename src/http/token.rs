//! The token that guards changes, and a port open to other machines: from the environment, or from a file of the owner's own.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::OnceCell;

/// Shorter ones can be guessed, in bytes.
const SHORTEST: usize = 16;
/// Longer ones are a mistake, in bytes.
const LONGEST: usize = 1024;

/// A secret: it does not print.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Why there is no token: then nothing is changed, and there is no listening on an address that other machines reach.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// It is too short, too long, or not plain text.
    #[error(
        "the token in {place} must be 16 to 1024 visible ASCII characters; mend it, or remove it to get a new one"
    )]
    Unfit {
        /// Where it stands.
        place: String,
    },
    /// Its file could not be read or written.
    #[error("cannot {action} {}: {source}; set FORNAX_HTTP_TOKEN instead", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Token {
    /// The one from the environment, else from `<home>/http.token`, which is made if it is not there. Blocking.
    pub fn obtain(from_env: Option<&str>, home: &Path) -> Result<Self, TokenError> {
        if let Some(text) = from_env {
            return Self::fit(text, "FORNAX_HTTP_TOKEN");
        }
        let path = home.join("http.token");
        let failed = |action| {
            let path = path.clone();
            move |source| TokenError::File {
                action,
                path,
                source,
            }
        };
        if let Some(text) = read(&path).map_err(failed("read"))? {
            return Self::fit(&text, &path.display().to_string());
        }
        let text = format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        );
        if write(&path, &text).map_err(failed("write"))? {
            return Ok(Self(text));
        }
        // Somebody else, a CLI perhaps, has made one meanwhile.
        let text = read(&path).map_err(failed("read"))?;
        Self::fit(&text.unwrap_or_default(), &path.display().to_string())
    }

    fn fit(text: &str, place: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let fits = (SHORTEST..=LONGEST).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::Unfit {
                place: place.to_owned(),
            })
        }
    }

    /// Whether the value of an `Authorization` header carries it. Takes as long for a wrong token as for the right one.
    pub fn is_in(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked(7) else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return false;
        }
        let (given, own) = (given.trim_ascii(), self.0.as_bytes());
        let differing = own
            .iter()
            .enumerate()
            .fold(own.len() ^ given.len(), |sum, (at, byte)| {
                sum | usize::from(byte ^ given.get(at).copied().unwrap_or(0))
            });
        std::hint::black_box(differing) == 0
    }
}

/// The file's text; `None` if there is no file. One that others can read is closed to them first.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(?path, "the token file was open to other users; closing it");
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let mut text = String::new();
    // One byte more than any token and its line end tells that it is too long.
    file.take(LONGEST as u64 + 2).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Writes it whole or not at all, readable by its owner only; `false` if there is one by now, which stays.
fn write(path: &Path, text: &str) -> io::Result<bool> {
    let temporary = path.with_extension(format!("token.{}", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The token of a port that only this machine reaches: made or read when something is first to be changed.
#[derive(Debug)]
pub(super) struct LazyToken {
    given: Option<String>,
    home: PathBuf,
    token: OnceCell<Token>,
}

impl LazyToken {
    /// From the environment, else in this home.
    pub fn new(given: Option<String>, home: PathBuf) -> Self {
        Self {
            given,
            home,
            token: OnceCell::new(),
        }
    }

    /// One that is there.
    #[cfg(test)]
    pub fn known(text: &str) -> Self {
        Self {
            given: None,
            home: PathBuf::new(),
            token: OnceCell::new_with(Some(Token(text.to_owned()))),
        }
    }

    /// The token. A failure is not remembered: the next request tries again.
    pub async fn get(&self) -> Result<&Token, TokenError> {
        let obtain = async || {
            let (given, home) = (self.given.clone(), self.home.clone());
            let obtained =
                tokio::task::spawn_blocking(move || Token::obtain(given.as_deref(), &home));
            obtained.await.map_err(|error| TokenError::File {
                action: "obtain",
                path: self.home.join("http.token"),
                source: io::Error::other(error),
            })?
        };
        self.token.get_or_try_init(obtain).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_token_is_kept_is_the_owners_only_and_is_read_again() {
        let home = tempfile::tempdir().unwrap();
        let made = Token::obtain(None, home.path()).unwrap();
        assert_eq!(made.0.len(), 64);
        let path = home.path().join("http.token");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Token::obtain(None, home.path()).unwrap(), made);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert_eq!(format!("{made:?}"), "Token(redacted)");
    }

    #[test]
    fn a_weak_token_is_refused_with_its_place() {
        let home = tempfile::tempdir().unwrap();
        let error = Token::obtain(Some("short"), home.path()).unwrap_err();
        assert!(error.to_string().contains("FORNAX_HTTP_TOKEN"), "{error}");
        fs::write(home.path().join("http.token"), "x".repeat(5000)).unwrap();
        let error = Token::obtain(None, home.path()).unwrap_err();
        assert!(error.to_string().contains("http.token"), "{error}");
        let nowhere = Token::obtain(None, Path::new("/proc/nowhere")).unwrap_err();
        assert!(nowhere.to_string().contains("cannot write"), "{nowhere}");
    }

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token("0123456789abcdef".to_owned());
        for (header, opens) in [
            ("Bearer 0123456789abcdef", true),
            ("bearer  0123456789abcdef ", true),
            ("Bearer 0123456789abcdeF", false),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer ", false),
            ("Basic 0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(token.is_in(header.as_bytes()), opens, "{header:?}");
        }
    }
}
