//! Small files, read with a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A file's text, at most `limit` bytes of it. A longer file, or one that is not UTF-8, is an error.
pub(crate) fn read_limited(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(limit + 1)
        .read_to_string(&mut text)?;
    match text.len() as u64 > limit {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {limit} bytes"),
        )),
        false => Ok(text),
    }
}
