//! The id of a server-sent event: how far a follower has come in every stream, and in which life of the daemon.
//!
//! `1760085000000.0o12.0e3` says: in the daemon that started at that moment, line 12 of instance 0's standard output and line 3 of
//! its standard error are known.

use crate::core::ids::{PmId, Stream};
use std::collections::BTreeMap;
use std::fmt;

/// The longest id that is read, in bytes.
const LONGEST: usize = 12 << 10;

/// The number of the last known line by stream.
pub(super) type Known = BTreeMap<(PmId, Stream), u64>;

/// How far a follower has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventId {
    /// When the daemon started, in milliseconds since the Unix epoch: it names its life, in which lines are numbered.
    pub life: u64,
    /// What is known of each stream.
    pub known: Known,
}

impl EventId {
    /// From what [`fmt::Display`] wrote; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let mut parts = text.split('.');
        let life = number(parts.next()?)?;
        let mut known = BTreeMap::new();
        for part in parts {
            let at = part.find(['o', 'e'])?;
            let stream = if part[at..].starts_with('o') {
                Stream::Out
            } else {
                Stream::Err
            };
            let id = u32::try_from(number(&part[..at])?).ok()?;
            known.insert((PmId(id), stream), number(&part[at + 1..])?);
        }
        Some(Self { life, known })
    }
}

/// Digits only; std's parser takes a sign too.
fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.life)?;
        for ((id, stream), seq) in &self.known {
            let letter = match stream {
                Stream::Out => 'o',
                Stream::Err => 'e',
            };
            write!(f, ".{id}{letter}{seq}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_id_is_none() {
        for text in [
            "",
            ".",
            "x",
            "1.",
            "1.0",
            "1.0x3",
            "1.o3",
            "1.0o",
            "1.0o-3",
            "1.+0o3",
            "-1",
            "1.99999999999o3",
            "1.0o3.",
            "1.é",
        ] {
            assert_eq!(EventId::parse(text), None, "{text:?}");
        }
        assert_eq!(EventId::parse(&format!("1{}", ".0o1".repeat(10_000))), None);
        assert!(EventId::parse("1").is_some());
    }

    proptest! {
        #[test]
        fn an_id_reads_back_as_it_was_written(life: u64, known: BTreeMap<(u32, bool), u64>) {
            let stream = |out| if out { Stream::Out } else { Stream::Err };
            let known = known.into_iter().map(|((id, out), seq)| ((PmId(id), stream(out)), seq)).collect();
            let id = EventId { life, known };
            prop_assume!(id.to_string().len() <= LONGEST);
            prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = EventId::parse(&text);
        }
    }
}
