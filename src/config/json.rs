//! JSON as lenient as PM2's: comments, bare keys, single quotes, trailing commas, a byte order mark, duplicate keys.

use super::error::{ConfigError, Problem};
use super::positions::{MAX_DEPTH, Place, Positions, TooDeep};
use serde_json::Value;

/// Parses lenient JSON (JSON5). Of a key written twice the last one counts.
pub fn parse(file: &str, text: &str) -> Result<(Value, Positions), ConfigError> {
    let malformed = |place: Option<Place>, what: String, mend: &str| {
        ConfigError::Malformed(Box::new(Problem {
            file: file.to_string(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            key: String::new(),
            what,
            mend: mend.to_string(),
            pm2: Some(format!("File {file} malformated")),
        }))
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Before the parser proper, which recurses without a limit of its own.
    let positions = Positions::of_json(text).map_err(|TooDeep(place)| {
        malformed(
            Some(place),
            format!("nests deeper than {MAX_DEPTH} levels"),
            "flatten it",
        )
    })?;
    let value = json5::from_str(text).map_err(|error| {
        let start = Place { line: 1, column: 1 };
        let place = error.position().map_or(start, |p| Place {
            line: number(p.line),
            column: number(p.column),
        });
        let what = error
            .code()
            .map_or_else(|| error.to_string(), |code| code.to_string());
        malformed(
            Some(place),
            format!("is not JSON: {what}"),
            "see what stands before this place; a computed value needs an ecosystem.config.js",
        )
    })?;
    Ok((value, positions))
}

/// json5 counts lines and columns from 0.
fn number(from_zero: usize) -> u32 {
    u32::try_from(from_zero + 1).unwrap_or(u32::MAX)
}
