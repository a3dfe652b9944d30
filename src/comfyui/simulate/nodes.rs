//! The node classes that a simulated ComfyUI has, in the form of `/object_info` (ComfyUI 0.3.64).

use super::graph;
use serde_json::{Map, Value, json};

/// The samplers of the KSampler.
const SAMPLERS: [&str; 8] = [
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "ddim",
    "uni_pc",
];
/// Its schedulers.
const SCHEDULERS: [&str; 6] = [
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "normal",
];

/// One class, as written here: inputs as name and configuration, outputs as types.
struct Class {
    name: &'static str,
    display_name: &'static str,
    description: &'static str,
    category: &'static str,
    output_node: bool,
    required: Vec<(&'static str, Value)>,
    hidden: bool,
    output: &'static [&'static str],
    output_tooltips: &'static [&'static str],
}

/// Every class by name. `checkpoints` and `pictures` are what the two loaders may choose from.
pub(super) fn catalogue(checkpoints: &[String], pictures: &[String]) -> Map<String, Value> {
    classes(checkpoints, pictures)
        .into_iter()
        .map(|class| (class.name.to_owned(), class.info()))
        .collect()
}

impl Class {
    fn info(self) -> Value {
        let required: Map<String, Value> = self
            .required
            .iter()
            .map(|(name, config)| ((*name).to_owned(), config.clone()))
            .collect();
        let order: Vec<&str> = self.required.iter().map(|(name, _)| *name).collect();
        let (mut input, mut input_order) =
            (json!({"required": required}), json!({"required": order}));
        if self.hidden {
            input["hidden"] = json!({"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"});
            input_order["hidden"] = json!(["prompt", "extra_pnginfo"]);
        }
        let mut info = json!({
            "input": input,
            "input_order": input_order,
            "output": self.output,
            "output_is_list": vec![false; self.output.len()],
            "output_name": self.output,
            "name": self.name,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": "nodes",
            "category": self.category,
            "output_node": self.output_node,
        });
        if !self.output_tooltips.is_empty() {
            info["output_tooltips"] = json!(self.output_tooltips);
        }
        info
    }
}

fn classes(checkpoints: &[String], pictures: &[String]) -> Vec<Class> {
    let side = |tip: &str| json!(["INT", {"default": 512, "min": 16, "max": 16384, "step": 8, "tooltip": tip}]);
    let plain = |kind: &str, tip: &str| json!([kind, {"tooltip": tip}]);
    vec![
        Class {
            required: vec![
                (
                    "model",
                    plain("MODEL", "The model used for denoising the input latent."),
                ),
                (
                    "seed",
                    json!(["INT", {"default": 0, "min": 0, "max": u64::MAX, "control_after_generate": true}]),
                ),
                (
                    "steps",
                    json!(["INT", {"default": 20, "min": 1, "max": 10000}]),
                ),
                (
                    "cfg",
                    json!(["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}]),
                ),
                ("sampler_name", json!([SAMPLERS, {}])),
                ("scheduler", json!([SCHEDULERS, {}])),
                (
                    "positive",
                    plain("CONDITIONING", "What the picture should have."),
                ),
                (
                    "negative",
                    plain("CONDITIONING", "What the picture should not have."),
                ),
                (
                    "latent_image",
                    plain("LATENT", "The latent image to denoise."),
                ),
                (
                    "denoise",
                    json!(["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}]),
                ),
            ],
            ..class("KSampler", "KSampler", "sampling", &["LATENT"])
        },
        Class {
            description: "Loads a diffusion model checkpoint, diffusion models are used to denoise latents.",
            required: vec![(
                "ckpt_name",
                json!([checkpoints, {"tooltip": "The name of the checkpoint (model) to load."}]),
            )],
            output_tooltips: &[
                "The model used for denoising latents.",
                "The CLIP model used for encoding text prompts.",
                "The VAE model used for encoding and decoding images to and from latent space.",
            ],
            ..class(
                "CheckpointLoaderSimple",
                "Load Checkpoint",
                "loaders",
                &["MODEL", "CLIP", "VAE"],
            )
        },
        Class {
            required: vec![
                (
                    "text",
                    json!(["STRING", {"multiline": true, "dynamicPrompts": true}]),
                ),
                (
                    "clip",
                    plain("CLIP", "The CLIP model used for encoding the text."),
                ),
            ],
            ..class(
                "CLIPTextEncode",
                "CLIP Text Encode (Prompt)",
                "conditioning",
                &["CONDITIONING"],
            )
        },
        Class {
            required: vec![
                ("width", side("The width of the latent images in pixels.")),
                ("height", side("The height of the latent images in pixels.")),
                (
                    "batch_size",
                    json!(["INT", {"default": 1, "min": 1, "max": 4096}]),
                ),
            ],
            ..class(
                "EmptyLatentImage",
                "Empty Latent Image",
                "latent",
                &["LATENT"],
            )
        },
        Class {
            required: vec![
                ("samples", plain("LATENT", "The latent to be decoded.")),
                ("vae", plain("VAE", "The VAE model to decode with.")),
            ],
            ..class("VAEDecode", "VAE Decode", "latent", &["IMAGE"])
        },
        Class {
            description: "Saves the input images to your ComfyUI output directory.",
            output_node: true,
            hidden: true,
            required: vec![
                ("images", plain("IMAGE", "The images to save.")),
                (
                    "filename_prefix",
                    json!(["STRING", {
                        "default": "ComfyUI",
                        "tooltip": "The prefix for the file to save. This may include formatting information such as %date:yyyy-MM-dd% or %Empty Latent Image.width% to include values from nodes.",
                    }]),
                ),
            ],
            ..class("SaveImage", "Save Image", "image", &[])
        },
        Class {
            description: "Saves the input images to your ComfyUI output directory.",
            output_node: true,
            hidden: true,
            required: vec![("images", json!(["IMAGE"]))],
            ..class("PreviewImage", "Preview Image", "image", &[])
        },
        Class {
            required: vec![("image", json!([pictures, {"image_upload": true}]))],
            ..class("LoadImage", "Load Image", "image", &["IMAGE", "MASK"])
        },
        Class {
            required: vec![
                (
                    "width",
                    json!(["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]),
                ),
                (
                    "height",
                    json!(["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]),
                ),
                (
                    "batch_size",
                    json!(["INT", {"default": 1, "min": 1, "max": 4096}]),
                ),
                (
                    "color",
                    json!(["INT", {"default": 0, "min": 0, "max": 16_777_215, "step": 1, "display": "color"}]),
                ),
            ],
            ..class("EmptyImage", "EmptyImage", "image", &["IMAGE"])
        },
    ]
}

fn class(
    name: &'static str,
    display_name: &'static str,
    category: &'static str,
    output: &'static [&'static str],
) -> Class {
    Class {
        name,
        display_name,
        description: "",
        category,
        output_node: false,
        required: Vec::new(),
        hidden: false,
        output,
        output_tooltips: &[],
    }
}

/// The required inputs of a class, as name and configuration, in order.
pub(super) fn required(class: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let required = class["input"]["required"].as_object();
    required
        .into_iter()
        .flatten()
        .map(|(name, config)| (name.as_str(), config))
}

/// True if nodes of this class end a graph.
pub(super) fn is_output(class: &Value) -> bool {
    class["output_node"] == true
}

/// The nodes that the declared inputs of a node link to. Inputs that the class does not know are not followed.
pub(super) fn needs<'a>(
    prompt: &'a Map<String, Value>,
    catalogue: &Map<String, Value>,
    id: &str,
) -> Vec<&'a str> {
    let Some((info, inputs)) = graph::class(prompt, id)
        .and_then(|class| catalogue.get(class))
        .zip(graph::inputs(prompt, id))
    else {
        return Vec::new();
    };
    let links = required(info).filter_map(|(name, _)| inputs.get(name).and_then(graph::link));
    links
        .map(|link| link.node)
        .filter(|node| prompt.contains_key(*node))
        .collect()
}
