//! The text of an ecosystem file in lenient JSON. Where it is strict JSON, it means what serde_json reads in it.

use super::ecosystem;
use fornax::config::Format;
use serde_json::Value;

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let apps = ecosystem::check(&text, Format::Json);
    if let (Some(apps), Ok(strict)) = (apps, serde_json::from_str::<Value>(&text)) {
        for app in apps {
            let there = strict.pointer(&app.pointer).unwrap();
            for (key, value) in &app.raw {
                ecosystem::assert_same(&there[key], value, key);
            }
        }
    }
}
