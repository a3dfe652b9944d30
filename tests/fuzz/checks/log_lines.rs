//! What an app writes, to whole lines, and what is put around them.
//!
//! The first two bytes choose the limits, the third how the stream is cut on its way.

use super::pieces;
use fornax::core::ids::Stream;
use fornax::core::logline::{
    CUT_MARK, LineSplitter, count_lines, json_lines, json_tail, stamp_lines,
};
use serde_json::Value;

pub fn check(data: &[u8]) {
    let [redraw, line, cut, stream @ ..] = data else {
        return;
    };
    let redraw = usize::from(*redraw).max(1);
    let limit = (redraw + 1 + usize::from(*line)).max(5);
    let whole = split(std::iter::once(stream), redraw, limit);
    let sizes = [usize::from(*cut), 1, 3];
    assert_eq!(
        whole,
        split(pieces(stream, &sizes), redraw, limit),
        "how a stream is cut changes no line"
    );
    assert!(
        kept(stream, &whole, limit),
        "every byte comes out once, in its order"
    );
    dressed(&whole);
}

fn split<'a>(pieces: impl Iterator<Item = &'a [u8]>, redraw: usize, limit: usize) -> Vec<u8> {
    let mut splitter = LineSplitter::with_limits(redraw, limit);
    let mut out = Vec::new();
    for piece in pieces {
        let whole = splitter.push(piece);
        for part in [whole.head, whole.body] {
            assert!(
                part.is_empty() || part.ends_with(b"\n"),
                "a part is whole lines"
            );
            out.extend_from_slice(part);
        }
        assert!(splitter.held() <= limit, "{} bytes held", splitter.held());
    }
    out.extend_from_slice(splitter.finish());
    assert_eq!(splitter.held(), 0);
    for line in out.split(|byte| *byte == b'\n') {
        assert!(
            line.len() <= limit + CUT_MARK.len(),
            "a line of {} bytes",
            line.len()
        );
    }
    out
}

/// Whether `out` is `stream`: line by line, but for those that are cut after a `\r` or, with a mark, because they are too long.
fn kept(mut stream: &[u8], out: &[u8], limit: usize) -> bool {
    for line in out.split_inclusive(|byte| *byte == b'\n') {
        let line = &line[..line.len() - 1];
        // A mark makes a line longer than any other.
        let piece = if line.len() > limit {
            line.strip_suffix(CUT_MARK).unwrap()
        } else {
            line
        };
        let Some(rest) = stream.strip_prefix(piece) else {
            return false;
        };
        let ended = piece.len() == line.len() && (rest.is_empty() || rest[0] == b'\n');
        if !ended && piece.len() == line.len() && !line.ends_with(b"\r") {
            return false;
        }
        stream = if ended {
            rest.get(1..).unwrap_or_default()
        } else {
            rest
        };
    }
    stream.is_empty()
}

fn dressed(lines: &[u8]) {
    let count = count_lines(lines);
    let mut stamped = Vec::new();
    assert_eq!(stamp_lines(lines, b"T: ", &mut stamped), count);
    let bare: Vec<u8> = stamped
        .split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| line.strip_prefix(b"T: ").unwrap())
        .copied()
        .collect();
    assert_eq!(bare, lines);
    let mut json = Vec::new();
    let name = String::from_utf8_lossy(&lines[..lines.len().min(20)]);
    assert_eq!(
        json_lines(lines, &json_tail("2026", Stream::Err, 7, &name), &mut json),
        count
    );
    let plain = lines.split(|byte| *byte == b'\n');
    for (line, object) in plain.zip(json.split_inclusive(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let object: Value = serde_json::from_slice(object).unwrap();
        assert_eq!(object["message"], *String::from_utf8_lossy(line));
        assert_eq!(object["app_name"], *name);
    }
}
