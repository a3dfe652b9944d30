//! The page that lists a folder.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::UNIX_EPOCH;

/// The most entries that are listed; a folder of millions must not become a page.
const MOST: usize = 10_000;

/// The page of a folder at `path`, which ends with a slash. Hidden files are left out, folders come first.
pub fn page(folder: &File, path: &str) -> io::Result<String> {
    let mut entries = Vec::new();
    let mut more = false;
    // By the descriptor: what was opened is what is listed.
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let Ok(entry) = entry else { continue };
        let Ok(name) = entry.file_name().into_string() else {
            continue; // A name that no address can hold.
        };
        if name.starts_with('.') {
            continue;
        }
        if entries.len() == MOST {
            more = true;
            break;
        }
        // One that has gone meanwhile, or leads nowhere, is not listed.
        let Ok(facts) = std::fs::metadata(entry.path()) else {
            continue;
        };
        let changed = facts.modified().ok();
        let seconds = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        entries.push((
            !facts.is_dir(),
            name,
            facts.len(),
            seconds.map(|at| at.as_secs()),
        ));
    }
    entries.sort();
    let title = escape(&format!("Index of {path}"));
    let mut page = format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1>\n<table>\n"
    );
    if path != "/" {
        page += "<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n";
    }
    for (is_file, name, bytes, changed) in entries {
        let slash = if is_file { "" } else { "/" };
        let size = if is_file {
            bytes.to_string()
        } else {
            String::new()
        };
        let changed = changed
            .and_then(|at| jiff::Timestamp::from_second(i64::try_from(at).ok()?).ok())
            .map_or_else(String::new, |at| at.strftime("%F %T").to_string());
        // A formatter of a String never fails.
        let _ = writeln!(
            page,
            "<tr><td><a href=\"./{}{slash}\">{}{slash}</a></td><td>{size}</td><td>{changed}</td></tr>",
            encode(&name),
            escape(&name)
        );
    }
    page += "</table>\n";
    if more {
        let _ = writeln!(page, "<p>and more than {MOST} others</p>");
    }
    page += "</body></html>\n";
    Ok(page)
}

/// Text as HTML shows it.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            letter => out.push(letter),
        }
    }
    out
}

/// A name as a part of an address.
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_linked_as_they_are_and_hidden_ones_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "<script>alert(1)</script>\"'&%.txt", ".env"] {
            std::fs::write(folder.path().join(name.replace('/', "_")), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("zoo")).unwrap();
        let page = page(&File::open(folder.path()).unwrap(), "/<b>/").unwrap();
        assert!(!page.contains("<script>") && !page.contains("<b>") && !page.contains(".env"));
        assert!(page.contains("&lt;script&gt;") && page.contains("%3Cscript%3E"));
        assert!(page.contains("Index of /&lt;b&gt;/") && page.contains("../"));
        assert!(page.find("zoo/").unwrap() < page.find("b.txt").unwrap());
    }
}
