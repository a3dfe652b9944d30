//! Fetching a module beside the place where it goes, and moving it there whole.

use super::manifest::{self, Manifest};
use anyhow::{Context, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A module that is fetched and not in its place yet. Dropped, it goes again.
pub struct Fetched {
    /// The package's name.
    pub name: String,
    /// What goes to its place.
    from: PathBuf,
    /// What is removed with it.
    folder: PathBuf,
}

impl Fetched {
    /// Puts it there.
    pub fn move_to(self, place: &Path) -> anyhow::Result<()> {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        std::fs::rename(&self.from, place)
            .with_context(|| format!("cannot move the module to {}", place.display()))
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // Gone is what is wanted.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn own_folder(modules: &Path) -> anyhow::Result<PathBuf> {
    let folder = modules.join(format!(".new-{}", std::process::id()));
    // Of a process of that number that was killed.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// By npm, with whatever it takes: a name, a folder, a tarball, an address.
pub fn by_npm(word: &str, modules: &Path, registry: Option<&str>) -> anyhow::Result<Fetched> {
    if word.starts_with('-') {
        bail!("`{word}` is no name of a module");
    }
    // npm runs elsewhere; a path of here must be whole.
    let is_path = word.starts_with(['.', '/']) || Path::new(word).join("package.json").is_file();
    let word = match is_path {
        true => std::path::absolute(word)?.to_string_lossy().into_owned(),
        false => word.to_owned(),
    };
    let folder = own_folder(modules)?;
    let mut fetched = Fetched {
        name: String::new(),
        from: folder.clone(),
        folder,
    };
    std::fs::write(fetched.folder.join("package.json"), "{}\n")?;
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        &word,
        "--save",
        "--install-links",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ])
    .arg("--prefix")
    .arg(&fetched.folder);
    if let Some(registry) = registry {
        npm.arg(format!("--registry={registry}"));
    }
    let status = npm
        .stdin(Stdio::null())
        .status()
        .context("cannot execute npm, which fetches modules; it comes with Node")?;
    if !status.success() {
        bail!("npm: {status}");
    }
    let text = std::fs::read_to_string(fetched.folder.join("package.json"))?;
    let saved: serde_json::Value = serde_json::from_str(&text)?;
    let names = saved["dependencies"].as_object();
    let name = names.and_then(|names| names.keys().next()).cloned();
    fetched.name = name
        .filter(|name| manifest::is_name(name))
        .context("npm has installed nothing")?;
    Ok(fetched)
}

/// Whether a word is a tarball on this machine with a folder `module` in it, which is PM2's kind; npm takes others.
pub fn is_module_tarball(word: &str) -> bool {
    let is_tarball = word.ends_with(".tar.gz") || word.ends_with(".tgz");
    if !is_tarball || !Path::new(word).is_file() {
        return false;
    }
    let listed = Command::new("tar")
        .arg("-tzf")
        .arg(word)
        .stderr(Stdio::null())
        .output();
    listed.is_ok_and(|listed| {
        String::from_utf8_lossy(&listed.stdout)
            .lines()
            .any(|line| line.trim_start_matches("./") == "module/package.json")
    })
}

/// PM2's own tarballs, from this machine or by curl.
pub fn by_tar(word: &str, modules: &Path) -> anyhow::Result<Fetched> {
    let folder = own_folder(modules)?;
    let mut fetched = Fetched {
        name: String::new(),
        from: folder.join("module"),
        folder,
    };
    let mut file = PathBuf::from(word);
    if word.starts_with("http://") || word.starts_with("https://") {
        file = fetched.folder.join("fetched.tar.gz");
        execute(
            "curl",
            &[
                "-fsSL".into(),
                "-o".into(),
                file.clone().into(),
                "--".into(),
                word.into(),
            ],
        )?;
    }
    if !file.is_file() {
        bail!("there is no tarball {}", file.display());
    }
    // tar takes no path that leads out of the folder.
    execute(
        "tar",
        &[
            "-xzf".into(),
            std::path::absolute(&file)?.into(),
            "-C".into(),
            fetched.folder.clone().into(),
        ],
    )?;
    fetched.name = Manifest::read(&fetched.from)
        .context("it is no module: a folder `module` with a package.json is wanted in it")?
        .name;
    Ok(fetched)
}

/// Runs a program; its complaint is shown as it comes.
pub fn execute(program: &str, words: &[OsString]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot execute {program}"))?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}

/// Moves what is there out of the way; where it lies then.
pub fn set_aside(place: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut aside = place.as_os_str().to_owned();
    aside.push(format!(".old-{}", std::process::id()));
    let aside = PathBuf::from(aside);
    match std::fs::rename(place, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot move {}", place.display())),
    }
}

/// Puts it back in the place of what failed.
pub fn take_back(aside: Option<PathBuf>, place: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", place.display()));
        }
        _ => {}
    }
    if let Some(aside) = aside {
        std::fs::rename(&aside, place)
            .with_context(|| format!("cannot put {} back", place.display()))?;
    }
    Ok(())
}
