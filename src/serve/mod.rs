//! `pm2 serve`: a static file server, run as an app of its own (pm2 7.0.4, spec 6.13).

mod answer;
mod listing;
mod place;
mod range;
mod server;
mod settings;

pub use server::run;
pub use settings::Settings;
