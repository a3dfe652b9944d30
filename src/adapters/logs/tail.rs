//! The last lines of logs, from the end backwards and on into rotated files.

use super::backward::BackLines;
use super::chain::{Chain, Link, read_line};
use super::index::Mark;
use super::owners::Owners;
use crate::core::ids::{PmId, Stream};
use regex::bytes::Regex;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

/// The most lines one query gives.
pub(super) const MOST_LINES: usize = 10_000;
/// The most bytes one query reads; what was not looked at makes the answer incomplete.
pub(super) const SCAN_BYTES: u64 = 64 << 20;
/// A longer line is cut in the answer, and says so. In bytes.
const LINE_BYTES: usize = 64 << 10;

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailTarget {
    /// The file of an instance's stream, as last attached.
    Stream(PmId, Stream),
    /// A file by its path; it need not be one of the plane's.
    Path(PathBuf),
}

/// Which lines are wanted: the newest `limit` ones that match.
#[derive(Debug, Clone)]
pub struct TailQuery {
    /// The files. Of a file that several streams share, a stream gets its own lines, and those whose owner is not known.
    pub targets: Vec<TailTarget>,
    /// How many lines in all, 1 to 10,000; others are taken to the nearest.
    pub limit: usize,
    /// Not those that are known to be older than this, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Only those in whose first 64 KiB this is found.
    pub grep: Option<Regex>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which target it is of, by its place in the query.
    pub target: usize,
    /// The instance that wrote it, where that is known.
    pub instance: Option<PmId>,
    /// The stream, likewise.
    pub stream: Option<Stream>,
    /// Its number in its file; `None` for lines from before this daemon.
    pub seq: Option<u64>,
    /// When it was written (exact to 0.1 s for recent lines), in milliseconds since the Unix epoch; `None` as above.
    pub at_ms: Option<u64>,
    /// The line as in the file, without its line end; bytes that are no UTF-8 as U+FFFD.
    pub text: String,
}

/// The lines, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TailAnswer {
    /// At most `limit` lines. Lines of several targets are ordered by their times, those without one first.
    pub lines: Vec<LogLine>,
    /// `false`: the search ended at its limit of 64 MiB, and older lines might match.
    pub complete: bool,
    /// How many bytes were read for it.
    pub read_bytes: u64,
}

/// One target's lines, newest first while they are collected.
struct Search<'a> {
    query: &'a TailQuery,
    limit: usize,
    /// The targets in this file.
    targets: &'a [usize],
    owners: &'a Owners,
    lines: Vec<LogLine>,
    budget: u64,
    read_bytes: u64,
    /// The limit, `since` or the budget was reached.
    ended: bool,
    complete: bool,
}

/// Answers `query` from the chains of its targets.
pub(super) fn answer(query: &TailQuery, chains: &[(Vec<usize>, Chain)]) -> TailAnswer {
    let limit = query.limit.clamp(1, MOST_LINES);
    let mut merged: Vec<(Option<u64>, LogLine)> = Vec::new();
    let mut all = TailAnswer {
        complete: true,
        ..TailAnswer::default()
    };
    for (targets, chain) in chains {
        let budget = SCAN_BYTES / chains.len().max(1) as u64;
        let mut search = Search {
            query,
            limit,
            targets,
            owners: &chain.owners,
            lines: Vec::new(),
            budget,
            read_bytes: 0,
            ended: false,
            complete: true,
        };
        for link in &chain.links {
            let searched = if link.gz {
                search.zipped(chain, link)
            } else {
                search.plain(chain, link)
            };
            if let Err(error) = searched {
                tracing::warn!(%error, "a log file could not be read to its beginning");
                search.complete = false;
            }
            if search.ended {
                break;
            }
        }
        all.read_bytes += search.read_bytes;
        all.complete &= search.complete;
        // A clock set back does not change the order within a file.
        let mut latest = None;
        for line in search.lines.into_iter().rev() {
            latest = latest.max(line.at_ms);
            merged.push((latest, line));
        }
    }
    merged.sort_by_key(|(at_ms, _)| *at_ms);
    let extra = merged.len().saturating_sub(limit);
    all.lines = merged
        .into_iter()
        .skip(extra)
        .map(|(_, line)| line)
        .collect();
    all
}

impl Search<'_> {
    fn plain(&mut self, chain: &Chain, link: &Link) -> io::Result<()> {
        let marks = chain.marks_of(link.no);
        let mut back = BackLines::new(
            &link.file,
            link.len,
            self.budget.saturating_sub(self.read_bytes),
        );
        let mut left = marks.len();
        let mut seq = chain.ends(link.no);
        let mut newest_ms = link.written_by_ms();
        while let Some(line) = back
            .previous(LINE_BYTES)
            .inspect_err(|_| self.complete = false)?
        {
            while left > 0 && line.start < marks[left - 1].offset {
                (seq, newest_ms) = (marks[left - 1].ends, Some(marks[left - 1].at_ms));
                left -= 1;
            }
            if self.is_too_old(newest_ms) {
                break;
            }
            seq = seq.saturating_sub(1);
            let known = left.checked_sub(1).map(|at| (seq, marks[at].at_ms));
            if let Some(line) = self.line(&line.text, line.length, known) {
                self.lines.push(line);
            }
            if self.lines.len() >= self.limit {
                self.ended = true;
                break;
            }
        }
        self.read_bytes += back.read_bytes;
        self.spend(back.is_spent() && self.lines.len() < self.limit);
        Ok(())
    }

    /// A compressed file is read from its beginning; the last matching lines are kept.
    fn zipped(&mut self, chain: &Chain, link: &Link) -> io::Result<()> {
        if self.is_too_old(link.written_by_ms()) {
            return Ok(());
        }
        let marks = chain.marks_of(link.no);
        let wanted = self.limit - self.lines.len();
        let mut found: VecDeque<LogLine> = VecDeque::new();
        let mut reader = link.reader(0)?;
        let (mut text, mut offset, mut known, mut next): (
            Vec<u8>,
            u64,
            Option<(u64, Mark)>,
            usize,
        ) = (Vec::new(), 0, None, 0);
        loop {
            let length = read_line(&mut *reader, &mut text, LINE_BYTES + 1)?;
            if length == 0 {
                break;
            }
            if let Some(mark) = marks.get(next).filter(|mark| mark.offset <= offset) {
                known = Some((mark.seq, *mark));
                next += 1;
            }
            offset += length as u64;
            let bare = text.strip_suffix(b"\n").unwrap_or(&text);
            let bare = &bare[..bare.len().min(LINE_BYTES)];
            let until = marks.get(next).map(|mark| mark.at_ms).or_else(|| {
                link.written_by_ms()
                    .filter(|_| self.query.since_ms.is_some())
            });
            let whole = if length > text.len() {
                length - 1
            } else {
                bare.len()
            };
            let place = known.map(|(seq, mark)| (seq, mark.at_ms));
            if !self.is_old(until)
                && let Some(line) = self.line(bare, whole as u64, place)
            {
                if found.len() == wanted {
                    found.pop_front();
                }
                found.push_back(line);
            }
            if let Some((seq, _)) = &mut known {
                *seq += 1;
            }
            if self.read_bytes + offset > self.budget {
                // Its newest lines are at its end, which is not reached: none of it is told.
                found.clear();
                self.spend(true);
                break;
            }
        }
        self.read_bytes += offset;
        self.lines.extend(found.into_iter().rev());
        self.ended |= self.lines.len() >= self.limit;
        Ok(())
    }

    fn spend(&mut self, spent: bool) {
        self.ended |= spent;
        self.complete &= !spent;
    }

    /// Whether all that was written up to `newest_ms` is older than wanted.
    fn is_old(&self, newest_ms: Option<u64>) -> bool {
        self.query
            .since_ms
            .zip(newest_ms)
            .is_some_and(|(since, newest)| newest < since)
    }

    /// The same, and ends the search.
    fn is_too_old(&mut self, newest_ms: Option<u64>) -> bool {
        let old = self.is_old(newest_ms);
        self.ended |= old;
        old
    }

    /// The line as it is told; `None` if it is not wanted. `known`: its number and time.
    fn line(&self, text: &[u8], length: u64, known: Option<(u64, u64)>) -> Option<LogLine> {
        if self
            .query
            .grep
            .as_ref()
            .is_some_and(|grep| !grep.is_match(text))
        {
            return None;
        }
        let owner = known
            .and_then(|(seq, _)| self.owners.of(seq))
            .map(|owner| (owner.instance, owner.stream));
        let named = |target: &usize| match self.query.targets.get(*target) {
            Some(TailTarget::Stream(instance, stream)) => Some((*instance, *stream)),
            Some(TailTarget::Path(_)) | None => None,
        };
        let target = *match owner {
            Some(_) => self
                .targets
                .iter()
                .find(|target| named(target).is_none() || named(target) == owner)?,
            None => self.targets.first()?,
        };
        // A file of one stream is that stream's, as far as one knows.
        let owner = owner.or_else(|| named(&target).filter(|_| self.targets.len() == 1));
        let cut = length.saturating_sub(text.len() as u64);
        let bare = if cut == 0 {
            text.strip_suffix(b"\r").unwrap_or(text)
        } else {
            text
        };
        let mut text = String::from_utf8_lossy(bare).into_owned();
        if cut > 0 {
            text.push_str(&format!(" [fornax: {cut} bytes more]"));
        }
        let (seq, at_ms) = known.unzip();
        Some(LogLine {
            target,
            instance: owner.map(|o| o.0),
            stream: owner.map(|o| o.1),
            seq,
            at_ms,
            text,
        })
    }
}
