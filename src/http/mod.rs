//! Port 9090: health, services, logs, over HTTP.
//!
//! Every answer is made from what the daemon's loop has published last; a request never causes a probe. Logs alone come
//! from disk, read on threads of their own.

mod address;
mod answer;
mod app;
mod bind;
mod classic;
mod comfyui;
mod connection;
#[doc(hidden)]
pub mod direct;
mod event_id;
mod follow;
mod gate;
mod health;
mod installation;
mod jobs;
mod listen;
mod logs;
mod metrics;
mod nearest;
mod openmetrics;
mod problem;
mod query;
mod rollout;
mod services;
mod sources;
mod status;
mod token;
mod view;
mod wait;

pub use app::HttpOptions;
pub use listen::{serve, serve_with};
