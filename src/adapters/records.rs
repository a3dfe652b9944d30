//! A log of records in a memory file: what is in it outlives this process wherever a copy of the descriptor does.
//!
//! A record is its length and its CRC-32, both four bytes little-endian, and its bytes. One that was torn by the end of its
//! writer does not match its sum: there the log ends. Written by pwrite, never mapped, so that it counts to nobody's memory
//! but the machine's.

use crate::sys::memory;
use flate2::Crc;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Every such file begins so.
const MAGIC: &[u8; 16] = b"fornax records 1";
/// The longest record, in bytes: more than any configuration that is taken.
const LONGEST: usize = 64 << 20;
/// A log shorter than this is not worth rewriting, in bytes.
const SMALL: u64 = 1 << 20;

/// A log open for writing. Owner: whoever made it.
#[derive(Debug)]
pub struct Records {
    file: File,
    end: u64,
    /// How long it was when everything in it was needed.
    dense: u64,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The file.
    #[error("the records cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not such a log.
    #[error("this is no log of records")]
    Strange,
}

impl Records {
    /// An empty one, with these records.
    pub fn create(records: impl IntoIterator<Item = Vec<u8>>) -> io::Result<Self> {
        let file = memory::file(c"fornax-table")?;
        file.write_all_at(MAGIC, 0)?;
        let mut log = Self {
            file,
            end: MAGIC.len() as u64,
            dense: 0,
        };
        for record in records {
            log.append(&record)?;
        }
        log.dense = log.end;
        Ok(log)
    }

    /// Adds one. `true`: what is no longer needed is several times the rest by now; time for a new log.
    pub fn append(&mut self, record: &[u8]) -> io::Result<bool> {
        let mut framed = Vec::with_capacity(8 + record.len());
        framed.extend((record.len() as u32).to_le_bytes());
        framed.extend(sum(record).to_le_bytes());
        framed.extend(record);
        self.file.write_all_at(&framed, self.end)?;
        self.end += framed.len() as u64;
        Ok(self.end > SMALL && self.end > self.dense * 4)
    }
}

impl AsFd for Records {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// All whole records of a log, in their order.
pub fn read(fd: OwnedFd) -> Result<Vec<Vec<u8>>, RecordsError> {
    let file = File::from(fd);
    let length = usize::try_from(file.metadata()?.len()).map_err(|_| RecordsError::Strange)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    parse(&bytes)
}

/// All whole records in the bytes of a log.
pub fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>, RecordsError> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(RecordsError::Strange)?;
    let mut records = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, want) = (word(0) as usize, word(4));
        let Some((record, after)) = tail
            .split_at_checked(length)
            .filter(|(record, _)| length > 0 && length <= LONGEST && sum(record) == want)
        else {
            break;
        };
        records.push(record.to_vec());
        rest = after;
    }
    Ok(records)
}

fn sum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(log: &Records) -> OwnedFd {
        log.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_a_torn_record_ends_the_log() {
        let mut log = Records::create([b"one".to_vec()]).unwrap();
        log.append(b"two").unwrap();
        assert_eq!(read(copy(&log)).unwrap(), [b"one", b"two"]);
        let whole = log.end;
        log.append(b"three, which will be torn").unwrap();
        for cut in whole..log.end {
            log.file.set_len(cut).unwrap();
            assert_eq!(read(copy(&log)).unwrap().len(), 2, "cut at {cut}");
        }
        assert!(matches!(parse(b"rubbish"), Err(RecordsError::Strange)));
    }

    #[test]
    fn a_log_asks_for_a_new_one_when_most_of_it_is_old() {
        let mut log = Records::create([vec![b'x'; 1000]]).unwrap();
        let record = vec![b'y'; 10_000];
        let asked = (0..200).find(|_| log.append(&record).unwrap());
        assert!(asked.is_some_and(|round| round >= 100), "{asked:?}");
    }
}
