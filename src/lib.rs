//! Fornax: a native process manager for GPU machines, for Linux.
//!
//! The layers, from the bottom: [`core`] (pure), [`sys`] (the only unsafe code), [`adapters`], [`gpu`], [`config`] and
//! [`comfyui`], then [`daemon`], then [`pm2`] and [`http`], and beside them [`cli`]; apart from all, [`serve`], the static file server. `docs/architecture.md` draws them;
//! `tests/layers.rs` holds them.

pub mod adapters;
pub mod cli;
pub mod comfyui;
pub mod config;
pub mod core;
pub mod daemon;
pub mod fleet;
pub mod gpu;
pub mod http;
pub mod jobs;
pub mod keeper;
pub mod pm2;
pub mod serve;
pub mod sys;
