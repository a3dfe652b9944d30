//! Which instances a command means: `all`, `/regex/`, name, namespace or id (pm2 7.0.4, spec 6.1).

use super::ids::PmId;
use super::spec::paths::resolve;
use regex::Regex;

/// What a selection looks at.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The instance.
    pub id: PmId,
    /// Its app's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The absolute path of its script.
    pub script: &'a str,
    /// It is a PM2 module, which `all` leaves out.
    pub module: bool,
}

/// A parsed target.
#[derive(Debug, Clone)]
pub enum Target {
    /// Every app.
    All,
    /// Apps whose name matches.
    Pattern(Regex),
    /// A name, a script's path, a namespace or an id.
    Word(String),
}

/// Why a target can't be used.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is not a regular expression: {source}")]
pub struct TargetError {
    pattern: String,
    #[source]
    source: regex::Error,
}

impl Target {
    /// Parses what a person typed.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text == "all" {
            return Ok(Target::All);
        }
        match text
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix('/'))
        {
            // A path such as `/srv/` has a slash inside or is no pattern of use; one with none inside is a pattern.
            Some(inner) if !inner.is_empty() => {
                Regex::new(inner)
                    .map(Target::Pattern)
                    .map_err(|source| TargetError {
                        pattern: inner.to_owned(),
                        source,
                    })
            }
            _ => Ok(Target::Word(text.to_owned())),
        }
    }

    /// The instances meant, in the order given. A word is tried as name (or path of a script, seen from `cwd`), then namespace,
    /// then id.
    /// A number that no instance has is returned as it is by `id_meant`, so that PM2's "id unknown" can be said.
    pub fn select(&self, candidates: &[Candidate<'_>], cwd: &str) -> Vec<PmId> {
        let matching = |test: &dyn Fn(&Candidate<'_>) -> bool| {
            candidates
                .iter()
                .filter(|c| test(c))
                .map(|c| c.id)
                .collect::<Vec<_>>()
        };
        match self {
            Target::All => matching(&|candidate| !candidate.module),
            Target::Pattern(pattern) => matching(&|candidate| pattern.is_match(candidate.name)),
            Target::Word(word) => {
                let path = resolve(cwd, word);
                let by_name =
                    matching(&|candidate| candidate.name == word || candidate.script == path);
                if !by_name.is_empty() {
                    return by_name;
                }
                let by_namespace = matching(&|candidate| candidate.namespace == word);
                if !by_namespace.is_empty() {
                    return by_namespace;
                }
                self.id_meant()
                    .map_or_else(Vec::new, |id| matching(&|candidate| candidate.id == id))
            }
        }
    }

    /// The id that a numeric word means if nothing has that name.
    pub fn id_meant(&self) -> Option<PmId> {
        match self {
            Target::Word(word) => word.parse().ok().map(PmId),
            Target::All | Target::Pattern(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Candidate<'static>> {
        [
            (0, "web", "default"),
            (1, "web", "default"),
            (2, "api", "back"),
            (3, "1", "back"),
            (4, "mod", "default"),
        ]
        .into_iter()
        .map(|(id, name, namespace)| Candidate {
            id: PmId(id),
            name,
            namespace,
            script: "/srv/x.js",
            module: name == "mod",
        })
        .collect()
    }

    #[test]
    fn a_target_is_a_name_before_a_namespace_before_an_id() {
        for (target, want) in [
            ("all", vec![0, 1, 2, 3]),
            ("web", vec![0, 1]),
            ("back", vec![2, 3]),
            ("1", vec![3]),
            ("2", vec![2]),
            ("/^(web|api)$/", vec![0, 1, 2]),
            ("/srv/x.js", vec![0, 1, 2, 3, 4]),
            ("../x.js", vec![0, 1, 2, 3, 4]),
            ("x.js", vec![]),
            ("nope", vec![]),
            ("99", vec![]),
        ] {
            let ids: Vec<u32> = Target::parse(target)
                .unwrap()
                .select(&all(), "/srv/sub")
                .iter()
                .map(|id| id.0)
                .collect();
            assert_eq!(ids, want, "{target}");
        }
    }

    #[test]
    fn a_broken_pattern_is_an_error_that_shows_it() {
        assert!(
            Target::parse("/(/")
                .unwrap_err()
                .to_string()
                .contains("`(`")
        );
    }
}
