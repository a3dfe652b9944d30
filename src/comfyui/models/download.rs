//! One file from its source: asked for, continued, asked for again, checked, and given its name.

mod attempt;

use super::error::PullError;
use super::event::Step;
use super::http::{Client, Fault, Told};
use super::index::{Entry, Index};
use super::manifest::Wanted;
use super::part::Part;
use super::source::{Source, shown};
use super::store::Store;
use std::path::Path;
use std::time::Duration;

/// So many bytes count as progress: the tries are counted from zero again.
const PROGRESS: u64 = 16 << 10;

/// The longest that is waited between tries, and the longest that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How patient a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Nothing may come for so long.
    pub(super) stall: Duration,
    /// So many failures in a row.
    pub(super) tries: u32,
    /// The first wait; each is twice the one before.
    pub(super) wait: Duration,
}

/// What came of it.
pub(super) enum Got {
    /// The file is there.
    Loaded {
        /// Bytes that came now.
        bytes: u64,
        /// All of it.
        size: u64,
        /// Whether there was a sum to check it by.
        checked: bool,
    },
    /// Another file of the workspace has the sum that the source announces.
    Same(String),
}

/// A file to load, and whom to tell. Its lock is the caller's.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) store: &'a Store,
    pub(super) wanted: &'a Wanted,
    pub(super) target: &'a Path,
    pub(super) patience: Patience,
    pub(super) tell: &'a dyn Fn(Step),
    /// Whether a file that is the same may do instead.
    pub(super) may_link: bool,
}

/// What is known between tries.
struct Course {
    part: Part,
    /// Bytes that came in this run.
    came: u64,
    /// It was begun anew after a wrong sum.
    anew: bool,
    /// It came by more than one answer: its pieces might not belong together.
    pieced: bool,
    told: Told,
}

/// What a try came to.
enum Come {
    /// All of it is there.
    Whole,
    /// Another file of the workspace is the same.
    Same(String),
}

impl Download<'_> {
    /// Loads it.
    pub(super) fn load(&self) -> Result<Got, PullError> {
        let key = self.wanted.source.key();
        let mut part = Part::open(self.target)?;
        if let Some(rejected) = part.notes.rejected.clone() {
            // The manifest may have been corrected to what came.
            if self.wanted.sha256.as_ref() == Some(&rejected)
                && part.notes.from == key
                && part.sum()? == rejected
            {
                return self.name(part, 0, Some(rejected));
            }
            part.reset(&key)?;
        }
        // Without a sum nothing would find the zeros that a power cut may leave.
        let trusted =
            part.is_of_this_boot() || self.wanted.sha256.is_some() || part.notes.sum.is_some();
        if part.notes.from != key || !trusted || part.have() == 0 {
            part.reset(&key)?;
        }
        let pieced = part.have() > 0;
        let mut course = Course {
            part,
            came: 0,
            anew: false,
            pieced,
            told: Told::default(),
        };
        match self.tries(&mut course, &key) {
            Ok(Come::Whole) => {
                let sum = self.expected(&course);
                self.name(course.part, course.came, sum)
            }
            Ok(Come::Same(file)) => {
                course.part.release();
                Ok(Got::Same(file))
            }
            Err(error) => {
                course.part.release();
                Err(error)
            }
        }
    }

    /// Tries until it is there and is what is wanted.
    fn tries(&self, course: &mut Course, key: &str) -> Result<Come, PullError> {
        let url = self.client.hosts.address(&self.wanted.source);
        if let (Source::Civitai { version }, None) = (&self.wanted.source, &self.wanted.sha256) {
            match self.client.civitai(*version) {
                Ok(told) => course.told = told,
                Err(Fault::Final(error)) => return Err(error),
                // The file matters more than its sum.
                Err(Fault::Again { .. }) => {}
            }
        }
        let mut failures = 0;
        loop {
            let before = course.came;
            // Killed between the last byte and the name.
            let is_whole =
                course.part.have() > 0 && course.part.notes.total == Some(course.part.have());
            let come = if is_whole {
                Ok(Come::Whole)
            } else {
                self.attempt(&url, course)
            };
            let (why, after) = match come {
                Ok(Come::Same(file)) => return Ok(Come::Same(file)),
                Ok(Come::Whole) => {
                    if self.is_right(course, key)? {
                        return Ok(Come::Whole);
                    }
                    (
                        "what came in pieces is not what is wanted; it is loaded anew".to_owned(),
                        Some(Duration::ZERO),
                    )
                }
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Again { why, after }) => (why, after),
            };
            if course.came - before >= PROGRESS {
                failures = 0;
            }
            failures += 1;
            if failures >= self.patience.tries {
                let kept = course.part.have();
                return Err(PullError::Network {
                    url: shown(&url),
                    why,
                    tries: failures,
                    kept,
                });
            }
            let wait = self
                .patience
                .wait
                .saturating_mul(1 << (failures - 1).min(10))
                .min(LONGEST_WAIT);
            let wait = after.map_or(wait, |after| after.min(LONGEST_ASKED));
            (self.tell)(Step::Again {
                why,
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            });
            std::thread::sleep(wait);
        }
    }

    /// The sum that it must have: the manifest's word, else its source's.
    fn expected(&self, course: &Course) -> Option<String> {
        let sums = [
            &self.wanted.sha256,
            &course.told.sum,
            &course.part.notes.sum,
        ];
        sums.into_iter().find_map(Clone::clone)
    }

    /// Whether the whole file is what is wanted. `false`: it has been thrown away, to be loaded in one piece.
    fn is_right(&self, course: &mut Course, key: &str) -> Result<bool, PullError> {
        (self.tell)(Step::Checking);
        let have = course.part.have();
        if let Some(wanted) = self.wanted.size.filter(|wanted| *wanted != have) {
            return Err(PullError::Size {
                url: self.wanted.source.to_string(),
                told: have,
                wanted,
            });
        }
        let Some(wanted) = self.expected(course) else {
            return Ok(true);
        };
        let got = course.part.sum()?;
        if got == wanted {
            return Ok(true);
        }
        if course.pieced && !course.anew {
            course.anew = true;
            course.pieced = false;
            course.part.reset(key)?;
            return Ok(false);
        }
        course.part.notes.rejected = Some(got.clone());
        course.part.note(self.target)?;
        let part = course.part.path.clone();
        Err(PullError::Hash {
            file: self.target.to_owned(),
            part,
            got,
            wanted,
        })
    }

    /// Gives the whole file its name, and notes what it is.
    fn name(&self, mut part: Part, bytes: u64, sum: Option<String>) -> Result<Got, PullError> {
        let checked = sum.is_some();
        let sum = match sum {
            Some(sum) => sum,
            None => part.sum()?,
        };
        let size = part.have();
        let meta = part.become_file(self.target)?;
        let entry = Entry::new(&meta, sum, Some(self.wanted.source.key()));
        Index::note(self.store, &self.wanted.file, entry)?;
        Ok(Got::Loaded {
            bytes,
            size,
            checked,
        })
    }
}
