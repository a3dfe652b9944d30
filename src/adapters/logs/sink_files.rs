//! A sink's rotated files: what is compressed, and how all of them are opened for reading.

use super::chain::Chain;
use super::disk::{LogFile, Outside};
use super::journal::Book;
use super::rotate;
use super::sink::Sink;
use crate::core::spec::fornax::LogRotation;
use std::io;
use std::path::PathBuf;

impl Sink {
    /// Sets when it is rotated. Files that an earlier life left uncompressed are compressed too.
    pub fn set_rotation(&mut self, rotation: LogRotation, book: &mut Book) {
        if rotation.compress
            && !self.rotation.compress
            && let Some(path) = &self.path
        {
            let is_there = |n: &u64| rotate::rotated(path, *n).exists();
            let kept = u64::from(rotation.retain).min(rotate::MOST_FILES);
            let known = (1..=kept).take_while(|n| is_there(n) || rotate::zipped(path, *n).exists());
            self.unzipped = known.filter(is_there).map(|n| self.file_no - n).collect();
        }
        if let Some(seat) = &self.seat {
            book.set_rotation(seat, rotation);
        }
        self.rotation = rotation;
    }

    /// How many rotated files there may be.
    pub fn kept(&self) -> u64 {
        u64::from(self.rotation.retain).min(rotate::MOST_FILES)
    }

    /// The next rotated file to compress: its number, where it is now, and where to write.
    pub fn next_unzipped(&mut self) -> Option<(u64, PathBuf, PathBuf)> {
        let path = self.path.as_ref()?;
        let no = self.unzipped.pop_front()?;
        Some((
            no,
            rotate::rotated(path, self.file_no - no),
            rotate::partial(path),
        ))
    }

    /// Puts a compression that has ended in the place of its file, wherever that has moved to meanwhile.
    pub fn place_zipped(&mut self, no: u64, done: bool) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let (partial, moved) = (rotate::partial(path), self.file_no - no);
        if !done || moved > self.kept() {
            return std::fs::remove_file(partial);
        }
        std::fs::rename(partial, rotate::zipped(path, moved))?;
        std::fs::remove_file(rotate::rotated(path, moved))
    }

    /// The files that hold line `seq` and those after it.
    pub fn chain_from(&mut self, seq: u64) -> Chain {
        let marks = self.index.marks();
        let first = marks
            .iter()
            .rev()
            .find(|mark| mark.seq <= seq)
            .or(marks.first());
        let back_to = first.map_or(u64::MAX, |mark| mark.file_no);
        self.chain(u64::MAX, back_to)
    }

    /// The files as they stand, open for reading, back to `bytes` bytes or to file `back_to`.
    pub fn chain(&mut self, bytes: u64, back_to: u64) -> Chain {
        match self.file.as_mut().map(LogFile::outside) {
            Some(Outside::Untouched) => {}
            Some(Outside::Resized | Outside::Deleted) => {
                self.stats.outside_changes += 1;
                self.index.forget_file(self.file_no);
                self.lose_tail(false);
            }
            None => self.recall(),
        }
        let mut chain = Chain::empty(
            self.index.marks().to_vec(),
            self.disk_seq,
            self.owners.clone(),
        );
        if let Some(path) = &self.path {
            // The beginning of an unfinished line is no line yet.
            let shown = self.tail_len();
            let opened = match (&self.file, shown) {
                (None, 1..) => LogFile::open_as_it_is(path).ok(),
                _ => None,
            };
            let current = self.file.as_ref().or(opened.as_ref()).and_then(|file| {
                let reader = file.reader().ok()?;
                Some((reader, file.size().saturating_sub(shown)))
            });
            chain.open(path, self.file_no, current, bytes, back_to);
        }
        chain
    }
}
