//! Date patterns as PM2's `log_date_format` writes them (dayjs 1.11 tokens), over a broken-down time.
//!
//! The look-up of the local time zone is outside: this file is pure.

use std::fmt::Write as _;

/// The longest pattern that is read; what is past it is ignored. In bytes.
pub const MAX_PATTERN: usize = 256;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A local time in the parts people write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenTime {
    /// Year of the common era.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 (Sunday) to 6.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
    /// 0 to 999.
    pub millis: u16,
    /// Minutes east of UTC.
    pub offset_minutes: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Year4,
    Year2,
    Month,
    Month2,
    MonthShort,
    MonthLong,
    Day,
    Day2,
    Weekday,
    WeekdayMin,
    WeekdayShort,
    WeekdayLong,
    Hour,
    Hour2,
    Hour12,
    Hour12Two,
    Minute,
    Minute2,
    Second,
    Second2,
    Millis,
    Offset,
    OffsetBare,
    MeridiemUpper,
    MeridiemLower,
}

/// A pattern, parsed once.
///
/// As dayjs 1.11.15 (measured): unknown letters stand for themselves, `[…]` is text, and `Y` or `YYY` alone give the
/// offset (`+0530`), which is a quirk of dayjs that we keep so that no stamp changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateFormat {
    pieces: Vec<Piece>,
    millis: bool,
}

impl DateFormat {
    /// Parses a pattern. Every text is a pattern; an empty one means dayjs's default, `YYYY-MM-DDTHH:mm:ssZ`.
    pub fn parse(pattern: &str) -> Self {
        let mut rest = if pattern.is_empty() {
            "YYYY-MM-DDTHH:mm:ssZ"
        } else {
            pattern
        };
        let mut end = rest.len().min(MAX_PATTERN);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        rest = &rest[..end];
        let mut pieces = Vec::new();
        while let Some(first) = rest.chars().next() {
            let (piece, used) = next_piece(rest, first);
            rest = &rest[used..];
            match (pieces.last_mut(), piece) {
                (Some(Piece::Text(before)), Piece::Text(more)) => before.push_str(&more),
                (_, piece) => pieces.push(piece),
            }
        }
        let millis = pieces.contains(&Piece::Millis);
        Self { pieces, millis }
    }

    /// Whether two times of one second can give different text.
    pub fn shows_millis(&self) -> bool {
        self.millis
    }

    /// Appends the text of `time`.
    pub fn write(&self, time: &BrokenTime, out: &mut String) {
        for piece in &self.pieces {
            write_piece(piece, time, out);
        }
    }

    /// The text of `time`.
    pub fn text(&self, time: &BrokenTime) -> String {
        let mut out = String::with_capacity(32);
        self.write(time, &mut out);
        out
    }
}

/// The first piece of `rest` and how many bytes it takes; `first` is its first character.
fn next_piece(rest: &str, first: char) -> (Piece, usize) {
    if first == '['
        && let Some(close) = rest.find(']')
        && close > 1
    {
        return (Piece::Text(rest[1..close].to_owned()), close + 1);
    }
    let most = match first {
        'Y' | 'M' | 'd' => 4,
        'D' | 'H' | 'h' | 'm' | 's' | 'Z' => 2,
        'S' => 3,
        _ => 1,
    };
    let run = rest.chars().take(most).take_while(|c| *c == first).count();
    let piece = match (first, run) {
        ('Y', 4) => Piece::Year4,
        ('Y', 2) => Piece::Year2,
        ('Y', _) => Piece::OffsetBare,
        ('M', 1) => Piece::Month,
        ('M', 2) => Piece::Month2,
        ('M', 3) => Piece::MonthShort,
        ('M', _) => Piece::MonthLong,
        ('D', 1) => Piece::Day,
        ('D', _) => Piece::Day2,
        ('d', 1) => Piece::Weekday,
        ('d', 2) => Piece::WeekdayMin,
        ('d', 3) => Piece::WeekdayShort,
        ('d', _) => Piece::WeekdayLong,
        ('H', 1) => Piece::Hour,
        ('H', _) => Piece::Hour2,
        ('h', 1) => Piece::Hour12,
        ('h', _) => Piece::Hour12Two,
        ('m', 1) => Piece::Minute,
        ('m', _) => Piece::Minute2,
        ('s', 1) => Piece::Second,
        ('s', _) => Piece::Second2,
        ('S', 3) => Piece::Millis,
        ('S', _) => return (Piece::Text("S".to_owned()), 1),
        ('Z', 1) => Piece::Offset,
        ('Z', _) => Piece::OffsetBare,
        ('A', _) => Piece::MeridiemUpper,
        ('a', _) => Piece::MeridiemLower,
        (other, _) => return (Piece::Text(other.to_string()), other.len_utf8()),
    };
    (piece, run)
}

fn write_piece(piece: &Piece, time: &BrokenTime, out: &mut String) {
    let month = MONTHS[usize::from(time.month.clamp(1, 12)) - 1];
    let day = DAYS[usize::from(time.weekday % 7)];
    let hour12 = if time.hour.is_multiple_of(12) {
        12
    } else {
        time.hour % 12
    };
    let pm = time.hour >= 12;
    // Writing to a String cannot fail.
    let _ = match piece {
        Piece::Text(text) => out.write_str(text),
        Piece::Year4 => write!(out, "{:04}", time.year),
        Piece::Year2 => write!(out, "{:02}", time.year.rem_euclid(100)),
        Piece::Month => write!(out, "{}", time.month),
        Piece::Month2 => write!(out, "{:02}", time.month),
        Piece::MonthShort => out.write_str(&month[..3]),
        Piece::MonthLong => out.write_str(month),
        Piece::Day => write!(out, "{}", time.day),
        Piece::Day2 => write!(out, "{:02}", time.day),
        Piece::Weekday => write!(out, "{}", time.weekday),
        Piece::WeekdayMin => out.write_str(&day[..2]),
        Piece::WeekdayShort => out.write_str(&day[..3]),
        Piece::WeekdayLong => out.write_str(day),
        Piece::Hour => write!(out, "{}", time.hour),
        Piece::Hour2 => write!(out, "{:02}", time.hour),
        Piece::Hour12 => write!(out, "{hour12}"),
        Piece::Hour12Two => write!(out, "{hour12:02}"),
        Piece::Minute => write!(out, "{}", time.minute),
        Piece::Minute2 => write!(out, "{:02}", time.minute),
        Piece::Second => write!(out, "{}", time.second),
        Piece::Second2 => write!(out, "{:02}", time.second),
        Piece::Millis => write!(out, "{:03}", time.millis),
        Piece::Offset => write_offset(time.offset_minutes, ":", out),
        Piece::OffsetBare => write_offset(time.offset_minutes, "", out),
        Piece::MeridiemUpper => out.write_str(if pm { "PM" } else { "AM" }),
        Piece::MeridiemLower => out.write_str(if pm { "pm" } else { "am" }),
    };
}

fn write_offset(minutes: i32, between: &str, out: &mut String) -> std::fmt::Result {
    let sign = if minutes < 0 { '-' } else { '+' };
    let size = minutes.unsigned_abs();
    write!(out, "{sign}{:02}{between}{:02}", size / 60, size % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NIGHT: BrokenTime = BrokenTime {
        year: 2026,
        month: 3,
        day: 8,
        weekday: 0,
        hour: 0,
        minute: 5,
        second: 9,
        millis: 42,
        offset_minutes: 330,
    };
    const NOON: BrokenTime = BrokenTime {
        year: 2026,
        month: 12,
        day: 24,
        weekday: 4,
        hour: 13,
        minute: 45,
        second: 59,
        millis: 7,
        offset_minutes: 330,
    };

    /// What dayjs 1.11.15 itself wrote for these patterns.
    #[test]
    fn every_pattern_gives_what_dayjs_gives() {
        for (pattern, night, noon) in [
            (
                "YYYY-MM-DDTHH:mm:ss",
                "2026-03-08T00:05:09",
                "2026-12-24T13:45:59",
            ),
            (
                "YYYY-MM-DD HH:mm:ss.SSS Z",
                "2026-03-08 00:05:09.042 +05:30",
                "2026-12-24 13:45:59.007 +05:30",
            ),
            (
                "YY M D d dd ddd dddd",
                "26 3 8 0 Su Sun Sunday",
                "26 12 24 4 Th Thu Thursday",
            ),
            ("MMM MMMM", "Mar March", "Dec December"),
            (
                "H HH h hh m mm s ss SSS",
                "0 00 12 12 5 05 9 09 042",
                "13 13 1 01 45 45 59 59 007",
            ),
            ("A a", "AM am", "PM pm"),
            ("Z ZZ", "+05:30 +0530", "+05:30 +0530"),
            ("[at] HH [o'clock]", "at 00 o'clock", "at 13 o'clock"),
            ("Y YYY", "+0530 +0530", "+0530 +0530"),
            ("DDD", "088", "2424"),
            ("S SS SSSS", "S SS 042S", "S SS 007S"),
            ("[]YYYY", "[]2026", "[]2026"),
            ("[open YYYY", "[open 2026", "[open 2026"),
            ("Do Q", "8o Q", "24o Q"),
            ("x X", "x X", "x X"),
            ("", "2026-03-08T00:05:09+05:30", "2026-12-24T13:45:59+05:30"),
            ("YYYYY", "2026+0530", "2026+0530"),
            ("ZZZ", "+0530+05:30", "+0530+05:30"),
            ("ddddd", "Sunday0", "Thursday4"),
            ("HHH", "000", "1313"),
            ("MMMMM", "March3", "December12"),
            ("[a][b]c", "abc", "abc"),
            ("[[x]]", "[x]", "[x]"),
            ("DD/MM/YYYY é", "08/03/2026 é", "24/12/2026 é"),
        ] {
            let format = DateFormat::parse(pattern);
            assert_eq!(format.text(&NIGHT), night, "{pattern:?}");
            assert_eq!(format.text(&NOON), noon, "{pattern:?}");
        }
    }

    #[test]
    fn an_offset_west_of_utc_has_a_minus() {
        let time = BrokenTime {
            offset_minutes: -210,
            ..NOON
        };
        assert_eq!(DateFormat::parse("Z ZZ").text(&time), "-03:30 -0330");
    }

    #[test]
    fn only_a_pattern_with_millis_changes_within_a_second() {
        assert!(DateFormat::parse("HH:mm:ss.SSS").shows_millis());
        assert!(!DateFormat::parse("HH:mm:ss [SSS]").shows_millis());
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern(pattern in "\\PC{0,300}") {
            DateFormat::parse(&pattern).text(&NOON);
        }
    }
}
