//! An ecosystem file, read for a command; what is wrong with it is told.

use super::serve;
use crate::cli::session::{Session, Told};
use crate::config::{self, Ecosystem};
use std::io::Read;
use std::path::Path;

/// Reads a file (or standard input, for `-`), or tells what is wrong with it.
pub fn load(session: &Session, target: &str) -> anyhow::Result<Ecosystem> {
    let loaded = if target == "-" {
        let mut text = String::new();
        std::io::stdin()
            .take(config::MAX_BYTES)
            .read_to_string(&mut text)?;
        config::parse("standard input", &text, config::Format::Json)
    } else {
        config::load(Path::new(target))
    };
    let mut loaded = loaded.map_err(|error| {
        match &error {
            config::ConfigError::NotFound(path) => session
                .output
                .error(&format!("File {} not found", path.display())),
            _ => {
                session.output.error(&format!("File {target} malformated"));
                session.output.error(&error.to_string());
            }
        }
        anyhow::Error::from(Told)
    })?;
    serve::understand(&mut loaded)?;
    Ok(loaded)
}
