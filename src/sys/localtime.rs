//! Local time of day: the machine's time zone over the core's date patterns.

use crate::core::dateformat::{BrokenTime, DateFormat};
use jiff::{Timestamp, tz::TimeZone};

/// The machine's time zone, looked up once.
#[derive(Debug)]
pub struct LocalClock(TimeZone);

impl LocalClock {
    /// By `TZ` or /etc/localtime.
    pub fn system() -> Self {
        Self(TimeZone::system())
    }

    /// Coordinated Universal Time.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
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

/// A moment in local time by a pattern of dayjs tokens.
pub fn text(pattern: &str, wall_ms: u64) -> String {
    DateFormat::parse(pattern).text(&LocalClock::system().broken(wall_ms))
}
