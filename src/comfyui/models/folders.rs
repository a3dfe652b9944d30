//! The folders that models lie in, and the extra-model-paths file that tells ComfyUI of them.

use crate::sys::files::{self, Readers};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// ComfyUI's model folders (0.3.64); where it reads two names for one kind, both.
const CORE: [&[&str]; 17] = [
    &["checkpoints"],
    &["configs"],
    &["loras"],
    &["vae"],
    &["text_encoders", "clip"],
    &["diffusion_models", "unet"],
    &["clip_vision"],
    &["style_models"],
    &["embeddings"],
    &["diffusers"],
    &["vae_approx"],
    &["controlnet", "t2i_adapter"],
    &["gligen"],
    &["upscale_models"],
    &["hypernetworks"],
    &["photomaker"],
    &["classifiers"],
];

/// Folders that later trees added; an unknown key only makes a folder of that name (comfyui-facts 1.7).
const LATER: [&str; 3] = ["model_patches", "audio_encoders", "latent_upscale_models"];

/// Folders that node packs look up by name: those of the machine's own list (comfyui-facts 1.7), and of packs in wide use.
const PACKS: [&str; 22] = [
    "animatediff_models",
    "animatediff_motion_lora",
    "ipadapter",
    "sams",
    "ultralytics",
    "ultralytics_bbox",
    "ultralytics_segm",
    "LLM",
    "onnx",
    "mmdets",
    "insightface",
    "instantid",
    "pulid",
    "facerestore_models",
    "facedetection",
    "grounding-dino",
    "inpaint",
    "layer_model",
    "rembg",
    "sam2",
    "liveportrait",
    "xlabs",
];

/// Keys of the extra-model-paths file that are no folders (comfyui-facts 1.7).
const NOT_FOLDERS: [&str; 2] = ["base_path", "is_default"];

/// The largest extra-model-paths file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Every folder that is made in a workspace's `models`.
pub fn all() -> impl Iterator<Item = &'static str> {
    CORE.into_iter()
        .flatten()
        .copied()
        .chain(LATER)
        .chain(PACKS)
}

/// The text of `extra_model_paths.yaml` for the models below `base`, with `more` folders of the operator's manifest.
/// `is_default` makes the shared folder the first, and the one that is saved to.
pub fn list(base: &Path, more: &BTreeSet<String>) -> String {
    // JSON's quoted text is YAML's too.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "# The model folders that every ComfyUI of this workspace shares. Made by Fornax; an edited file is kept as it is.\n\
         fornax:\n    base_path: {}\n    is_default: true\n",
        quoted(&base.to_string_lossy())
    );
    for names in CORE {
        match names {
            [name] => text.push_str(&format!("    {name}: {name}/\n")),
            [first, ..] => {
                text.push_str(&format!("    {first}: |\n"));
                for name in names {
                    text.push_str(&format!("        {name}/\n"));
                }
            }
            [] => {}
        }
    }
    for name in LATER.into_iter().chain(PACKS) {
        text.push_str(&format!("    {name}: {name}/\n"));
    }
    let known: BTreeSet<&str> = all().collect();
    for name in more.iter().filter(|name| !known.contains(name.as_str())) {
        text.push_str(&format!(
            "    {}: {}\n",
            quoted(name),
            quoted(&format!("{name}/"))
        ));
    }
    text
}

/// Writes `text` to `list`, unless the operator has made or edited that file: it is ours as long as it equals `copy`, what was
/// last written. `true`: `list` says `text` now.
///
/// # Errors
/// Neither file can be written.
pub fn write(list: &Path, copy: &Path, text: &str) -> io::Result<bool> {
    let read = |path: &Path| super::super::files::read_limited(path, LIMIT);
    // A dangling link is the operator's too.
    if list.symlink_metadata().is_ok() {
        let present = read(list).ok();
        if present.as_deref() == Some(text) {
            return Ok(true);
        }
        if present.is_none() || present != read(copy).ok() {
            return Ok(false);
        }
    }
    files::replace(list, text.as_bytes(), Readers::Anybody)?;
    files::replace(copy, text.as_bytes(), Readers::Anybody)?;
    Ok(true)
}

/// Which of `wanted` the extra-model-paths file at `list` does not name, so that ComfyUI would not look there. All of them if
/// it cannot be read.
pub fn unlisted(list: &Path, wanted: &BTreeSet<String>) -> BTreeSet<String> {
    let Ok(text) = super::super::files::read_limited(list, LIMIT) else {
        return wanted.clone();
    };
    let unquoted = |text: &str| text.trim().trim_matches(['"', '\'', '/']).to_owned();
    let mut named = BTreeSet::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        let (key, value) = line.split_once(':').unwrap_or(("", line));
        if !NOT_FOLDERS.contains(&key.trim()) {
            named.insert(unquoted(key));
            // A second folder of a kind stands on a line of its own.
            named.insert(unquoted(value));
        }
    }
    wanted
        .iter()
        .filter(|name| !named.contains(*name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_list_names_every_folder_once_and_the_operators_too() {
        let text = list(Path::new("/w/models"), &set(&["my: own", "vae", "zz"]));
        assert!(text.contains("    base_path: \"/w/models\"\n"), "{text}");
        assert!(
            text.contains("    text_encoders: |\n        text_encoders/\n        clip/\n"),
            "{text}"
        );
        assert!(
            text.ends_with("    \"my: own\": \"my: own/\"\n    \"zz\": \"zz/\"\n"),
            "{text}"
        );
        assert_eq!(text.matches("    vae: vae/\n").count(), 1);
        let names: Vec<&str> = all().collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn every_folder_of_the_file_is_seen_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("paths.yaml");
        std::fs::write(&path, list(Path::new("/w/models"), &set(&["mine"]))).unwrap();
        let mut wanted: BTreeSet<String> = all().map(str::to_owned).collect();
        wanted.extend(set(&["mine", "other", "base_path"]));
        assert_eq!(unlisted(&path, &wanted), set(&["base_path", "other"]));
        assert_eq!(
            unlisted(&dir.path().join("none"), &set(&["vae"])),
            set(&["vae"])
        );
    }

    #[test]
    fn an_edited_list_is_kept_and_one_of_ours_grows() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("a"), dir.path().join("b"));
        let read = || std::fs::read_to_string(&path).unwrap();
        assert!(write(&path, &copy, "one\n").unwrap());
        assert!(write(&path, &copy, "two\n").unwrap());
        assert_eq!(read(), "two\n");
        std::fs::write(&path, "mine\n").unwrap();
        assert!(!write(&path, &copy, "three\n").unwrap());
        assert_eq!(read(), "mine\n");
    }
}
