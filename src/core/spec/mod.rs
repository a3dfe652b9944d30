//! What an app should be: PM2's keys, and the `fornax` block for what PM2 has no words for.

pub mod app;
pub mod args;
pub mod conf;
pub mod context;
pub mod cpus;
pub mod env;
pub mod fornax;
pub mod fornax_check;
pub mod home;
pub mod instances;
pub mod interpreter;
pub mod issue;
pub mod keys;
pub mod monitor;
pub mod node;
pub mod normalise;
mod owner;
pub mod paths;
pub mod raw;
pub mod validate;
