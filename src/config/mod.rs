//! Ecosystem files: finding, reading, checking, and their JSON Schema.

mod check;
mod dependencies;
mod discover;
mod engine;
mod error;
mod host;
mod js;
mod json;
mod load;
pub mod schema;
mod yaml;

pub use check::{CheckOptions, CheckReport, CheckedApp, check};
pub use dependencies::dependency_problems;
pub use discover::{discover, is_config_file, names_config_file};
pub use error::{ConfigError, Problem};
pub use host::{SystemHost, host_for};
pub use js::{Evaluated, Evaluator, evaluate_by};
pub use load::{Ecosystem, Format, LocatedApp, MAX_BYTES, Source, load, parse, parse_data};
