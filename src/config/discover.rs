//! Which names are config files, and which file is meant when none is named (pm2-behaviour 5.1).

use std::path::{Path, PathBuf};

/// PM2 looks for these anywhere in the name, so `.json5` and `my.json.bak` count as well (pm2 7.0.4).
const MARKS: [&str; 6] = [
    ".json",
    ".yml",
    ".yaml",
    ".config.js",
    ".config.cjs",
    ".config.mjs",
];

/// The names looked for when none is given, in order. PM2 knows the first only.
const DEFAULTS: [&str; 8] = [
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.config.json",
    "ecosystem.json",
    "ecosystem.json5",
    "ecosystem.yaml",
    "ecosystem.yml",
];

/// Whether an argument such as `ecosystem.config.js` or `apps.yaml` names a config file rather than a script or an app.
pub fn is_config_file(name: &str) -> bool {
    MARKS.iter().any(|mark| name.contains(mark))
}

/// Whether an argument of `start` names a config file. With a space in it, it may as well be a command line (`node app.js a.json`);
/// a file of that name decides.
pub fn names_config_file(argument: &str) -> bool {
    is_config_file(argument) && (!argument.contains(' ') || Path::new(argument).is_file())
}

/// The ecosystem file in `dir` that is meant when none is named.
pub fn discover(dir: &Path) -> Option<PathBuf> {
    DEFAULTS
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_file_is_known_by_its_name() {
        for (name, want) in [
            ("ecosystem.config.js", true),
            ("a/b.config.cjs", true),
            ("x.config.mjs", true),
            ("apps.json", true),
            ("apps.json5", true),
            ("apps.yml", true),
            ("my.json.txt", true),
            ("app.js", false),
            ("config.js", false),
            ("json", false),
        ] {
            assert_eq!(is_config_file(name), want, "{name}");
        }
    }
}
