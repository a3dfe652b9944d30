//! The lines of a file from its last to its first, in blocks, whatever its size.

use memchr::memrchr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is read at once, in bytes.
const BLOCK: u64 = 64 << 10;

/// Walks back through a file. It holds one block.
#[derive(Debug)]
pub(super) struct BackLines<'a> {
    file: &'a File,
    /// Lines from here on were given out.
    at: u64,
    block: Vec<u8>,
    block_start: u64,
    /// How much was read so far, in bytes.
    pub read_bytes: u64,
    budget: u64,
}

/// A line: where it begins, its text without `\n` (the first bytes of it), and its whole length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BackLine {
    pub start: u64,
    pub text: Vec<u8>,
    pub length: u64,
}

impl<'a> BackLines<'a> {
    /// Begins at `len`; reads at most about `budget` bytes.
    pub fn new(file: &'a File, len: u64, budget: u64) -> Self {
        Self {
            file,
            at: len,
            block: Vec::new(),
            block_start: 0,
            read_bytes: 0,
            budget,
        }
    }

    /// Whether the budget is spent.
    pub fn is_spent(&self) -> bool {
        self.read_bytes >= self.budget
    }

    /// The line before, with at most `keep` bytes of text; `None` at the beginning, or when the budget is spent.
    pub fn previous(&mut self, keep: usize) -> io::Result<Option<BackLine>> {
        if self.at == 0 {
            return Ok(None);
        }
        let last = self.before(self.at)?.last().copied();
        let end = self.at - u64::from(last == Some(b'\n'));
        let mut upto = end;
        let start = loop {
            if upto == 0 {
                break 0;
            }
            if self.is_spent() && upto <= self.block_start {
                return Ok(None);
            }
            if let Some(at) = memrchr(b'\n', self.before(upto)?) {
                break self.block_start + at as u64 + 1;
            }
            upto = self.block_start;
        };
        self.at = start;
        let kept = (end - start).min(keep as u64);
        let text = self.text(start, kept)?;
        Ok(Some(BackLine {
            start,
            text,
            length: end - start,
        }))
    }

    /// The part of the block that holds the byte before `end`, up to it; reads the block if needed.
    fn before(&mut self, end: u64) -> io::Result<&[u8]> {
        if end <= self.block_start || end > self.block_start + self.block.len() as u64 {
            let start = end.saturating_sub(BLOCK);
            self.block.resize((end - start) as usize, 0);
            self.block_start = start;
            self.read_bytes += end - start;
            // A file cut short meanwhile reads as an error, and the walk ends.
            self.file.read_exact_at(&mut self.block, start)?;
        }
        Ok(&self.block[..(end - self.block_start) as usize])
    }

    fn text(&mut self, start: u64, length: u64) -> io::Result<Vec<u8>> {
        let from = start
            .checked_sub(self.block_start)
            .map(|from| from as usize);
        if let Some(text) = from.and_then(|from| self.block.get(from..from + length as usize)) {
            return Ok(text.to_vec());
        }
        let mut text = vec![0; length as usize];
        self.read_bytes += length;
        self.file.read_exact_at(&mut text, start)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn walk(text: &[u8], keep: usize) -> Vec<(u64, Vec<u8>, u64)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let mut back = BackLines::new(&file, text.len() as u64, u64::MAX);
        let mut out = Vec::new();
        while let Some(line) = back.previous(keep).unwrap() {
            out.push((line.start, line.text, line.length));
        }
        out.reverse();
        out
    }

    #[test]
    fn every_line_comes_back_across_blocks() {
        let mut text = Vec::new();
        let mut want = Vec::new();
        for n in 0..40_000usize {
            let line = vec![b'a' + (n % 26) as u8; n * 7 % 90];
            want.push((text.len() as u64, line.clone(), line.len() as u64));
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        assert_eq!(walk(&text, 1000), want);
        text.pop();
        assert_eq!(walk(&text, 1000), want, "without a last newline");
        assert_eq!(walk(b"", 10), []);
        assert_eq!(walk(b"\n\n", 10), [(0, vec![], 0), (1, vec![], 0)]);
    }

    #[test]
    fn a_huge_line_is_kept_from_its_beginning_only() {
        let mut text = b"first\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 300_000));
        text.extend_from_slice(b"\nlast\n");
        let lines = walk(&text, 8);
        assert_eq!(
            lines,
            [
                (0, b"first".to_vec(), 5),
                (6, b"xxxxxxxx".to_vec(), 300_000),
                (300_007, b"last".to_vec(), 4)
            ]
        );
    }
}
