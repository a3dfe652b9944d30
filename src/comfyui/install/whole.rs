//! Whether the packages of an environment are whole, after a pip that was cut off: each file that a RECORD names must be there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The most that is read of a RECORD, in bytes (torch's has 2 MB).
const LIMIT: u64 = 32 << 20;

/// A package as its folder of metadata tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name, lower case and with `-` (PEP 503).
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it came from, if not from an index.
    pub url: Option<String>,
}

/// The packages of a folder of packages, by name.
pub fn packages(site: &Path) -> Vec<Package> {
    let mut found: Vec<Package> = infos(site)
        .filter_map(|info| {
            let stem = info
                .file_name()?
                .to_str()?
                .strip_suffix(".dist-info")?
                .to_owned();
            let (name, version) = stem.split_once('-')?;
            Some(Package {
                name: normal(name),
                version: version.to_owned(),
                url: direct_url(&info),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    found
}

/// PEP 503's form of a name.
pub fn normal(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

/// PEP 610.
fn direct_url(info: &Path) -> Option<String> {
    let text = crate::comfyui::files::read_limited(&info.join("direct_url.json"), 1 << 16).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let url = value["url"].as_str()?;
    Some(match value["vcs_info"]["commit_id"].as_str() {
        Some(commit) => format!(
            "{}+{url}@{commit}",
            value["vcs_info"]["vcs"].as_str().unwrap_or("git")
        ),
        None => url.to_owned(),
    })
}

fn infos(site: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(site).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "dist-info"))
}

/// Takes out what a pip that was cut off has left: folders that it had put aside, and the metadata of packages that are not
/// whole, so that pip installs them again. The names of those packages.
///
/// # Errors
/// Something cannot be removed.
pub fn mend(site: &Path) -> io::Result<Vec<String>> {
    for entry in fs::read_dir(site)?.flatten() {
        // pip's name for what it is about to replace.
        if entry.file_name().to_string_lossy().starts_with('~') {
            super::git::remove(&entry.path()).or_else(|_| fs::remove_file(entry.path()))?;
        }
    }
    let mut broken = Vec::new();
    for info in infos(site) {
        if !is_whole(site, &info) {
            broken.push(
                info.file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            );
            fs::remove_dir_all(&info)?;
        }
    }
    Ok(broken)
}

/// pip writes the RECORD last; uv takes the wheel's own, so each file is looked for.
fn is_whole(site: &Path, info: &Path) -> bool {
    let Ok(text) = crate::comfyui::files::read_limited(&info.join("RECORD"), LIMIT) else {
        return false;
    };
    text.lines().all(|line| {
        let Some((path, size)) = entry(line) else {
            return true;
        };
        // Compiled files are made again when they are missed.
        if path.ends_with(".pyc") {
            return true;
        }
        fs::metadata(site.join(&path)).is_ok_and(|meta| size.is_none_or(|size| size == meta.len()))
    })
}

/// `path,hash,size`; a path with a comma or a quote stands in quotes (RFC 4180).
fn entry(line: &str) -> Option<(String, Option<u64>)> {
    let (path, rest) = match line.strip_prefix('"') {
        None => {
            let (path, rest) = line.split_once(',')?;
            (path.to_owned(), rest)
        }
        Some(inner) => {
            let mut path = String::new();
            let mut chars = inner.char_indices().peekable();
            let mut end = None;
            while let Some((at, c)) = chars.next() {
                if c != '"' {
                    path.push(c);
                } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                    chars.next();
                    path.push('"');
                } else {
                    end = Some(at + 1);
                    break;
                }
            }
            (path, inner[end?..].strip_prefix(',')?)
        }
    };
    let (_, size) = rest.rsplit_once(',')?;
    Some((path, size.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(site: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let info = site.join(format!("{name}.dist-info"));
        fs::create_dir_all(&info).expect("a folder");
        let mut record = String::new();
        for (path, text) in files {
            fs::write(site.join(path), text).expect("a file");
            record.push_str(&format!("{path},sha256=x,{}\n", text.len()));
        }
        record.push_str(&format!("{name}.dist-info/RECORD,,\n"));
        fs::write(info.join("RECORD"), record).expect("a file");
        info
    }

    #[test]
    fn what_is_not_whole_is_taken_out_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path();
        package(site, "whole-1.0", &[("whole.py", "x = 1")]);
        package(site, "Gone_Away-2.0", &[("gone.py", "x = 1")]);
        package(site, "short-1.0", &[("short.py", "x = 1")]);
        let cut = package(site, "cut-1.0", &[("cut.py", "x")]);
        fs::remove_file(site.join("gone.py")).unwrap();
        fs::write(site.join("short.py"), "x").unwrap();
        fs::remove_file(cut.join("RECORD")).unwrap();
        fs::create_dir(site.join("~hole")).unwrap();
        let names: Vec<String> = packages(site).into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["cut", "gone-away", "short", "whole"]);
        let mut broken = mend(site).unwrap();
        broken.sort();
        assert_eq!(broken, ["Gone_Away-2.0", "cut-1.0", "short-1.0"]);
        assert_eq!(packages(site).len(), 1);
        assert!(!site.join("~hole").exists());
        assert!(mend(site).unwrap().is_empty());
    }

    #[test]
    fn a_record_is_read_with_its_quotes() {
        assert_eq!(
            entry("a/b.py,sha256=x,12"),
            Some(("a/b.py".into(), Some(12)))
        );
        assert_eq!(entry("a.pyc,,"), Some(("a.pyc".into(), None)));
        assert_eq!(entry("\"a,\"\"b\",h,3"), Some(("a,\"b".into(), Some(3))));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[a,\"é]{0,20}") {
            entry(&line);
        }
    }
}
