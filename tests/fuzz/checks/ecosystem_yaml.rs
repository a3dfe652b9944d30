//! The text of an ecosystem file in YAML.

use super::ecosystem;
use fornax::config::Format;

pub fn check(data: &[u8]) {
    ecosystem::check(&String::from_utf8_lossy(data), Format::Yaml);
}
