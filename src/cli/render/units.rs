//! Durations, sizes and dates in the short forms of PM2's tables.

/// Bytes in a kibibyte; every larger unit is 1024 of the one before.
const STEP: u64 = 1024;

/// The units above a plain byte, smallest first.
const SIZE_UNITS: [&str; 5] = ["kb", "mb", "gb", "tb", "pb"];

/// A duration in milliseconds as `45s`, `119s`, `2m`, `47h`, `2D`, `24M`, `8Y`.
///
/// The largest unit of which there are at least two is used, rounded down; a month has 30 days and a year 365
/// (pm2 7.0.4). Below two minutes it is seconds, from `0s`.
pub fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    let minutes = seconds / 60;
    let hours = minutes / 60;
    let days = hours / 24;
    let larger = [
        (days / 365, "Y"),
        (days / 30, "M"),
        (days, "D"),
        (hours, "h"),
        (minutes, "m"),
    ];
    match larger.iter().find(|(count, _)| *count > 1) {
        Some((count, unit)) => format!("{count}{unit}"),
        None => format!("{seconds}s"),
    }
}

/// A size in bytes as `0b`, `1023b`, `1.0kb`, `50.0mb`, `1.3gb`: 1024-based, one decimal, half rounded up (pm2 7.0.4).
pub fn memory(bytes: u64) -> String {
    let mut unit = STEP;
    let mut name = None;
    for candidate in SIZE_UNITS {
        if bytes < unit {
            break;
        }
        name = Some((candidate, unit));
        unit = unit.saturating_mul(STEP);
    }
    let Some((name, unit)) = name else {
        return format!("{bytes}b");
    };
    let (bytes, unit) = (u128::from(bytes), u128::from(unit));
    let tenths = (bytes * 20 + unit) / (unit * 2);
    format!("{}.{}{name}", tenths / 10, tenths % 10)
}

/// Milliseconds since the Unix epoch as `2026-11-23T14:48:43.870Z`; `None` outside the years a date can have.
pub fn iso(ms: i64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?; // Only the range can be wrong, and `None` says so.
    Some(at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_switches_up_only_when_there_are_two_of_a_unit() {
        const DAY: u64 = 86_400_000;
        for (ms, want) in [
            (0, "0s"),
            (999, "0s"),
            (59_999, "59s"),
            (119_999, "119s"),
            (120_000, "2m"),
            (7_199_000, "119m"),
            (7_200_000, "2h"),
            (2 * DAY - 1000, "47h"),
            (2 * DAY, "2D"),
            (59 * DAY, "59D"),
            (60 * DAY, "2M"),
            (729 * DAY, "24M"),
            (730 * DAY, "2Y"),
            (3000 * DAY, "8Y"),
        ] {
            assert_eq!(uptime(ms), want, "{ms}");
        }
        uptime(u64::MAX);
    }

    #[test]
    fn memory_has_one_decimal_above_a_kibibyte() {
        for (bytes, want) in [
            (0, "0b"),
            (1023, "1023b"),
            (1024, "1.0kb"),
            (1536, "1.5kb"),
            (1_310_720, "1.3mb"),
            (52_428_800, "50.0mb"),
            (1_073_741_823, "1024.0mb"),
            (1_352_914_698, "1.3gb"),
            (2_199_023_255_552, "2.0tb"),
        ] {
            assert_eq!(memory(bytes), want, "{bytes}");
        }
        memory(u64::MAX);
    }

    #[test]
    fn dates_are_in_utc_with_milliseconds() {
        assert_eq!(
            iso(1_795_419_954_844).as_deref(),
            Some("2026-11-23T07:45:54.844Z")
        );
        assert_eq!(iso(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(iso(i64::MAX), None);
    }
}
