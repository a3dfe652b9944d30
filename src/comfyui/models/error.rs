//! Why a model is not there: what, where, and how to mend it. No message holds a token or a signed address.

use std::io;
use std::path::PathBuf;

/// Why a file could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// 404 or 410.
    #[error(
        "{url} does not exist (HTTP {status}); check the source in the manifest: repository, file, revision or version"
    )]
    NotFound {
        /// The address, without its query.
        url: String,
        /// HTTP's word.
        status: u16,
    },
    /// 401 or 403.
    #[error("{url} is refused (HTTP {status}); {mend}")]
    Refused {
        /// The address, without its query.
        url: String,
        /// HTTP's word.
        status: u16,
        /// Which variable to set, or what to do with the one that is set.
        mend: String,
    },
    /// Another answer that will not change by itself.
    #[error("{url} answered HTTP {status}; try it with curl, and correct the manifest")]
    Status {
        /// The address, without its query.
        url: String,
        /// HTTP's word.
        status: u16,
    },
    /// A page for people.
    #[error("{url} sent a web page and no file; {mend}")]
    WebPage {
        /// The address, without its query.
        url: String,
        /// Which variable to set.
        mend: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects {what}; correct the source in the manifest")]
    Redirect {
        /// The address, without its query.
        url: String,
        /// Where to, in words.
        what: &'static str,
    },
    /// The network did not let it through, in spite of all tries.
    #[error(
        "{url}: {why}, {tries} times in a row; {kept} bytes are kept, run the same command again to go on"
    )]
    Network {
        /// The address, without its query.
        url: String,
        /// The last failure.
        why: String,
        /// How often.
        tries: u32,
        /// What is there of it.
        kept: u64,
    },
    /// The source's file has another size than the manifest says.
    #[error(
        "{url} has {told} bytes and the manifest says {wanted}; correct `size` there, or the source"
    )]
    Size {
        /// The address, without its query.
        url: String,
        /// The source's figure.
        told: u64,
        /// The manifest's.
        wanted: u64,
    },
    /// The source announces another checksum than the manifest says, before anything is loaded.
    #[error(
        "{url} announces sha256 {told} and the manifest says {wanted}; correct `sha256` there, or pin the revision"
    )]
    Announced {
        /// The address, without its query.
        url: String,
        /// The source's.
        told: String,
        /// The manifest's.
        wanted: String,
    },
    /// What came is not what is wanted.
    #[error(
        "{} is not what is wanted: sha256 {got}, wanted {wanted}; it is kept as {} and taken if the manifest is corrected to that sum, \
         else loaded anew by the next pull", file.display(), part.display()
    )]
    Hash {
        /// The file.
        file: PathBuf,
        /// Where what came lies.
        part: PathBuf,
        /// Its sum.
        got: String,
        /// The sum that was wanted.
        wanted: String,
    },
    /// No room.
    #[error(
        "no room for {}: {needed} more bytes are needed and {free} are free on its disk; {kept} bytes are kept, make room and run the same command again",
        file.display()
    )]
    DiskFull {
        /// The file.
        file: PathBuf,
        /// What is still to come, 0 if unknown.
        needed: u64,
        /// What is free.
        free: u64,
        /// What is there of it.
        kept: u64,
    },
    /// Another file has the name.
    #[error("{} is there already and is not what the manifest wants ({what}); move it away, or pull with --replace", file.display())]
    Occupied {
        /// The file.
        file: PathBuf,
        /// How it differs.
        what: String,
    },
    /// A name that leads out of its folder.
    #[error(transparent)]
    Place(#[from] super::place::PlaceError),
    /// A file could not be read or written.
    #[error("cannot {action} {}; check the disk and the rights of its folder", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl PullError {
    /// For `map_err`.
    pub(super) fn io(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// The message with its causes.
    pub fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    }
}
