//! What is wrong with an app as written: which key, what was found there, and how to mend it.

use std::fmt;

/// One problem of one app. Several may be found at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecIssue {
    /// Where in the app, as a JSON pointer with the key as it was written (`/killTimeout`, `/fornax/probe/http`).
    /// Empty when it concerns the app as a whole.
    pub pointer: String,
    /// What is wrong, lower case, naming what was found.
    pub what: String,
    /// How to mend it.
    pub mend: String,
    /// The words pm2 7.0.4 has for it, without its `[PM2][WARN]` prefix; `None` where PM2 has none.
    pub pm2: Option<String>,
    /// Whether the name of the key is what is wrong, rather than its value: the position shown is then the key's.
    pub at_key: bool,
    /// Whether it is no mistake in a value, but something that the app needs and that is not there. Other apps of its file start
    /// all the same, as in pm2; any other mistake keeps all of them from it.
    pub is_absence: bool,
}

impl SpecIssue {
    /// An issue with the value at `pointer`.
    pub fn new(
        pointer: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            pointer: pointer.into(),
            what: what.into(),
            mend: mend.into(),
            pm2: None,
            at_key: false,
            is_absence: false,
        }
    }

    /// The same, with PM2's words for it.
    pub fn in_pm2_words(mut self, words: impl Into<String>) -> Self {
        self.pm2 = Some(words.into());
        self
    }

    /// The same, about the key's name.
    pub fn about_the_key(mut self) -> Self {
        self.at_key = true;
        self
    }

    /// The same, about something that is not there.
    pub fn about_an_absence(mut self) -> Self {
        self.is_absence = true;
        self
    }

    /// The key as a person writes it: `fornax.probe.http`, `args[0]`.
    pub fn key(&self) -> String {
        key_path(&self.pointer)
    }
}

impl fmt::Display for SpecIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.key())?;
        }
        write!(f, "{}; {}", self.what, self.mend)
    }
}

/// Turns a JSON pointer into the path a person would write: `/apps/0/name` into `apps[0].name`.
pub fn key_path(pointer: &str) -> String {
    let mut out = String::new();
    for step in pointer.split('/').skip(1) {
        if !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) {
            out.push('[');
            out.push_str(step);
            out.push(']');
            continue;
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(&step.replace("~1", "/").replace("~0", "~"));
    }
    out
}

/// One step of a JSON pointer, escaped (RFC 6901).
pub fn pointer_step(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_reads_as_a_person_writes_it() {
        for (pointer, want) in [
            ("", ""),
            ("/apps/0/kill_timeout", "apps[0].kill_timeout"),
            ("/0/name", "[0].name"),
            ("/env/A~1B~0", "env.A/B~"),
        ] {
            assert_eq!(key_path(pointer), want);
        }
    }
}
