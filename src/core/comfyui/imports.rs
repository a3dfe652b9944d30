//! ComfyUI's own account of what it imported at its start (comfyui-facts 4.4): a failed node never stops it, so this is read.

use serde::{Deserialize, Serialize};

/// What is kept of one cause.
const CAUSE_LIMIT: usize = 500;
/// The most entries that are kept.
const ENTRIES: usize = 4_000;

/// A node folder, or a file of ComfyUI's own, and how its import went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The folder's name, or the file's.
    pub name: String,
    /// It was imported.
    pub ok: bool,
    /// The error; empty where it was not told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What the output of a start told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imports {
    /// The custom nodes of the table.
    pub nodes: Vec<Import>,
    /// Files of `comfy_extras` that did not import.
    pub core: Vec<Import>,
    /// Packs whose pre-start script failed, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prestart_failed: Vec<String>,
}

impl Imports {
    /// Names of custom nodes that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Import> {
        self.nodes.iter().filter(|import| !import.ok)
    }
}

/// Which list a line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    None,
    Prestart,
    Imports,
    Core,
}

/// Reads lines of a start, one after the other; other lines are passed over.
#[derive(Debug, Default)]
pub struct Reader {
    told: Imports,
    causes: Vec<(String, String)>,
    table: Option<u8>,
}

impl Reader {
    fn table(&self) -> Table {
        match self.table {
            Some(1) => Table::Prestart,
            Some(2) => Table::Imports,
            Some(3) => Table::Core,
            Some(_) | None => Table::None,
        }
    }

    /// Takes a line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if line.starts_with("Prestartup times for custom nodes:") {
            self.table = Some(1);
        } else if line.starts_with("Import times for custom nodes:") {
            // A start that happens again in one log replaces what was told before.
            self.told.nodes.clear();
            self.table = Some(2);
        } else if line.contains("some comfy_extras/ nodes did not import correctly") {
            self.told.core.clear();
            self.table = Some(3);
        } else if let Some(rest) = line.strip_prefix("Cannot import ") {
            if let Some((path, why)) = rest.split_once(" module for custom nodes: ")
                && self.causes.len() < ENTRIES
            {
                let why: String = why.chars().take(CAUSE_LIMIT).collect();
                self.causes.push((name_of(path).to_owned(), why));
            }
        } else if let (Some(rest), Table::Core) =
            (line.trim().strip_prefix("IMPORT FAILED: "), self.table())
        {
            let name = rest.trim().to_owned();
            let why = self.cause(&name);
            if self.told.core.len() < ENTRIES {
                self.told.core.push(Import {
                    name,
                    ok: false,
                    why,
                });
            }
        } else if let Some((mark, path)) = row(line) {
            let name = name_of(path).to_owned();
            match self.table() {
                Table::Prestart
                    if mark.contains("FAILED") && self.told.prestart_failed.len() < ENTRIES =>
                {
                    self.told.prestart_failed.push(name);
                }
                Table::Imports if self.told.nodes.len() < ENTRIES => {
                    let ok = !mark.contains("FAILED");
                    let why = match ok {
                        true => String::new(),
                        false => self.cause(&name),
                    };
                    self.told.nodes.push(Import { name, ok, why });
                }
                _ => {}
            }
        }
    }

    fn cause(&self, name: &str) -> String {
        let of = |(known, why): &(String, String)| (known == name).then(|| why.clone());
        self.causes.iter().rev().find_map(of).unwrap_or_default()
    }

    /// What was told so far.
    pub fn told(&self) -> &Imports {
        &self.told
    }

    /// What was told.
    pub fn finish(self) -> Imports {
        self.told
    }
}

/// `   0.1 seconds (IMPORT FAILED): /path` → the mark and the path.
fn row(line: &str) -> Option<(&str, &str)> {
    let (number, rest) = line.trim_start().split_once(" seconds")?;
    number.parse::<f64>().ok()?;
    let (mark, path) = rest.split_once(": ")?;
    let marked = mark.is_empty() || mark.starts_with(" (") && mark.ends_with(')');
    marked.then_some((mark, path.trim()))
}

fn name_of(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_told_apart_and_causes_go_with_their_nodes() {
        let mut reader = Reader::default();
        let text = "Cannot import /w/custom_nodes/bad module for custom nodes: No module named 'nope'\n\
            \nPrestartup times for custom nodes:\n   0.1 seconds: /w/custom_nodes/good\n   0.0 seconds (PRESTARTUP FAILED): /w/custom_nodes/odd\n\
            \nImport times for custom nodes:\n   0.0 seconds: /w/custom_nodes/websocket_image_save.py\n   0.0 seconds (IMPORT FAILED): /w/custom_nodes/bad\n   1.5 seconds: /w/custom_nodes/good\n\
            \nWARNING: some comfy_extras/ nodes did not import correctly. This may be because they are missing some dependencies.\n\nIMPORT FAILED: nodes_audio.py\n\
            5.0 seconds is no row of ours\n";
        text.lines().for_each(|line| reader.line(line));
        let told = reader.finish();
        let failed: Vec<&Import> = told.failed().collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(
            (failed[0].name.as_str(), failed[0].why.as_str()),
            ("bad", "No module named 'nope'")
        );
        assert_eq!(told.nodes.len(), 3);
        assert_eq!(told.prestart_failed, ["odd"]);
        assert_eq!(told.core[0].name, "nodes_audio.py");
    }
}
