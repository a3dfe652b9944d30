//! One problem in a file that a person wrote: where it stands, what is wrong, how to mend it.

use super::positions::Positions;
use super::spec::issue::{SpecIssue, key_path};
use serde::Serialize;
use std::fmt;

/// One problem in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column in characters, from 1.
    pub column: Option<u32>,
    /// The key as a person writes it (`apps[0].kill_timeout`); empty when it is about the file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
    /// The words pm2 7.0.4 has for it, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pm2: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.what, self.mend)
    }
}

impl Problem {
    /// The issue with the value (or key) at `pointer` of the file called `file`.
    pub fn placed(file: &str, positions: &Positions, pointer: &str, issue: &SpecIssue) -> Self {
        let place = positions.find(pointer, issue.at_key);
        Self {
            file: file.to_owned(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            key: key_path(pointer),
            what: issue.what.clone(),
            mend: issue.mend.clone(),
            pm2: issue.pm2.clone(),
        }
    }
}

impl std::error::Error for Problem {}
