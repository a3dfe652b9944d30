//! Signals by number and by name, without a system call.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A Linux signal number, 1 to 64. In files it is a name (`"SIGINT"`, `"INT"`) or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String")]
pub struct Signal(pub i32);

/// The names of Linux's signals 1 to 31, by number (signal(7), x86 and Arm numbering).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl Signal {
    /// Interrupt: PM2's stop signal.
    pub const INT: Signal = Signal(2);
    /// Kill, which nothing survives.
    pub const KILL: Signal = Signal(9);
    /// Terminate.
    pub const TERM: Signal = Signal(15);

    /// Parses `SIGINT`, `INT`, `sigint` or `2`. `None` if there is no such signal.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<i32>() {
            return (1..=64).contains(&number).then_some(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let bare = match bare {
            "IOT" => "ABRT",
            "POLL" => "IO",
            "CLD" => "CHLD",
            other => other,
        };
        NAMES
            .iter()
            .position(|name| *name == bare)
            .map(|at| Self(at as i32 + 1))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0 - 1)
            .ok()
            .and_then(|at| NAMES.get(at))
        {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(i32),
            Name(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(number) => number.to_string(),
            Form::Name(name) => name,
        };
        Signal::parse(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "unknown signal {text:?}; use a name such as \"SIGINT\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (text, want) in [
            ("SIGINT", 2),
            ("int", 2),
            ("9", 9),
            ("SIGUSR2", 12),
            ("SIGSYS", 31),
            ("SIGHUP", 1),
        ] {
            assert_eq!(Signal::parse(text), Some(Signal(want)), "{text}");
        }
        for text in ["", "SIG", "NOPE", "0", "65", "-2"] {
            assert_eq!(Signal::parse(text), None, "{text}");
        }
        assert_eq!(Signal(15).to_string(), "SIGTERM");
        assert_eq!(Signal(34).to_string(), "signal 34");
    }
}
