//! A pack's `pyproject.toml`: who it is, what it requires (comfyui-facts 5.3).

use serde::Deserialize;
use std::path::Path;

/// What is looked at.
#[derive(Debug, Default)]
pub struct Project {
    name: Option<String>,
    version: Option<String>,
    requires_comfyui: Option<String>,
    /// Its dependencies.
    pub dependencies: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    project: ProjectTable,
    #[serde(default)]
    tool: Tool,
}

#[derive(Debug, Default, Deserialize)]
struct ProjectTable {
    name: Option<String>,
    version: Option<toml::Value>,
    #[serde(default)]
    dependencies: Option<Vec<toml::Value>>,
}

#[derive(Debug, Default, Deserialize)]
struct Tool {
    #[serde(default)]
    comfy: Comfy,
}

#[derive(Debug, Default, Deserialize)]
struct Comfy {
    #[serde(rename = "requires-comfyui")]
    requires_comfyui: Option<String>,
}

/// Reads a pack's project file; `None` if there is none that can be read.
pub fn read(dir: &Path) -> Option<Project> {
    let text = crate::comfyui::files::read_limited(&dir.join("pyproject.toml"), 1 << 20).ok()?;
    let file: File = toml::from_str(&text).ok()?;
    let short = |text: String| text.chars().take(100).collect::<String>();
    let texts = |values: Vec<toml::Value>| {
        let text = |value: toml::Value| value.as_str().map(str::to_owned);
        values.into_iter().filter_map(text).collect()
    };
    Some(Project {
        name: file.project.name.map(short),
        version: file
            .project
            .version
            .and_then(|version| version.as_str().map(str::to_owned))
            .map(short),
        requires_comfyui: file.tool.comfy.requires_comfyui,
        dependencies: file.project.dependencies.map(texts).unwrap_or_default(),
    })
}

impl Project {
    /// `name 1.2.3`.
    pub fn identity(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        Some(match &self.version {
            Some(version) => format!("{name} {version}"),
            None => name.clone(),
        })
    }

    /// Why it does not suit this ComfyUI, if it says so.
    pub fn unfit(&self, comfyui: Option<&str>) -> Option<String> {
        let wanted = self.requires_comfyui.as_deref()?;
        let have = numbers(comfyui?);
        let fits = wanted.split(',').all(|part| fits(part.trim(), &have));
        (!fits).then(|| {
            format!(
                "it requires ComfyUI {wanted}, and this is {}; update ComfyUI, or take another version of it",
                comfyui.unwrap_or_default()
            )
        })
    }
}

/// One comparison, such as `>=0.3.40`. One that is not understood is taken to hold.
fn fits(part: &str, have: &[u64]) -> bool {
    let operators = [">=", "<=", "==", "!=", "~=", ">", "<"];
    let Some(operator) = operators
        .iter()
        .find(|operator| part.starts_with(**operator))
    else {
        return true;
    };
    let want = numbers(part[operator.len()..].trim());
    if want.is_empty() || part.contains('*') {
        return true;
    }
    let length = want.len().max(have.len());
    let padded = |list: &[u64]| {
        let mut list = list.to_vec();
        list.resize(length, 0);
        list
    };
    let (have, wanted) = (padded(have), padded(&want));
    match *operator {
        ">=" => have >= wanted,
        "<=" => have <= wanted,
        "==" => have == wanted,
        "!=" => have != wanted,
        ">" => have > wanted,
        "<" => have < wanted,
        // Compatible: the same but for the last part (PEP 440).
        _ => {
            have >= wanted
                && have[..want.len().saturating_sub(1)] == want[..want.len().saturating_sub(1)]
        }
    }
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .trim_start_matches('v')
        .split('.')
        .map_while(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_tells_who_it_is_and_which_comfyui_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_none());
        let text = "[project]\nname = \"p\"\nversion = \"1.2\"\ndependencies = [\"a>=1\"]\n[tool.comfy]\nPublisherId = \"x\"\nrequires-comfyui = \">=0.3.60,<0.4\"\n";
        std::fs::write(dir.path().join("pyproject.toml"), text).unwrap();
        let project = read(dir.path()).unwrap();
        assert_eq!(project.identity().as_deref(), Some("p 1.2"));
        assert_eq!(project.dependencies, ["a>=1"]);
        assert_eq!(project.unfit(Some("0.3.64")), None);
        assert_eq!(project.unfit(None), None);
        for version in ["0.3.12", "0.4", "1.0.0"] {
            assert!(project.unfit(Some(version)).is_some(), "{version}");
        }
    }

    #[test]
    fn comparisons_are_pep_440s() {
        for (part, version, want) in [
            ("~=0.3.5", "0.3.9", true),
            ("~=0.3.5", "0.4.0", false),
            ("==0.3", "0.3.0", true),
            ("!=0.3.1", "0.3.1", false),
            ("latest", "0.1", true),
            (">0.3", "0.3.0", false),
        ] {
            assert_eq!(fits(part, &numbers(version)), want, "{part} {version}");
        }
    }
}
