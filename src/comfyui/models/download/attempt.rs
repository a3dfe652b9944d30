//! One answer: whether it is what was asked for, and its bytes.

use super::{Come, Course, Download};
use crate::comfyui::models::error::PullError;
use crate::comfyui::models::event::Step;
use crate::comfyui::models::hash::CHUNK;
use crate::comfyui::models::http::{Ask, Fault, Reply, Told, words};
use crate::comfyui::models::index::Index;
use crate::comfyui::models::source::shown;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use url::Url;

/// How often a listener hears of bytes.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// Fewer bytes than these in the time of a stall are none.
const TRICKLE: u64 = 1 << 10;

impl Download<'_> {
    /// One answer, as far as it comes.
    pub(super) fn attempt(&self, url: &Url, course: &mut Course) -> Result<Come, Fault> {
        let key = self.wanted.source.key();
        // Pieces whose change nothing would show must come by one answer.
        if course.part.have() > 0
            && course.part.notes.validator.is_none()
            && self.expected(course).is_none()
        {
            course.part.reset(&key)?;
        }
        let asked = course.part.have();
        let validator = course.part.notes.validator.clone();
        let mut reply = self.client.open(&Ask {
            url,
            from: asked,
            if_range: validator.as_deref(),
        })?;
        if let Some(same) = self.announced(url, &mut reply, course, &key)? {
            return Ok(Come::Same(same));
        }
        let have = course.part.have();
        let total = match reply.status {
            206 if have == asked && reply.range.0 == Some(have) && have > 0 => {
                course.pieced = true;
                reply.range.1.or_else(|| Some(have + reply.length?))
            }
            416 if have > 0 && reply.range.1.or(course.part.notes.total) == Some(have) => {
                return Ok(Come::Whole);
            }
            206 | 416 if asked > 0 => {
                course.part.reset(&key)?;
                return Err(Fault::again(
                    "it does not send the part that was asked for; the file is loaded anew",
                ));
            }
            206 | 416 => {
                return Err(PullError::Status {
                    url: shown(url),
                    status: reply.status,
                }
                .into());
            }
            _ => {
                if have > 0 {
                    // No Range here, or the file has changed: it comes from its start.
                    course.part.reset(&key)?;
                    course.pieced = false;
                }
                reply.length
            }
        };
        self.fits(url, total, &reply.told)?;
        let notes = &mut course.part.notes;
        notes.total = total;
        notes.validator = reply.validator.take();
        notes.sum = course.told.sum.clone();
        course.part.note(self.target)?;
        if let Some(total) = total {
            course.part.reserve(self.target, total)?;
        }
        if course.part.have() > 0 {
            (self.tell)(Step::Checking);
        }
        course.part.go_on()?;
        (self.tell)(Step::Begin {
            have: course.part.have(),
            total,
        });
        self.stream(reply, total, course)
    }

    /// Compares what the source announces with what is wanted, and with what is there. A file that is the same, if there is one.
    fn announced(
        &self,
        url: &Url,
        reply: &mut Reply,
        course: &mut Course,
        key: &str,
    ) -> Result<Option<String>, Fault> {
        if reply.told.sum.is_some() {
            course.told = reply.told.clone();
        }
        let Some(told) = course.told.sum.clone() else {
            return Ok(None);
        };
        if let Some(wanted) = self
            .wanted
            .sha256
            .as_ref()
            .filter(|wanted| **wanted != told)
        {
            return Err(PullError::Announced {
                url: shown(url),
                told,
                wanted: wanted.clone(),
            }
            .into());
        }
        let noted = course.part.notes.sum.as_ref();
        if course.part.have() > 0 && noted.is_some_and(|noted| *noted != told) {
            course.part.reset(key)?;
            return Err(Fault::again(
                "the file has changed at its source; it is loaded anew",
            ));
        }
        let same = || Index::load(self.store).same(self.store, &told, &self.wanted.file);
        Ok(self.may_link.then(same).flatten())
    }

    /// Whether the size that is announced is the one that is wanted.
    fn fits(&self, url: &Url, total: Option<u64>, told: &Told) -> Result<(), Fault> {
        if let (Some(wanted), Some(told)) = (self.wanted.size, told.size.or(total))
            && wanted != told
        {
            return Err(PullError::Size {
                url: shown(url),
                told,
                wanted,
            }
            .into());
        }
        match (told.size, total) {
            (Some(told), Some(total)) if told != total => Err(Fault::again(format!(
                "it announces {told} bytes and sends {total}"
            ))),
            _ => Ok(()),
        }
    }

    /// Takes the bytes.
    fn stream(
        &self,
        mut reply: Reply,
        total: Option<u64>,
        course: &mut Course,
    ) -> Result<Come, Fault> {
        let mut buffer = vec![0; CHUNK];
        let mut told_at = Instant::now();
        let mut window = (Instant::now(), 0_u64);
        loop {
            let read = match reply.body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // ureq's own failures come wrapped.
                    let inner = error
                        .get_ref()
                        .and_then(|inner| inner.downcast_ref::<ureq::Error>());
                    let why = inner.map_or_else(|| error.to_string(), words);
                    return Err(Fault::again(format!("the connection broke: {why}")));
                }
            };
            let bytes = read as u64;
            if total.is_some_and(|total| course.part.have() + bytes > total) {
                course.part.reset(&self.wanted.source.key())?;
                return Err(Fault::again(
                    "more came than was announced; it is loaded anew",
                ));
            }
            course.part.write(self.target, &buffer[..read])?;
            course.came += bytes;
            window.1 += bytes;
            if window.0.elapsed() >= self.patience.stall {
                if window.1 < TRICKLE {
                    return Err(Fault::again(format!(
                        "only {} bytes came in {:?}",
                        window.1, self.patience.stall
                    )));
                }
                window = (Instant::now(), 0);
            }
            if told_at.elapsed() >= TOLD_EVERY {
                told_at = Instant::now();
                (self.tell)(Step::Bytes {
                    have: course.part.have(),
                    total,
                });
            }
        }
        let have = course.part.have();
        match total.or(self.wanted.size) {
            Some(total) if have < total => Err(Fault::again(format!(
                "the connection ended after {have} of {total} bytes"
            ))),
            _ => Ok(Come::Whole),
        }
    }
}
