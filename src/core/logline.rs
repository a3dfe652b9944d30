//! Bytes of a log in any chunks → whole lines, and what is put around them (a stamp, or JSON).
//!
//! Where a line ends depends on its bytes only, never on how they were chunked.

use crate::core::ids::Stream;
use memchr::{memchr, memchr_iter, memrchr};

/// A line longer than this that redraws itself (it holds a `\r` that no `\n` follows, as progress bars do) is cut after
/// such a `\r`. In bytes.
pub const REDRAW_LIMIT: usize = 64 << 10;

/// A line longer than this is cut, at a UTF-8 boundary, and the cut is marked with [`CUT_MARK`]. In bytes.
pub const LINE_LIMIT: usize = 1 << 20;

/// Stands at the end of a piece of an overlong line; the next line of the log goes on with it.
pub const CUT_MARK: &[u8] = b" [fornax: line continues]";

/// At most this much of an unfinished line is shown before it ends, in bytes. Less than [`REDRAW_LIMIT`]: a line of which more was
/// shown than what a cut leaves would be told twice.
pub const SHOW_LIMIT: usize = 16 << 10;

/// A buffer of a stream keeps at most this much room while it is idle. In bytes.
const KEEP_ROOM: usize = 4 << 10;

/// Collects one stream's bytes and hands them out as whole lines. It holds the unfinished last line and no more:
/// at most [`LINE_LIMIT`] and one chunk.
#[derive(Debug)]
pub struct LineSplitter {
    held: Vec<u8>,
    /// Up to here `held` is known to need no cut; below `redraw_limit` nothing was looked at.
    searched: usize,
    /// So much of `held` was shown already: it is not cut within that.
    shown: usize,
    made: Vec<u8>,
    redraw_limit: usize,
    line_limit: usize,
}

/// Whole lines, each with its `\n`: first `head`, then `body` (a part of the chunk itself). Either may be empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole<'a> {
    /// Lines begun in earlier chunks, and lines that had to be cut.
    pub head: &'a [u8],
    /// Lines that lie in the chunk as they are.
    pub body: &'a [u8],
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::with_limits(REDRAW_LIMIT, LINE_LIMIT)
    }
}

impl LineSplitter {
    /// A splitter with other limits than [`REDRAW_LIMIT`] and [`LINE_LIMIT`]; `redraw_limit` is 1 or more, `line_limit` more
    /// than that and than 4.
    pub fn with_limits(redraw_limit: usize, line_limit: usize) -> Self {
        let redraw_limit = redraw_limit.max(1);
        Self {
            held: Vec::new(),
            searched: 0,
            shown: 0,
            made: Vec::new(),
            redraw_limit,
            line_limit: line_limit.max(redraw_limit + 1).max(5),
        }
    }

    /// A new splitter that goes on where another one with the same limits stood: `unfinished` is what that one held, and `shown`
    /// bytes of it were shown.
    pub fn resuming(mut self, unfinished: Vec<u8>, shown: usize) -> Self {
        self.searched = self.searched_of(unfinished.len());
        self.held = unfinished;
        self.set_shown(shown);
        self
    }

    /// How much of an unfinished line is held, in bytes.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The unfinished line: with how much of it was shown, all the state that a splitter has.
    pub fn unfinished(&self) -> &[u8] {
        &self.held
    }

    /// What of the unfinished line may be shown before it ends: its first [`SHOW_LIMIT`] bytes.
    pub fn showable(&self) -> &[u8] {
        let most = SHOW_LIMIT.min(self.redraw_limit - 1);
        &self.held[..self.held.len().min(most)]
    }

    /// So much of [`LineSplitter::showable`] is shown: what comes of this line begins with it.
    pub fn set_shown(&mut self, bytes: usize) {
        self.shown = bytes.min(self.showable().len());
    }

    /// Of so many bytes that are held because they need no cut, how many need not be looked at again.
    fn searched_of(&self, held: usize) -> usize {
        if held > self.redraw_limit {
            held - 1
        } else {
            0
        }
    }

    /// Takes the next bytes and gives the lines that are now whole.
    pub fn push<'a>(&'a mut self, chunk: &'a [u8]) -> Whole<'a> {
        self.clear_made();
        let mut rest = chunk;
        if !self.held.is_empty() {
            let end = memchr(b'\n', chunk).map_or(chunk.len(), |at| at + 1);
            self.held.extend_from_slice(&chunk[..end]);
            rest = &chunk[end..];
            self.cut_held();
        }
        let (mut body, tail) = rest.split_at(memrchr(b'\n', rest).map_or(0, |at| at + 1));
        if self.has_overlong(body) {
            for line in body.split_inclusive(|byte| *byte == b'\n') {
                self.held.extend_from_slice(line);
                self.cut_held();
            }
            body = &[];
        }
        if !tail.is_empty() {
            self.held.extend_from_slice(tail);
            if tail.len() > self.redraw_limit
                && next_cut(tail, 0, self.redraw_limit, self.line_limit).is_some()
            {
                self.made.extend_from_slice(body);
                body = &[];
                self.cut_held();
            }
        }
        Whole {
            head: &self.made,
            body,
        }
    }

    /// The unfinished line, if there is one, with a `\n` added (and cut like any other). Nothing is held afterwards.
    pub fn finish(&mut self) -> &[u8] {
        self.clear_made();
        if !self.held.is_empty() {
            self.held.push(b'\n');
            self.cut_held();
        }
        &self.made
    }

    fn clear_made(&mut self) {
        self.made.clear();
        if self.made.capacity() > KEEP_ROOM {
            self.made = Vec::new();
        }
    }

    /// Moves out of `held` what can leave it: all of it once it ends in `\n`, and pieces of an overlong line.
    fn cut_held(&mut self) {
        let ended = self.held.last() == Some(&b'\n');
        let content_end = self.held.len() - usize::from(ended);
        let mut from = 0;
        while let Some((at, marked)) = next_cut(
            &self.held[from..content_end],
            self.searched.max(self.shown),
            self.redraw_limit,
            self.line_limit,
        ) {
            self.made.extend_from_slice(&self.held[from..from + at]);
            self.made
                .extend_from_slice(if marked { CUT_MARK } else { b"" });
            self.made.push(b'\n');
            from += at;
            (self.searched, self.shown) = (0, 0);
        }
        if ended {
            self.made.extend_from_slice(&self.held[from..]);
            self.held.clear();
            (self.searched, self.shown) = (0, 0);
            if self.held.capacity() > KEEP_ROOM {
                self.held = Vec::new();
            }
        } else {
            self.held.drain(..from);
            self.searched = self.searched_of(self.held.len());
        }
    }

    /// Whether some line of `lines` (whole ones) is longer than the first limit. Looks at one place in each `redraw_limit`.
    fn has_overlong(&self, lines: &[u8]) -> bool {
        let mut start = 0;
        while lines.len() - start > self.redraw_limit + 1 {
            match memrchr(b'\n', &lines[start..=start + self.redraw_limit]) {
                Some(at) => start += at + 1,
                None => return true,
            }
        }
        false
    }
}

/// Where the line that begins with `content` must be cut, and whether that is marked; `None`: nowhere so far.
/// Before `searched` there is to be no cut.
fn next_cut(
    content: &[u8],
    searched: usize,
    redraw_limit: usize,
    line_limit: usize,
) -> Option<(usize, bool)> {
    if content.len() <= redraw_limit {
        return None;
    }
    let from = searched.saturating_sub(1);
    if searched < redraw_limit
        && let Some(at) = memrchr(b'\r', &content[from..redraw_limit])
    {
        return Some((from + at + 1, false));
    }
    let start = searched.max(redraw_limit);
    let window = content
        .get(start..content.len().min(line_limit))
        .unwrap_or_default();
    if let Some(at) = memchr(b'\r', window) {
        let after = start + at + 1;
        // The last byte so far may be the first half of `\r\n`.
        if after < content.len() {
            return Some((after, false));
        }
    }
    (content.len() > line_limit).then(|| (char_boundary(content, line_limit), true))
}

/// The last UTF-8 boundary at or before `at`; `at` itself where the bytes are no UTF-8.
fn char_boundary(bytes: &[u8], at: usize) -> usize {
    (at.saturating_sub(3)..=at)
        .rev()
        .find(|i| *i > 0 && bytes[*i] & 0xC0 != 0x80)
        .unwrap_or(at)
}

/// How many lines whole lines are.
pub fn count_lines(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

/// Appends each line of `lines` (whole ones) with `stamp` before it; returns how many there were. PM2 writes `<stamp>: <line>`,
/// so `stamp` ends in `": "`.
pub fn stamp_lines(lines: &[u8], stamp: &[u8], out: &mut Vec<u8>) -> u64 {
    out.reserve(lines.len() + lines.len() / 4 + stamp.len());
    let mut start = 0;
    let mut count = 0;
    for end in memchr_iter(b'\n', lines) {
        out.extend_from_slice(stamp);
        out.extend_from_slice(&lines[start..=end]);
        start = end + 1;
        count += 1;
    }
    count
}

/// The end of every JSON line of one stream at one time: from the quote that closes the message to the `\n`.
/// The keys and their order are PM2's.
pub fn json_tail(timestamp: &str, stream: Stream, process_id: u32, app_name: &str) -> Vec<u8> {
    let mut out = b"\",\"timestamp\":\"".to_vec();
    escape_json(timestamp.as_bytes(), &mut out);
    out.extend_from_slice(b"\",\"type\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(b"\",\"process_id\":");
    out.extend_from_slice(process_id.to_string().as_bytes());
    out.extend_from_slice(b",\"app_name\":\"");
    escape_json(app_name.as_bytes(), &mut out);
    out.extend_from_slice(b"\"}\n");
    out
}

/// Appends one JSON object for each line of `lines` (whole ones); returns how many there were. The line end (`\n` or
/// `\r\n`) is no part of the message; bytes that are no UTF-8 become U+FFFD.
pub fn json_lines(lines: &[u8], tail: &[u8], out: &mut Vec<u8>) -> u64 {
    out.reserve(lines.len() * 2);
    let all_utf8 = std::str::from_utf8(lines).is_ok();
    let mut start = 0;
    let mut count = 0;
    for end in memchr_iter(b'\n', lines) {
        let line = &lines[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        out.extend_from_slice(b"{\"message\":\"");
        if all_utf8 {
            escape_json(line, out);
        } else {
            escape_json(String::from_utf8_lossy(line).as_bytes(), out);
        }
        out.extend_from_slice(tail);
        start = end + 1;
        count += 1;
    }
    count
}

/// Which bytes JSON must escape.
const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Appends `text` (UTF-8) with the escapes that `JSON.stringify` uses.
fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| ESCAPED[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[
                    HEX[usize::from(other >> 4)],
                    HEX[usize::from(other & 15)],
                ]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that comes out for these chunks, tail included.
    fn run(chunks: &[&[u8]], redraw: usize, limit: usize) -> Vec<u8> {
        let mut splitter = LineSplitter::with_limits(redraw, limit);
        let mut out = Vec::new();
        for chunk in chunks {
            let whole = splitter.push(chunk);
            for part in [whole.head, whole.body] {
                assert!(
                    part.is_empty() || part.ends_with(b"\n"),
                    "a part is whole lines: {part:?}"
                );
                out.extend_from_slice(part);
            }
            assert!(splitter.held() <= limit + 1, "{} held", splitter.held());
        }
        out.extend_from_slice(splitter.finish());
        assert_eq!(splitter.held(), 0);
        out
    }

    fn whole(text: &str) -> Vec<u8> {
        run(&[text.as_bytes()], 16, 40)
    }

    #[test]
    fn lines_come_out_as_they_went_in() {
        for text in [
            "",
            "a\n",
            "a\nb\n",
            "\n\n",
            "a\r\nb\r\n",
            "é\n",
            "\r\n",
            "a\rb\n",
        ] {
            assert_eq!(whole(text), text.as_bytes(), "{text:?}");
        }
        assert_eq!(whole("no end"), b"no end\n");
    }

    #[test]
    fn a_redrawn_line_is_cut_after_its_last_redraw_once_it_is_long() {
        assert_eq!(
            whole("10%\r20%\r30%\r40%\r50%\r60%\r\n"),
            b"10%\r20%\r30%\r40%\r\n50%\r60%\r\n"
        );
        assert_eq!(
            whole("01234567890123456789\rabc\n"),
            b"01234567890123456789\r\nabc\n"
        );
    }

    #[test]
    fn an_overlong_line_is_cut_between_characters_and_says_so() {
        let line = "é".repeat(25) + "\n";
        let cut = whole(&line);
        assert_eq!(
            String::from_utf8(cut).unwrap(),
            format!(
                "{}{}\n{}\n",
                "é".repeat(20),
                " [fornax: line continues]",
                "é".repeat(5)
            )
        );
        let cut = whole(&("a".to_owned() + &line));
        assert_eq!(
            String::from_utf8(cut).unwrap(),
            format!(
                "a{}{}\n{}\n",
                "é".repeat(19),
                " [fornax: line continues]",
                "é".repeat(6)
            )
        );
        let exact = "x".repeat(40) + "\n";
        assert_eq!(whole(&exact), exact.as_bytes());
        let crlf = "x".repeat(39) + "\r\n";
        assert_eq!(whole(&crlf), crlf.as_bytes());
    }

    #[test]
    fn a_stamp_stands_before_every_line() {
        let mut out = Vec::new();
        assert_eq!(stamp_lines(b"a\n\nb\r\n", b"T: ", &mut out), 3);
        assert_eq!(out, b"T: a\nT: \nT: b\r\n");
    }

    #[test]
    fn a_json_line_has_pm2s_keys_and_one_line_each() {
        let tail = json_tail("2026-01-02T03:04:05.006Z", Stream::Err, 7, "my \"app\"");
        let mut out = Vec::new();
        assert_eq!(
            json_lines(b"say \"hi\"\t\x01\\\r\nbad \xff\n", &tail, &mut out),
            2
        );
        let text = String::from_utf8(out).unwrap();
        let end = r#"","timestamp":"2026-01-02T03:04:05.006Z","type":"err","process_id":7,"app_name":"my \"app\""}"#;
        assert_eq!(
            text,
            format!(
                "{{\"message\":\"say \\\"hi\\\"\\t\\u0001\\\\{end}\n{{\"message\":\"bad \u{fffd}{end}\n"
            )
        );
    }

    /// Bytes that meet the edges often.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![6 => Just(b'x'), 1 => Just(b'\n'), 1 => Just(b'\r'), 2 => "é".prop_map(|s| s.as_bytes()[0]), 2 => Just(0xA9u8), 1 => any::<u8>()];
        proptest::collection::vec(byte, 0..200)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(data in bytes(), cuts in proptest::collection::vec(0usize..200, 0..12)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(data.len())).collect();
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &data[w[0]..w[1]]).collect();
            let bytewise: Vec<&[u8]> = data.chunks(1).collect();
            let want = run(&[&data], 16, 40);
            prop_assert_eq!(&run(&chunks, 16, 40), &want);
            prop_assert_eq!(&run(&bytewise, 16, 40), &want);
        }

        #[test]
        fn another_splitter_goes_on_with_the_unfinished_line(data in bytes(), cut in 0usize..200, step in 1usize..60) {
            let want = run(&[&data], 16, 40);
            let cut = cut.min(data.len());
            let (mut splitter, mut out) = (LineSplitter::with_limits(16, 40), Vec::new());
            for part in [&data[..cut], &data[cut..]] {
                for chunk in part.chunks(step) {
                    let whole = splitter.push(chunk);
                    out.extend_from_slice(whole.head);
                    out.extend_from_slice(whole.body);
                }
                let unfinished = splitter.unfinished().to_vec();
                splitter = LineSplitter::with_limits(16, 40).resuming(unfinished, 0);
            }
            out.extend_from_slice(splitter.finish());
            prop_assert_eq!(out, want);
        }

        #[test]
        fn what_was_shown_is_how_its_line_begins(data in bytes(), shows in proptest::collection::vec(any::<bool>(), 200), step in 1usize..60) {
            let (mut splitter, mut out, mut shown) = (LineSplitter::with_limits(16, 40), Vec::new(), Vec::new());
            for (chunk, show) in data.chunks(step).zip(shows) {
                let whole = splitter.push(chunk);
                let lines = [whole.head, whole.body].concat();
                if !lines.is_empty() {
                    prop_assert!(lines.starts_with(&shown), "{lines:?} does not begin with {shown:?}");
                    shown.clear();
                }
                out.extend_from_slice(&lines);
                if show {
                    shown = splitter.showable().to_vec();
                    splitter.set_shown(shown.len());
                }
                splitter = LineSplitter::with_limits(16, 40).resuming(splitter.unfinished().to_vec(), shown.len());
            }
            let last = splitter.finish();
            prop_assert!(last.starts_with(&shown));
            out.extend_from_slice(last);
            // Where nothing must be cut, nothing else has changed.
            let cut = data.split(|byte| *byte == b'\n').any(|line| line.len() > 16);
            prop_assert!(cut || out == run(&[&data], 16, 40));
        }

        #[test]
        fn short_lines_are_not_changed_at_all(data in bytes()) {
            let out = run(&[&data], 1000, 2000);
            let mut want = data.clone();
            if !want.is_empty() && !want.ends_with(b"\n") {
                want.push(b'\n');
            }
            prop_assert_eq!(out, want);
        }

        #[test]
        fn no_byte_is_lost_where_lines_are_cut(data in bytes()) {
            let out = run(&[&data], 16, 40);
            let bare = |bytes: &[u8]| -> Vec<u8> {
                let text: Vec<u8> = bytes.to_vec();
                let mut kept = Vec::new();
                let mut rest = &text[..];
                while !rest.is_empty() {
                    if let Some(after) = rest.strip_prefix(CUT_MARK) { rest = after; continue; }
                    if rest[0] != b'\n' { kept.push(rest[0]); }
                    rest = &rest[1..];
                }
                kept
            };
            prop_assert_eq!(bare(&out), bare(&data));
        }

        #[test]
        fn every_json_line_parses_back(data in bytes()) {
            let mut splitter = LineSplitter::default();
            let mut lines = splitter.push(&data).body.to_vec();
            lines.extend_from_slice(splitter.finish());
            let mut out = Vec::new();
            let count = json_lines(&lines, &json_tail("t", Stream::Out, 0, "a"), &mut out);
            let parsed: Vec<serde_json::Value> = out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
            prop_assert_eq!(parsed.len() as u64, count);
            for (line, value) in lines.split(|b| *b == b'\n').zip(&parsed) {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                prop_assert_eq!(value["message"].as_str().unwrap(), String::from_utf8_lossy(line));
            }
        }
    }
}
