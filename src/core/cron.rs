//! When an app is restarted by the clock: `cron_restart`, as a pure function of pattern, moment and time zone.

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use std::cmp::Ordering;
use std::fmt;

/// The longest time that is waited before the wall clock is looked at again: a clock that was set is noticed by then.
const LONGEST_WAIT_MS: u64 = 30_000;

/// A pattern of five fields, or six with seconds first.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({})", self.text)
    }
}

/// Why a pattern is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not five or six fields; the words are those of pm2 7.0.4, its spelling included, which scripts look for.
    #[error(
        "CronPattern: invalid configuration format ('{0}'), exacly five or six space separated parts required."
    )]
    Fields(String),
    /// A field is wrong.
    #[error("CronPattern: '{text}': {why}")]
    Field {
        /// The pattern.
        text: String,
        /// What is wrong.
        why: String,
    },
}

impl Schedule {
    /// Reads a pattern. Nicknames (`@daily`) and years are refused, as PM2 refuses them.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if !(5..=6).contains(&text.split_whitespace().count()) {
            return Err(PatternError::Fields(text.to_owned()));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        match parser.parse(text) {
            Ok(cron) => Ok(Self {
                text: text.to_owned(),
                cron,
            }),
            Err(error) => Err(PatternError::Field {
                text: text.to_owned(),
                why: error.to_string(),
            }),
        }
    }

    /// The pattern.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first moment after `now_ms` (milliseconds since the Unix epoch) that the pattern names in this time zone.
    /// `None` if there is none that a person could live to see, as on the 31st of February.
    pub fn next(&self, now_ms: u64, zone: &TimeZone) -> Option<u64> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let from = Moment(now.to_zoned_datetime(zone.clone()));
        let found = self.cron.find_next_occurrence(&from, false).ok()?;
        u64::try_from(found.0.timestamp().as_millisecond()).ok()
    }
}

/// What is to be done at a look at the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Its time has come. Once, however many times have passed since the last look.
    Fire {
        /// The time after that.
        next: Option<u64>,
        /// How long to wait until the next look, in milliseconds.
        wait_ms: u64,
    },
    /// Not yet. A clock that was set back makes the time that was waited for anew.
    Wait {
        /// The time waited for.
        next: Option<u64>,
        /// How long to wait until the next look, in milliseconds.
        wait_ms: u64,
    },
}

/// Looks at the wall clock, `due` being the time that was waited for.
pub fn look(schedule: &Schedule, due: Option<u64>, now_ms: u64, zone: &TimeZone) -> Look {
    let next = schedule.next(now_ms, zone);
    let wait_ms = next.map_or(LONGEST_WAIT_MS, |at| {
        at.saturating_sub(now_ms).clamp(1, LONGEST_WAIT_MS)
    });
    if due.is_some_and(|due| due <= now_ms) {
        Look::Fire { next, wait_ms }
    } else {
        Look::Wait { next, wait_ms }
    }
}

/// A moment in a time zone, as the pattern's search walks it.
#[derive(Clone)]
struct Moment(ZonedDateTime);

impl CronDateTime for Moment {
    fn to_civil(&self) -> CivilDateTime {
        let local = self.0.datetime();
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(
                i32::from(local.year()),
                u32::from(local.month().unsigned_abs()),
                u32::from(local.day().unsigned_abs()),
            ),
            CivilTime::from_parts_unchecked(
                u32::from(local.hour().unsigned_abs()),
                u32::from(local.minute().unsigned_abs()),
                u32::from(local.second().unsigned_abs()),
            ),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        let days = self.0.weekday().to_sunday_zero_offset();
        Weekday::from_days_from_sunday(u32::from(days.unsigned_abs()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let small = |part: u32| i8::try_from(part).map_err(|_| CronError::InvalidDate);
        let local = jiff::civil::DateTime::new(
            year,
            small(civil.month())?,
            small(civil.day())?,
            small(civil.hour())?,
            small(civil.minute())?,
            small(civil.second())?,
            0,
        )
        .map_err(|_| CronError::InvalidDate)?;
        let ambiguous = self.0.time_zone().to_ambiguous_zoned_datetime(local);
        let whole = |zoned: Result<ZonedDateTime, jiff::Error>| {
            zoned.map(Moment).map_err(|_| CronError::InvalidTime)
        };
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                Resolution::Single(whole(ambiguous.unambiguous())?)
            }
            AmbiguousOffset::Fold { .. } => Resolution::Ambiguous(
                whole(ambiguous.clone().earlier())?,
                whole(ambiguous.later())?,
            ),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        let later = self.0.checked_add(SignedDuration::from_secs(seconds));
        later.ok().map(Moment)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    fn next(pattern: &str, now: &str, zone: &TimeZone) -> Option<String> {
        let at = Schedule::parse(pattern).unwrap().next(ms(now), zone)?;
        Some(Timestamp::from_millisecond(at as i64).unwrap().to_string())
    }

    /// Central European time by its rule, so that the test needs no zone file.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn the_next_time_is_strictly_later_and_in_the_zone() {
        let cases = [
            (
                "*/5 * * * *",
                "2026-01-01T00:00:00Z",
                "2026-01-01T00:05:00Z",
            ),
            (
                "*/3 * * * * *",
                "2026-01-01T00:00:01Z",
                "2026-01-01T00:00:03Z",
            ),
            ("0 0 * * *", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("30 4 1 * 1", "2026-01-02T00:00:00Z", "2026-01-05T04:30:00Z"),
            (
                "0 9 * * MON-FRI",
                "2026-01-02T10:00:00Z",
                "2026-01-05T09:00:00Z",
            ),
            ("0 0 * * 7", "2026-01-02T10:00:00Z", "2026-01-04T00:00:00Z"),
            (
                "0 12 29 2 *",
                "2026-01-01T00:00:00Z",
                "2028-02-29T12:00:00Z",
            ),
        ];
        for (pattern, now, want) in cases {
            let found = next(pattern, now, &TimeZone::UTC);
            assert_eq!(found.as_deref(), Some(want), "{pattern} after {now}");
        }
        let local = next("0 3 * * *", "2026-01-01T00:00:00Z", &berlin());
        assert_eq!(local.as_deref(), Some("2026-01-01T02:00:00Z"));
    }

    #[test]
    fn the_change_of_the_clock_in_autumn_skips_no_minute_and_doubles_no_day() {
        // 02:00 to 03:00 comes twice, from 00:00Z and from 01:00Z.
        let minutely = next("* * * * *", "2026-10-25T00:59:00Z", &berlin());
        assert_eq!(minutely.as_deref(), Some("2026-10-25T01:00:00Z"));
        let first = next("30 2 * * *", "2026-10-24T12:00:00Z", &berlin()).unwrap();
        assert_eq!(first, "2026-10-25T00:30:00Z");
        let second = next("30 2 * * *", &first, &berlin());
        assert_eq!(second.as_deref(), Some("2026-10-26T01:30:00Z"));
    }

    #[test]
    fn a_time_that_spring_leaves_out_comes_once_at_its_end() {
        let fired = next("30 2 * * *", "2026-03-28T12:00:00Z", &berlin()).unwrap();
        assert!(fired.starts_with("2026-03-29T01:"), "{fired}");
        let after = next("30 2 * * *", &fired, &berlin());
        assert_eq!(after.as_deref(), Some("2026-03-30T00:30:00Z"));
    }

    #[test]
    fn what_pm2_refuses_is_refused() {
        for pattern in ["bad pat", "* * * * * * *", "@daily", ""] {
            let error = Schedule::parse(pattern).unwrap_err().to_string();
            let want = format!(
                "CronPattern: invalid configuration format ('{pattern}'), exacly five or six space separated parts required."
            );
            assert_eq!(error, want);
        }
        for pattern in ["61 * * * *", "a b c d e", "*/0 * * * *", "* 25 * * *"] {
            let error = Schedule::parse(pattern).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("CronPattern: '{pattern}': ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_day_that_never_comes_is_none() {
        assert_eq!(
            next("0 0 31 2 *", "2026-01-01T00:00:00Z", &TimeZone::UTC),
            None
        );
    }

    #[test]
    fn a_clock_that_jumps_fires_once_and_not_for_each_time_it_passed() {
        let each_minute = Schedule::parse("* * * * *").unwrap();
        let look =
            |due: &str, now: &str| look(&each_minute, Some(ms(due)), ms(now), &TimeZone::UTC);
        let forward = look("2026-01-01T00:01:00Z", "2026-01-01T07:00:20Z");
        let next = Some(ms("2026-01-01T07:01:00Z"));
        assert_eq!(
            forward,
            Look::Fire {
                next,
                wait_ms: 30_000
            }
        );
        // Set back by an hour: the time that comes now is waited for, not the one an hour and a minute away.
        let back = look("2026-01-01T01:01:00Z", "2026-01-01T00:00:50Z");
        let next = Some(ms("2026-01-01T00:01:00Z"));
        assert_eq!(
            back,
            Look::Wait {
                next,
                wait_ms: 10_000
            }
        );
    }
}
