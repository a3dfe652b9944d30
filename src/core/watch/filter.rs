//! Which paths count as a change, and which folders are walked at all.

use super::pattern::{Matcher, PatternIssue, below};
use super::spec::WatchSpec;

/// An app's patterns, ready to match.
#[derive(Debug)]
pub struct Filter {
    picked: Vec<Matcher>,
    ignored: Vec<Matcher>,
    default_ignores: bool,
    depth: Option<usize>,
}

impl Filter {
    /// Of a specification, and the patterns in it that can't be read.
    pub fn new(spec: &WatchSpec) -> (Self, Vec<PatternIssue>) {
        let mut issues = Vec::new();
        let mut compile = |patterns: &[super::Pattern]| {
            let matchers = patterns.iter().filter_map(|pattern| {
                Matcher::new(pattern)
                    .map_err(|issue| issues.push(issue))
                    .ok()
            });
            matchers.collect::<Vec<_>>()
        };
        let filter = Self {
            picked: compile(&spec.paths),
            ignored: compile(&spec.ignored),
            default_ignores: spec.default_ignores,
            depth: spec.depth,
        };
        (filter, issues)
    }

    /// Where to begin: files and folders.
    pub fn bases(&self) -> impl Iterator<Item = &str> {
        self.picked.iter().map(Matcher::base)
    }

    /// Whether a change of this path counts.
    pub fn counts(&self, path: &str) -> bool {
        !self.ignores(path) && self.picked.iter().any(|pick| pick.matches(path))
    }

    /// Whether this folder is to be watched and looked into.
    pub fn walks(&self, folder: &str) -> bool {
        let levels = || self.picked.iter().filter_map(|pick| pick.reaches(folder));
        let mut levels = levels().peekable();
        levels.peek().is_some()
            && levels.any(|level| self.depth.is_none_or(|most| level <= most))
            && !self.ignores(folder)
    }

    /// Whether the path lies on the way to something that is picked and need not exist yet.
    pub fn leads(&self, path: &str) -> bool {
        self.bases().any(|base| below(path, base).is_some())
    }

    fn ignores(&self, path: &str) -> bool {
        if self.ignored.iter().any(|pattern| pattern.matches(path)) {
            return true;
        }
        if !self.default_ignores {
            return false;
        }
        // What was named by the app is meant, even if its own folder has a dot.
        let rest = self.bases().filter_map(|base| below(base, path));
        let named = rest.min_by_key(|rest| rest.len()).unwrap_or(path);
        named
            .split('/')
            .any(|part| part.starts_with('.') || part.contains("node_modules"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn filter(map: Value) -> Filter {
        let spec = WatchSpec::from_map(map.as_object().unwrap(), "/srv/.app").unwrap();
        let (filter, issues) = Filter::new(&spec);
        assert_eq!(issues, []);
        filter
    }

    /// `path` → whether a change of it counts in pm2 7.0.4, seen by running it.
    fn counts(map: Value, cases: &[(&str, bool)]) {
        let filter = filter(map.clone());
        for (path, want) in cases {
            let absolute = format!("/srv/.app/{path}");
            assert_eq!(filter.counts(&absolute), *want, "{path} under {map}");
        }
    }

    #[test]
    fn what_counts_is_what_counts_in_pm2() {
        let whole = json!({"watch": true});
        counts(
            whole,
            &[
                ("sub/ok", true),
                (".hidden", false),
                ("sub/.x/y", false),
                ("node_modules/x/q", false),
                ("sub/node_modules/q", false),
            ],
        );
        let listed = json!({"watch": true, "ignore_watch": ["node_modules", "logs", "[\\/\\\\]\\.git", "*.log"]});
        counts(
            listed,
            &[
                ("node_modules/x/q", false),
                ("sub/node_modules/q", true),
                ("logs/a", false),
                (".git/x", true),
                ("sub/logs/x", true),
                ("a.log", false),
                ("sub/a.log", true),
            ],
        );
        let globs = json!({"watch": true, "ignore_watch": ["**/*.log", "sub/**/deep", "./other", "gone/**"]});
        counts(
            globs,
            &[
                ("a.log", false),
                ("sub/a.log", false),
                ("sub/deep", false),
                ("sub/y", true),
                ("other/x", false),
                ("sub/z", true),
                ("gone", false),
                ("gone/x/y", false),
            ],
        );
        let paths = json!({"watch": ["sub", "a.js", "missing", "logs/*.txt", ".env"]});
        counts(
            paths,
            &[
                ("other/x", false),
                ("sub/deep/n", true),
                ("a.js", true),
                ("a.jsx", false),
                ("missing", true),
                ("logs/a.txt", true),
                ("logs/a.js", false),
                (".env", true),
            ],
        );
    }

    #[test]
    fn what_is_ignored_is_not_walked() {
        let walks = |map: Value, folder: &str| filter(map).walks(&format!("/srv/.app{folder}"));
        let whole = || json!({"watch": true});
        assert!(walks(whole(), "") && walks(whole(), "/src/deep"));
        assert!(!walks(whole(), "/node_modules") && !walks(whole(), "/.git"));
        assert!(!walks(
            json!({"watch": true, "ignore_watch": ["data/**"]}),
            "/data"
        ));
        let shallow = || json!({"watch": ["src/*.js"]});
        assert!(walks(shallow(), "/src") && !walks(shallow(), "/src/sub") && !walks(shallow(), ""));
        let deep = || json!({"watch": true, "watch_options": {"depth": 1}});
        assert!(walks(deep(), "/a") && !walks(deep(), "/a/b"));
    }

    #[test]
    fn the_way_to_what_is_missing_is_known() {
        let filter = filter(json!({"watch": ["build/out"]}));
        for (path, want) in [
            ("/srv/.app/build", true),
            ("/srv/.app", true),
            ("/srv/.app/src", false),
        ] {
            assert_eq!(filter.leads(path), want, "{path}");
        }
    }
}
