//! JSON as lenient as PM2's, with PM2's words for what is none.

use super::error::{ConfigError, Problem};
use crate::core::json;
use crate::core::positions::Positions;
use serde_json::Value;

/// Parses lenient JSON (JSON5). Of a key written twice the last one counts.
pub fn parse(file: &str, text: &str) -> Result<(Value, Positions), ConfigError> {
    json::parse(file, text).map_err(|problem| {
        ConfigError::Malformed(Box::new(Problem {
            pm2: Some(format!("File {file} malformated")),
            mend: format!(
                "{}; a computed value needs an ecosystem.config.js",
                problem.mend
            ),
            ..*problem
        }))
    })
}
