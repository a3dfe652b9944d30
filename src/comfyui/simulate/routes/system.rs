//! What the instance says of itself: the front page, `/system_stats`, `/features`.

use crate::comfyui::simulate::options::SimulateOptions;
use crate::comfyui::simulate::shared::{COMFYUI_VERSION, Shared};
use axum::Json;
use axum::extract::State;
use axum::response::Html;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The Python that ComfyUI 0.3.64 was seen on, and that this is none.
pub(in crate::comfyui::simulate) const PYTHON: &str = concat!(
    "3.11.7 (simulated by fornax ",
    env!("CARGO_PKG_VERSION"),
    ")"
);
/// No torch: its version says so.
pub(in crate::comfyui::simulate) const PYTORCH: &str = "2.8.0+simulated";
/// The front end that ComfyUI 0.3.64 requires.
pub(in crate::comfyui::simulate) const FRONTEND: &str = "1.27.10";
/// Its template pack.
const TEMPLATES: &str = "0.1.95";

/// The device as the start lines and `/system_stats` name it.
pub(in crate::comfyui::simulate) fn device(options: &SimulateOptions) -> &'static str {
    if options.cpu {
        "cpu"
    } else {
        "cuda:0 Simulated GPU"
    }
}

pub(super) async fn front() -> Html<&'static str> {
    Html(
        "<!doctype html><title>ComfyUI (simulated)</title><p>A simulated ComfyUI, run by fornax. It has no front end; its API answers.</p>",
    )
}

pub(super) async fn stats(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let options = &shared.options;
    let (ram_total, ram_free) = shared.ram();
    let device = if options.cpu {
        json!({
            "name": device(options), "type": "cpu", "index": null, "vram_total": ram_total, "vram_free": ram_free,
            "torch_vram_total": ram_total, "torch_vram_free": ram_free,
        })
    } else {
        let loaded = shared.loaded.load(Ordering::Relaxed);
        json!({
            "name": device(options), "type": "cuda", "index": 0, "vram_total": options.vram.0,
            "vram_free": options.vram.0.saturating_sub(loaded), "torch_vram_total": loaded, "torch_vram_free": 0,
        })
    };
    Json(json!({
        "system": {
            "os": "posix",
            "ram_total": ram_total,
            "ram_free": ram_free,
            "comfyui_version": COMFYUI_VERSION,
            "required_frontend_version": FRONTEND,
            "installed_templates_version": TEMPLATES,
            "required_templates_version": TEMPLATES,
            "python_version": PYTHON,
            "pytorch_version": PYTORCH,
            "embedded_python": false,
            "argv": options.argv(),
        },
        "devices": [device],
    }))
}

/// What the server can do, over HTTP and as the answer to a websocket's first message.
pub(super) fn feature_flags(shared: &Shared) -> Value {
    json!({"supports_preview_metadata": true, "max_upload_size": shared.options.body_limit()})
}

pub(super) async fn features(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(feature_flags(&shared))
}
