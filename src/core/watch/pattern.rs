//! One entry of `watch` or `ignore_watch`: a path, or a glob below a folder.

use crate::core::spec::paths::resolve;
use globset::{GlobBuilder, GlobMatcher};

/// An entry, absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// A file, or a folder with everything in it.
    Path(String),
    /// What matches below a folder.
    Glob {
        /// The folder: the part before the first component with a pattern character.
        base: String,
        /// The rest, matched against what follows the folder.
        glob: String,
    },
}

/// A glob that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern `{glob}` is not understood and matches nothing: {why}")]
pub struct PatternIssue {
    /// The pattern.
    pub glob: String,
    /// What is wrong with it.
    pub why: String,
}

impl Pattern {
    /// An entry as seen from a folder.
    pub fn new(cwd: &str, text: &str) -> Self {
        if !text.contains(['*', '?', '[', ']', '{', '}']) {
            return Self::Path(resolve(cwd, text));
        }
        let is_plain = |part: &&str| !part.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let parts: Vec<&str> = text.split('/').collect();
        let lead = parts.iter().copied().take_while(is_plain).count();
        let base = match parts[..lead].join("/") {
            whole if lead > 0 && whole.is_empty() => "/".to_owned(),
            lead => resolve(cwd, &lead),
        };
        Self::Glob {
            base,
            glob: parts[lead..].join("/"),
        }
    }

    /// The file or folder it begins at.
    pub fn base(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Glob { base, .. } => base,
        }
    }
}

/// A pattern ready to match.
#[derive(Debug)]
pub(super) enum Matcher {
    Path(String),
    Glob {
        base: String,
        /// The pattern, and for `x/**` the folder `x` itself.
        globs: Vec<GlobMatcher>,
        /// How many folders below its base may hold a match; `None`: any number.
        depth: Option<usize>,
    },
}

impl Matcher {
    pub(super) fn new(pattern: &Pattern) -> Result<Self, PatternIssue> {
        let (base, glob) = match pattern {
            Pattern::Path(path) => return Ok(Self::Path(path.clone())),
            Pattern::Glob { base, glob } => (base, glob),
        };
        let issue = |why: String| PatternIssue {
            glob: glob.clone(),
            why,
        };
        if ["!(", "@(", "+(", "?(", "*("]
            .iter()
            .any(|sign| glob.contains(sign))
        {
            return Err(issue(
                "extended groups such as `!(a)` are not supported".to_owned(),
            ));
        }
        let compile = |text: &str| {
            let glob = GlobBuilder::new(text).literal_separator(true).build();
            glob.map(|glob| glob.compile_matcher())
                .map_err(|error| issue(error.kind().to_string()))
        };
        let mut globs = vec![compile(glob)?];
        if let Some(folder) = glob.strip_suffix("/**") {
            globs.push(compile(folder)?);
        }
        Ok(Self::Glob {
            base: base.clone(),
            globs,
            depth: (!glob.contains("**")).then(|| glob.matches('/').count()),
        })
    }

    pub(super) fn base(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Glob { base, .. } => base,
        }
    }

    /// Whether it means this path.
    pub(super) fn matches(&self, path: &str) -> bool {
        match (self, below(self.base(), path)) {
            (_, None) => false,
            (Self::Path(_), Some(_)) => true,
            (Self::Glob { globs, .. }, Some(rest)) => globs.iter().any(|glob| glob.is_match(rest)),
        }
    }

    /// How many folders this one is below its base, if a match may lie directly in it.
    pub(super) fn reaches(&self, folder: &str) -> Option<usize> {
        let rest = below(self.base(), folder)?;
        let level = rest.split('/').filter(|part| !part.is_empty()).count();
        match self {
            Self::Glob {
                depth: Some(most), ..
            } if level > *most => None,
            Self::Path(_) | Self::Glob { .. } => Some(level),
        }
    }
}

/// What follows a folder in a path: empty for the folder itself, `None` for what is not in it.
pub(super) fn below<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    if folder == "/" {
        return path.strip_prefix('/');
    }
    let rest = path.strip_prefix(folder)?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_begins_at_the_folder_before_its_first_sign() {
        let glob = |base: &str, glob: &str| Pattern::Glob {
            base: base.to_owned(),
            glob: glob.to_owned(),
        };
        let cases = [
            ("src", Pattern::Path("/srv/[a]/src".to_owned())),
            ("/etc/x/", Pattern::Path("/etc/x".to_owned())),
            ("*.log", glob("/srv/[a]", "*.log")),
            ("src/**/*.js", glob("/srv/[a]/src", "**/*.js")),
            ("./a/../b/{c,d}", glob("/srv/[a]/b", "{c,d}")),
            ("/*.js", glob("/", "*.js")),
        ];
        for (text, want) in cases {
            assert_eq!(Pattern::new("/srv/[a]", text), want, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for text in ["!(a)*", "a[", "{a"] {
            let issue = Matcher::new(&Pattern::new("/srv", text)).unwrap_err();
            assert_eq!(issue.glob, text);
            assert!(!issue.why.is_empty());
        }
    }
}
