//! The model folders of ComfyUI 0.3.64 and what lies in them, plus one simulated checkpoint.

use std::path::Path;

/// The folders that `/models` lists, in its order.
pub(super) const FOLDERS: [&str; 20] = [
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
];
/// The checkpoint that is always there, so that a common graph runs without any model file.
pub(super) const SIMULATED: &str = "simulated.safetensors";
/// What ComfyUI takes for a model file.
const EXTENSIONS: [&str; 8] = [
    "ckpt",
    "pt",
    "pt2",
    "bin",
    "pth",
    "safetensors",
    "pkl",
    "sft",
];
/// Files listed of one folder, and folders walked; more are left out.
const MOST_LISTED: usize = 10_000;

/// The model files of one folder below `models`, sorted, with `/` between folders. A folder that does not exist is empty.
pub(super) fn list(models: &Path, folder: &str) -> Vec<String> {
    let root = models.join(folder);
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    let mut walked = 0;
    while let Some(directory) = open.pop() {
        walked += 1;
        // A folder that cannot be read lists nothing, as in ComfyUI.
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && walked + open.len() < MOST_LISTED
            {
                open.push(path);
            } else if is_model(&path)
                && found.len() < MOST_LISTED
                && let Ok(inside) = path.strip_prefix(&root)
            {
                found.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    if folder == "checkpoints" && !found.iter().any(|name| name == SIMULATED) {
        found.push(SIMULATED.into());
    }
    found.sort();
    found
}

fn is_model(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| EXTENSIONS.contains(&extension))
}
