//! What must hold of each parser of outside bytes, whatever the bytes are: one function for each fuzz target. The fuzz targets
//! call them, and so do the default tests, which replay the committed corpora and try what proptest makes up.

#![allow(dead_code, clippy::unwrap_used)] // a fuzz target uses one of them, and a check fails by panicking

pub mod axon;
pub mod channel;
mod ecosystem;
pub mod ecosystem_json;
pub mod ecosystem_yaml;
pub mod http;
pub mod keeper;
pub mod log_lines;
mod machine;
mod rig;
pub mod rpc;
pub mod state;
pub mod words;

/// What a target does with its bytes; it panics where something does not hold.
pub type Check = fn(&[u8]);

/// Every target by its name, which is its corpus's folder too.
pub const TARGETS: [(&str, Check); 10] = [
    ("axon", axon::check),
    ("channel", channel::check),
    ("ecosystem_json", ecosystem_json::check),
    ("ecosystem_yaml", ecosystem_yaml::check),
    ("http", http::check),
    ("keeper", keeper::check),
    ("log_lines", log_lines::check),
    ("rpc", rpc::check),
    ("state", state::check),
    ("words", words::check),
];

/// The pieces of `data` when it is cut every so many bytes, by turns: what a reader may get of a stream.
fn pieces<'a>(data: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = data;
    let mut turn = sizes.iter().cycle();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let size = (*turn.next()?).clamp(1, rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        Some(piece)
    })
}
