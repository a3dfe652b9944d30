//! What each node class makes: the simulated counterpart of the node's own code.

use super::graph;
use super::jobs::Job;
use super::picture::{self, Fill, Picture};
use super::places;
use super::save::{Save, SaveError, ascii_json};
use super::shared::Shared;
use serde_json::{Value, json};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Pixels that one node may make, whatever the VRAM, so that no job writes for hours.
const MOST_PIXELS: u64 = 256 * 1024 * 1024;
/// Bytes of one pixel in a tensor: three 32-bit floats.
const PIXEL_BYTES: u64 = 12;
/// What a loaded checkpoint takes of the VRAM at most, in bytes.
const MODEL_BYTES: u64 = 6 << 30;

/// The result of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Made {
    /// What the nodes after it take.
    pub value: Option<Thing>,
    /// What it shows, if it is an output node: `{"images": […]}`.
    pub shown: Option<Value>,
}

/// What goes from node to node. Models, texts and masks have nothing in them.
#[derive(Debug, Clone)]
pub(super) enum Thing {
    /// A latent of this picture's size, and what it will look like.
    Latent(Picture),
    /// Pictures.
    Pictures(Picture),
}

/// Why a node made nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It raised: the exception's type and message.
    Raised {
        /// As Python names it.
        kind: &'static str,
        /// What it says.
        message: String,
    },
    /// The job was interrupted.
    Interrupted,
}

impl Failure {
    /// Torch's words for too little memory.
    pub(super) fn out_of_memory() -> Self {
        let message = "Allocation on device 0 would exceed allowed memory\nThis error means you ran out of memory on your GPU.\n\n\
                       TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number.";
        Failure::Raised {
            kind: "torch.OutOfMemoryError",
            message: message.into(),
        }
    }
}

impl From<SaveError> for Failure {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Interrupted => Failure::Interrupted,
            SaveError::Outside => Failure::Raised {
                kind: "Exception",
                message: error.to_string(),
            },
            SaveError::Write { .. } => Failure::Raised {
                kind: "OSError",
                message: error.to_string(),
            },
        }
    }
}

/// Executes one node. `linked` gives the result of the node that an input links to; `seed` decides what it draws.
pub(super) async fn make<'a>(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    node: &str,
    seed: u64,
    linked: impl Fn(&str) -> Option<&'a Made>,
) -> Result<Made, Failure> {
    let Some((class, inputs)) =
        graph::class(&job.prompt, node).zip(graph::inputs(&job.prompt, node))
    else {
        return Ok(Made::default());
    };
    let thing = |input: &str| {
        inputs
            .get(input)
            .and_then(graph::link)
            .and_then(|link| linked(link.node))
            .and_then(|made| made.value.clone())
    };
    let number = |input: &str| {
        inputs
            .get(input)
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(1)
    };
    let size = |fill| Picture {
        width: number("width"),
        height: number("height"),
        batch: number("batch_size"),
        fill,
    };
    let value = match class {
        "EmptyImage" => Some(Thing::Pictures(fits(
            shared,
            size(Fill::Flat(number("color"))),
        )?)),
        "EmptyLatentImage" => Some(Thing::Latent(fits(shared, size(Fill::Flat(0x80_80_80)))?)),
        "KSampler" => match thing("latent_image") {
            Some(Thing::Latent(latent)) => Some(Thing::Latent(Picture {
                fill: Fill::Gradient(seed),
                ..latent
            })),
            other => other,
        },
        "VAEDecode" => match thing("samples") {
            Some(Thing::Latent(picture)) => Some(Thing::Pictures(fits(shared, picture)?)),
            other => other,
        },
        "LoadImage" => Some(Thing::Pictures(load(shared, inputs.get("image")).await?)),
        "CheckpointLoaderSimple" => {
            shared.loaded.store(
                (shared.options.vram.0 / 4).min(MODEL_BYTES),
                Ordering::Relaxed,
            );
            None
        }
        "SaveImage" | "PreviewImage" => {
            let Some(Thing::Pictures(picture)) = thing("images") else {
                return Err(Failure::Raised {
                    kind: "TypeError",
                    message: "images is not a picture".into(),
                });
            };
            let prefix = inputs
                .get("filename_prefix")
                .and_then(Value::as_str)
                .unwrap_or("ComfyUI");
            return save(
                shared,
                job,
                picture,
                (class == "SaveImage").then_some(prefix),
            )
            .await;
        }
        _ => None,
    };
    Ok(Made { value, shown: None })
}

fn fits(shared: &Shared, picture: Picture) -> Result<Picture, Failure> {
    let pixels = picture.pixels();
    if pixels > MOST_PIXELS || pixels * PIXEL_BYTES > shared.options.vram.0 {
        return Err(Failure::out_of_memory());
    }
    Ok(picture)
}

async fn load(shared: &Shared, name: Option<&Value>) -> Result<Picture, Failure> {
    let name = name.and_then(Value::as_str).unwrap_or_default().to_owned();
    let path = places::inside(&shared.places.input, "", &name);
    let read = move || {
        path.ok()
            .and_then(|path| File::open(path).ok())
            .map(picture::read_png)
    };
    let missing = || Failure::Raised {
        kind: "FileNotFoundError",
        message: format!("[Errno 2] No such file or directory: '{name}'"),
    };
    let read = tokio::task::spawn_blocking(read)
        .await
        .ok()
        .flatten()
        .ok_or_else(missing)?;
    // A file that is no PNG still gives a picture, the same for the same name.
    let drawn = || Picture {
        width: 512,
        height: 512,
        batch: 1,
        fill: Fill::Gradient(
            name.bytes()
                .fold(0, |seed, byte| picture::mix(seed ^ u64::from(byte))),
        ),
    };
    Ok(read.unwrap_or_else(drawn))
}

/// Saves under a prefix, or previews without one.
async fn save(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    picture: Picture,
    prefix: Option<&str>,
) -> Result<Made, Failure> {
    let places = &shared.places;
    let (root, kind, prefix) = match prefix {
        Some(prefix) => (places.output.clone(), "output", prefix.to_owned()),
        None => (
            places.temp.clone(),
            "temp",
            format!(
                "ComfyUI_temp_{}",
                &uuid::Uuid::new_v4().simple().to_string()[..5]
            ),
        ),
    };
    let mut texts = Vec::new();
    if !shared.options.disable_metadata {
        texts.push(("prompt", ascii_json(&Value::Object(job.prompt.clone()))));
        if let Some(workflow) = job
            .extra
            .get("extra_pnginfo")
            .and_then(|info| info.get("workflow"))
        {
            texts.push(("workflow", ascii_json(workflow)));
        }
    }
    let save = Save {
        picture,
        root,
        prefix,
        kind,
        texts,
    };
    let shared = shared.clone();
    let stop = move || shared.stop.is_cancelled() || shared.jobs.is_interrupted();
    let written = tokio::task::spawn_blocking(move || save.write(stop)).await;
    let images = written.map_err(|_| Failure::Raised {
        kind: "RuntimeError",
        message: "the writer ended early".into(),
    })??;
    Ok(Made {
        value: None,
        shown: Some(json!({"images": images})),
    })
}
