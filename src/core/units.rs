//! Durations and sizes with their units in the type, and the ways people write them (`"10s"`, `"512M"`).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::Duration;

/// A duration in whole milliseconds. In files it is a number of milliseconds, or text with a unit:
/// `ms`, `s`, `m`, `h`, `d` (`"1500"`, `"10s"`, `"5m"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema)]
#[schemars(with = "DurationForm")]
pub struct Millis(pub u64);

/// How a duration may be written in a file.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum DurationForm {
    /// Milliseconds.
    Number(u64),
    /// A number and a unit: ms, s, m, h or d.
    Text(#[schemars(regex(pattern = r"^\d+(ms|s|m|h|d)?$"))] String),
}

impl Millis {
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    /// This long after it; at most the last moment there is.
    pub const fn plus(self, wait: Self) -> Self {
        Self(self.0.saturating_add(wait.0))
    }

    /// As a standard duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Parses `"1500"`, `"250ms"`, `"10s"`, `"5m"`, `"1h"`, `"2d"`. `None` if it is none of these or overflows.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let number: u64 = text[..split].parse().ok()?;
        let factor = match &text[split..] {
            "" | "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms < 1000 => write!(f, "{ms} ms"),
            ms if ms % 1000 == 0 => write!(f, "{} s", ms / 1000),
            ms => write!(f, "{:.1} s", ms as f64 / 1000.0),
        }
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Form {
                expecting: "milliseconds, or text such as \"10s\" (ms, s, m, h, d)",
                parse: |text| Millis::parse(text).map(|m| m.0),
            })
            .map(Millis)
    }
}

/// A size in bytes. In files it is a number of bytes, or text with a 1024-based unit `K`, `M`, `G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema)]
#[schemars(with = "SizeForm")]
pub struct Bytes(pub u64);

/// How a size may be written in a file.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum SizeForm {
    /// Bytes.
    Number(u64),
    /// A number and a 1024-based unit: K, M or G.
    Text(#[schemars(regex(pattern = r"^\d+(K|M|G)?$"))] String),
}

impl Bytes {
    /// Parses `"4096"`, `"64K"`, `"10M"`, `"2G"` (1024-based, as pm2 7.0.4). `None` if it is none of these.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let number: u64 = text[..split].parse().ok()?;
        let factor = match &text[split..] {
            "" => 1,
            "K" | "k" => 1 << 10,
            "M" | "m" => 1 << 20,
            "G" | "g" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Form {
                expecting: "bytes, or text such as \"10M\" (K, M, G)",
                parse: |text| Bytes::parse(text).map(|b| b.0),
            })
            .map(Bytes)
    }
}

/// Reads a number, or text that `parse` understands.
struct Form {
    expecting: &'static str,
    parse: fn(&str) -> Option<u64>,
}

impl de::Visitor<'_> for Form {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<u64, E> {
        if value >= 0.0 && value <= u64::MAX as f64 {
            Ok(value as u64)
        } else {
            Err(E::invalid_value(de::Unexpected::Float(value), &self))
        }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<u64, E> {
        (self.parse)(value).ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit_and_nothing_else() {
        for (text, want) in [
            ("1500", Some(1500)),
            ("250ms", Some(250)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("2d", Some(172_800_000)),
            ("", None),
            ("s", None),
            ("10 s", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(Millis::parse(text).map(|m| m.0), want, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_1024_based() {
        for (text, want) in [
            ("10M", Some(10 << 20)),
            ("2G", Some(2 << 30)),
            ("64K", Some(65536)),
            ("7", Some(7)),
            ("10MB", None),
            ("1.5G", None),
        ] {
            assert_eq!(Bytes::parse(text).map(|b| b.0), want, "{text:?}");
        }
    }

    #[test]
    fn a_number_or_text_is_read_from_json() {
        assert_eq!(
            serde_json::from_str::<Millis>("\"10s\"").unwrap(),
            Millis(10_000)
        );
        assert_eq!(serde_json::from_str::<Millis>("25").unwrap(), Millis(25));
        assert!(
            serde_json::from_str::<Millis>("-1")
                .unwrap_err()
                .to_string()
                .contains("milliseconds")
        );
    }
}
