//! SHA-256 of files, as lower-case hexadecimal text.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is read at once, in bytes.
pub(super) const CHUNK: usize = 256 << 10;

/// A sum that is being made.
#[derive(Default)]
pub(super) struct Sum {
    inner: Sha256,
    bytes: u64,
}

impl Sum {
    /// Further bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes were taken.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first `limit` bytes of a file.
    ///
    /// # Errors
    /// The file cannot be read, or has fewer.
    pub(super) fn of_start(file: &mut File, limit: u64) -> io::Result<Self> {
        io::Seek::rewind(file)?;
        let mut sum = Self::default();
        let mut buffer = vec![0; CHUNK];
        let mut file = file.take(limit);
        loop {
            match file.read(&mut buffer)? {
                0 if sum.bytes < limit => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => return Ok(sum),
                read => sum.take(&buffer[..read]),
            }
        }
    }

    /// The text.
    pub(super) fn text(self) -> String {
        self.inner
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The sum of a whole file.
pub(super) fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(Sum::of_start(&mut file, length)?.text())
}

/// The sum of a short text.
pub(super) fn of_text(text: &str) -> String {
    let mut sum = Sum::default();
    sum.take(text.as_bytes());
    sum.text()
}

/// Whether a text is a SHA-256 sum in lower case.
pub fn is_sum(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_standards() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_text("abc"), abc);
        assert!(is_sum(abc) && !is_sum(&abc.to_uppercase()) && !is_sum("abc"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abcdef").unwrap();
        let mut open = File::open(file.path()).unwrap();
        assert_eq!(Sum::of_start(&mut open, 3).unwrap().text(), abc);
        assert!(Sum::of_start(&mut open, 7).is_err());
    }
}
