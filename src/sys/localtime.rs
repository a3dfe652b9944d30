//! Local time of day: the machine's time zone over the core's date patterns.

use crate::core::dateformat::{BrokenTime, DateFormat};
use jiff::{Timestamp, tz::TimeZone};
use std::sync::OnceLock;

/// The zone of a machine whose environment names none.
const ZONE_FILE: &str = "/etc/localtime";

/// The machine's time zone, looked up once.
#[derive(Debug)]
pub struct LocalClock(TimeZone);

impl LocalClock {
    /// By `TZ` or /etc/localtime.
    pub fn system() -> Self {
        static ZONE: OnceLock<TimeZone> = OnceLock::new();
        Self(ZONE.get_or_init(zone).clone())
    }

    /// Coordinated Universal Time.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The time zone itself.
    pub fn zone(&self) -> TimeZone {
        self.0.clone()
    }

    /// The parts of a moment, given in milliseconds since the Unix epoch.
    pub fn broken(&self, wall_ms: u64) -> BrokenTime {
        let stamp = i64::try_from(wall_ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .unwrap_or(Timestamp::MAX);
        let zoned = stamp.to_zoned_datetime(self.0.clone());
        // jiff's parts are within these types' ranges by their definition.
        BrokenTime {
            year: i32::from(zoned.year()),
            month: zoned.month() as u8,
            day: zoned.day() as u8,
            weekday: zoned.weekday().to_sunday_zero_offset() as u8,
            hour: zoned.hour() as u8,
            minute: zoned.minute() as u8,
            second: zoned.second() as u8,
            millis: zoned.millisecond() as u16,
            offset_minutes: zoned.offset().seconds() / 60,
        }
    }
}

/// The file itself where it decides: by its name jiff would list the whole zone database first, which costs a start a hundred
/// system calls and the process 110 kB for its life.
fn zone() -> TimeZone {
    let file = match std::env::var_os("TZ") {
        None => std::fs::read(ZONE_FILE).ok(),
        Some(_) => None,
    };
    let known = file.and_then(|bytes| TimeZone::tzif("local", &bytes).ok());
    known.unwrap_or_else(TimeZone::system)
}

/// A moment in local time by a pattern of dayjs tokens.
pub fn text(pattern: &str, wall_ms: u64) -> String {
    DateFormat::parse(pattern).text(&LocalClock::system().broken(wall_ms))
}
