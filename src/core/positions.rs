//! Where each key and value of a file stands: line and column by JSON pointer, for messages that show the place.

use super::spec::issue::pointer_step;
use std::collections::HashMap;

/// A place in a text, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// The place of each key and value by JSON pointer. Empty where the format gives none.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    places: HashMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Place,
    value: Place,
}

/// How deep lists and objects may nest in a config file.
pub const MAX_DEPTH: usize = 128;

/// What ends a `//` comment (JSON5 1.0, 6 and 8). Were it read further than the parser does, what nests behind it would go unseen.
const LINE_ENDS: [char; 4] = ['\n', '\r', '\u{2028}', '\u{2029}'];

/// The text nests deeper than [`MAX_DEPTH`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooDeep(pub Place);

impl Positions {
    /// Notes where the key and the value at `pointer` stand. A later note wins, as a later duplicate key does.
    pub fn note(&mut self, pointer: &str, key: Place, value: Place) {
        self.places
            .insert(pointer.to_string(), Entry { key, value });
    }

    /// The place of the value at `pointer`, or of its key with `at_key`; failing that of what holds it.
    pub fn find(&self, pointer: &str, at_key: bool) -> Option<Place> {
        let mut pointer = pointer;
        loop {
            if let Some(entry) = self.places.get(pointer) {
                return Some(if at_key { entry.key } else { entry.value });
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }

    /// Reads the places out of lenient JSON. It never fails on a syntax error: it keeps what it has understood so far, for
    /// the parser proper will tell.
    pub fn of_json(text: &str) -> Result<Self, TooDeep> {
        let mut scan = Scan {
            rest: text.chars().peekable(),
            place: Place { line: 1, column: 1 },
            found: Positions::default(),
        };
        let mut pointer = String::new();
        scan.blank();
        let start = scan.place;
        scan.value(&mut pointer, start, 0)
            .or_else(|stop| match stop {
                Stop::Lost if brackets_nest_too_deep(text) => Err(TooDeep(scan.place)),
                Stop::Lost => Ok(()),
                Stop::Deep => Err(TooDeep(scan.place)),
            })?;
        Ok(scan.found)
    }
}

/// A bound for a text that was not understood: brackets anywhere in it count, in strings too.
fn brackets_nest_too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|b| {
        match b {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

enum Stop {
    /// What follows is not understood.
    Lost,
    /// It nests too deep.
    Deep,
}

struct Scan<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    place: Place,
    found: Positions,
}

impl Scan<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.place = Place {
                line: self.place.line + 1,
                column: 1,
            };
        } else if c != '\u{feff}' {
            self.place.column += 1;
        }
        Some(c)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.next();
        }
        there
    }

    /// Skips white space and comments.
    fn blank(&mut self) {
        loop {
            match self.peek() {
                Some(c) if c.is_whitespace() || c == '\u{feff}' => drop(self.next()),
                Some('/') => {
                    self.next();
                    match self.next() {
                        Some('/') => {
                            while self.peek().is_some_and(|c| !LINE_ENDS.contains(&c)) {
                                self.next();
                            }
                        }
                        Some('*') => {
                            let mut last = ' ';
                            while let Some(c) = self.next() {
                                if last == '*' && c == '/' {
                                    break;
                                }
                                last = c;
                            }
                        }
                        _ => return,
                    }
                }
                _ => return,
            }
        }
    }

    fn value(&mut self, pointer: &mut String, key: Place, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Deep);
        }
        self.found.note(pointer, key, self.place);
        match self.peek() {
            Some('{') => self.members(pointer, depth, '}'),
            Some('[') => self.members(pointer, depth, ']'),
            Some('"' | '\'') => self.text().map(drop),
            Some(_) => self.word().map(drop),
            None => Err(Stop::Lost),
        }
    }

    /// The members of a list or an object, from its opening bracket to its closing one.
    fn members(&mut self, pointer: &mut String, depth: usize, close: char) -> Result<(), Stop> {
        self.next();
        let length = pointer.len();
        for index in 0.. {
            self.blank();
            if self.eat(close) {
                return Ok(());
            }
            let key = self.place;
            if close == ']' {
                pointer.push_str(&format!("/{index}"));
            } else {
                let name = match self.peek() {
                    Some('"' | '\'') => self.text()?,
                    _ => self.word()?,
                };
                pointer.push_str(&pointer_step(&name));
                self.blank();
                if !self.eat(':') {
                    return Err(Stop::Lost);
                }
                self.blank();
            }
            self.value(pointer, key, depth + 1)?;
            pointer.truncate(length);
            self.blank();
            if !self.eat(',') && self.peek() != Some(close) {
                return Err(Stop::Lost);
            }
        }
        Ok(())
    }

    fn text(&mut self) -> Result<String, Stop> {
        let quote = self.next();
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == quote => return Ok(out),
                '\\' => match self.next() {
                    Some('u') => out.push(self.unicode().unwrap_or('\u{fffd}')),
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some('\n') => {}
                    Some(c) => out.push(c),
                    None => return Err(Stop::Lost),
                },
                c => out.push(c),
            }
        }
        Err(Stop::Lost)
    }

    fn unicode(&mut self) -> Option<char> {
        let digits: String = (0..4).filter_map(|_| self.next()).collect();
        u32::from_str_radix(&digits, 16)
            .ok()
            .and_then(char::from_u32)
    }

    /// A bare key, number or literal.
    fn word(&mut self) -> Result<String, Stop> {
        let mut out = String::new();
        while let Some(c) = self.peek().filter(|c| {
            !c.is_whitespace() && !matches!(c, ',' | ':' | '{' | '}' | '[' | ']' | '"' | '\'' | '/')
        }) {
            out.push(c);
            self.next();
        }
        if out.is_empty() {
            Err(Stop::Lost)
        } else {
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str, pointer: &str, at_key: bool) -> Option<(u32, u32)> {
        Positions::of_json(text)
            .unwrap()
            .find(pointer, at_key)
            .map(|p| (p.line, p.column))
    }

    #[test]
    fn keys_and_values_are_found_in_lenient_json() {
        let text = "// top\n{ apps: [\n  {'name': \"é\", /* x */ kill_timeout : 'soon',},\n  {name:1, name:2}]}";
        for (pointer, at_key, want) in [
            ("", false, Some((2, 1))),
            ("/apps", true, Some((2, 3))),
            ("/apps/0", false, Some((3, 3))),
            ("/apps/0/name", true, Some((3, 4))),
            ("/apps/0/kill_timeout", true, Some((3, 25))),
            ("/apps/0/kill_timeout", false, Some((3, 40))),
            ("/apps/1/name", false, Some((4, 17))),
            ("/apps/1/none", false, Some((4, 3))),
        ] {
            assert_eq!(at(text, pointer, at_key), want, "{pointer}");
        }
    }

    #[test]
    fn a_broken_text_keeps_the_places_before_the_break() {
        assert_eq!(at("{a: 1,\n b: }", "/b", true), Some((2, 2)));
        assert_eq!(at("", "/x", false), Some((1, 1)));
    }

    #[test]
    fn a_text_that_nests_too_deep_is_refused() {
        assert!(Positions::of_json(&"[".repeat(MAX_DEPTH + 2)).is_err());
        assert!(Positions::of_json(&format!("[\u{1}:{}", "[".repeat(MAX_DEPTH + 2))).is_err());
    }

    #[test]
    fn what_nests_behind_a_comment_is_seen_whatever_ends_the_line() {
        for end in LINE_ENDS {
            let text = format!("//{end}{}\n1", "[".repeat(MAX_DEPTH + 2));
            assert!(Positions::of_json(&text).is_err(), "{end:?}");
        }
        assert!(Positions::of_json("// [[\u{85}[[ \n1").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,'\"/*a\\\\\n 0é]{0,60}") {
            let _ = Positions::of_json(&text);
        }
    }
}
