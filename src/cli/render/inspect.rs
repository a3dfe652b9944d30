//! JSON values as Node's `util.inspect` prints them with unlimited depth: `pm2 prettylist`, `pm2 id`, progress lines.
//!
//! The layout rules are Node's (documented as `compact: 3`, `breakLength`, `maxArrayLength` and `maxStringLength` of
//! `util.inspect`); `tests/render.rs` compares the outcome with the real one.

use super::js;
use serde_json::{Map, Value};
use unicode_width::UnicodeWidthChar;

/// The line length that Node tries to keep (`breakLength`).
const BREAK_LENGTH: usize = 80;
/// An object goes on one line only if it nests at most this deep (`compact`).
const COMPACT: usize = 3;
/// Items of an array that are shown (`maxArrayLength`).
const MAX_ITEMS: usize = 100;
/// UTF-16 units of a string that are shown (`maxStringLength`).
const MAX_STRING: usize = 10_000;
/// Arrays longer than this are arranged in columns.
const GROUPED_FROM: usize = 6;
/// Strings up to this long stay on one line however narrow it gets.
const SHORT_STRING: usize = 16;

/// `value` as `util.inspect(value, { depth: null })` prints it, without a line break at its end.
pub fn inspect(value: &Value) -> String {
    Inspector {
        indent: 0,
        deepest: 0,
    }
    .value(value, 0)
}

/// A list of ids as Node prints it: `[ 0, 1 ]`, in columns when there are more than six.
pub fn ids(ids: &[u32]) -> String {
    inspect(&Value::from(ids))
}

struct Inspector {
    /// Columns by which the value at hand is indented.
    indent: usize,
    /// The depth of the object entered last; Node measures by it how deep the last child nests.
    deepest: usize,
}

impl Inspector {
    fn value(&mut self, value: &Value, depth: usize) -> String {
        match value {
            Value::Null => "null".to_owned(),
            Value::Bool(bool) => bool.to_string(),
            Value::Number(n) => match n.as_f64() {
                Some(number) if number == 0.0 && number.is_sign_negative() => "-0".to_owned(),
                Some(number) => js::number(number),
                None => n.to_string(),
            },
            Value::String(text) => self.string(text),
            Value::Array(items) if items.is_empty() => "[]".to_owned(),
            Value::Array(items) => self.array(items, depth),
            Value::Object(map) if map.is_empty() => "{}".to_owned(),
            Value::Object(map) => self.object(map, depth),
        }
    }

    fn string(&self, text: &str) -> String {
        let units = utf16_len(text);
        let (text, trailer) = if units > MAX_STRING {
            let more = units - MAX_STRING;
            (
                utf16_prefix(text, MAX_STRING),
                format!(
                    "... {more} more character{}",
                    if more > 1 { "s" } else { "" }
                ),
            )
        } else {
            (text, String::new())
        };
        let units = units.min(MAX_STRING);
        if units > SHORT_STRING && units + self.indent + 4 > BREAK_LENGTH {
            let lines: Vec<String> = text.split_inclusive('\n').map(js::quote).collect();
            return lines.join(&format!(" +\n{}", " ".repeat(self.indent + 2))) + &trailer;
        }
        js::quote(text) + &trailer
    }

    fn child(&mut self, value: &Value, depth: usize) -> String {
        self.indent += 2;
        let text = self.value(value, depth + 1);
        self.indent -= 2;
        text
    }

    fn array(&mut self, items: &[Value], depth: usize) -> String {
        self.deepest = depth;
        let mut output: Vec<String> = items
            .iter()
            .take(MAX_ITEMS)
            .map(|item| self.child(item, depth))
            .collect();
        let more = items.len().saturating_sub(MAX_ITEMS);
        if more > 0 {
            output.push(format!(
                "... {more} more item{}",
                if more > 1 { "s" } else { "" }
            ));
        }
        let entries = output.len();
        if entries > GROUPED_FROM {
            let numeric = items.iter().take(entries).all(Value::is_number);
            output = self.group(output, numeric, more > 0);
        }
        let grouped = output.len() != entries;
        self.join(&output, grouped, depth, '[', ']')
    }

    fn object(&mut self, map: &Map<String, Value>, depth: usize) -> String {
        self.deepest = depth;
        let output: Vec<String> = in_js_order(map)
            .into_iter()
            .map(|(name, value)| {
                let text = self.child(value, depth);
                format!("{}: {text}", key(name))
            })
            .collect();
        self.join(&output, false, depth, '{', '}')
    }

    /// One line if it is short, flat and was not arranged in columns; else one entry a line.
    fn join(
        &self,
        output: &[String],
        grouped: bool,
        depth: usize,
        open: char,
        close: char,
    ) -> String {
        if !grouped && self.deepest - depth < COMPACT {
            let length: usize = output.iter().map(|entry| utf16_len(entry)).sum();
            let start = output.len() + self.indent + 1 + 10;
            let fits = length + output.len() + start <= BREAK_LENGTH;
            if fits && !output.iter().any(|entry| entry.contains('\n')) {
                return format!("{open} {} {close}", output.join(", "));
            }
        }
        let pad = " ".repeat(self.indent);
        format!(
            "{open}\n{pad}  {}\n{pad}{close}",
            output.join(&format!(",\n{pad}  "))
        )
    }

    /// Arranges the entries of a long array in columns, if they are short enough; numbers are aligned to the right.
    fn group(&self, output: Vec<String>, numeric: bool, has_trailer: bool) -> Vec<String> {
        let count = output.len() - usize::from(has_trailer);
        let lengths: Vec<usize> = output[..count]
            .iter()
            .map(|entry| columns_of(entry))
            .collect();
        let total: usize = lengths.iter().map(|length| length + 2).sum();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let widest = longest + 2;
        let suits = widest * 3 + self.indent < BREAK_LENGTH
            && (total as f64 / widest as f64 > 5.0 || longest <= 6);
        if !suits {
            return output;
        }
        let columns = self.column_count(total, widest, count, output.len());
        if columns <= 1 {
            return output;
        }
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                lengths
                    .iter()
                    .skip(column)
                    .step_by(columns)
                    .copied()
                    .max()
                    .unwrap_or(0)
                    + 2
            })
            .collect();
        let mut lines: Vec<String> = Vec::with_capacity(count / columns + 2);
        for start in (0..count).step_by(columns) {
            let end = (start + columns).min(count);
            let mut line = String::new();
            for at in start..end {
                let is_last = at + 1 == end;
                let pad = widths[at - start] - lengths[at] - 2;
                match (numeric, is_last) {
                    (true, true) => line += &format!("{}{}", " ".repeat(pad), output[at]),
                    (true, false) => line += &format!("{}{}, ", " ".repeat(pad), output[at]),
                    (false, true) => line += &output[at],
                    (false, false) => line += &format!("{}, {}", output[at], " ".repeat(pad)),
                }
            }
            lines.push(line);
        }
        lines.extend(output.into_iter().skip(count));
        lines
    }

    /// How many columns make the block about as wide as it is high, within Node's limits.
    fn column_count(&self, total: usize, widest: usize, count: usize, entries: usize) -> usize {
        let bias = (widest as f64 - total as f64 / entries as f64)
            .max(0.0)
            .sqrt();
        let biased = (widest as f64 - 3.0 - bias).max(1.0);
        let square = ((2.5 * biased * count as f64).sqrt() / biased).round() as usize; // Small and not negative.
        square
            .min((BREAK_LENGTH - self.indent) / widest)
            .min(COMPACT * 4)
            .min(15)
    }
}

/// A property name: bare if it is an identifier, else quoted.
fn key(name: &str) -> String {
    let mut chars = name.chars();
    let starts_well = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if name == "__proto__" {
        "['__proto__']".to_owned()
    } else if starts_well && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        name.to_owned()
    } else {
        js::quote(name)
    }
}

/// The entries in the order in which a JavaScript object lists them: array indexes first, ascending.
fn in_js_order(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by_key(|(name, _)| array_index(name).map_or(u64::MAX, u64::from));
    entries
}

fn array_index(name: &str) -> Option<u32> {
    let index: u32 = name.parse().ok()?; // Not a number: not an index.
    (index != u32::MAX && index.to_string() == *name).then_some(index)
}

fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The first `units` UTF-16 units of `text`, without a character that would be cut in two.
fn utf16_prefix(text: &str, units: usize) -> &str {
    let mut seen = 0;
    let end = text.char_indices().find(|(_, c)| {
        seen += c.len_utf16();
        seen > units
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

/// The terminal columns of `text`.
fn columns_of(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_wrap_after_six_and_align_to_the_right() {
        assert_eq!(ids(&[]), "[]");
        assert_eq!(ids(&[0, 4, 7]), "[ 0, 4, 7 ]");
        assert_eq!(
            ids(&[0, 7, 14, 21, 28, 35, 42]),
            "[\n   0,  7, 14, 21,\n  28, 35, 42\n]"
        );
    }

    #[test]
    fn keys_are_quoted_only_when_they_must_be() {
        for (name, want) in [
            ("a_1", "a_1"),
            ("1a", "'1a'"),
            ("", "''"),
            ("a-b", "'a-b'"),
            ("it's", "\"it's\""),
        ] {
            assert_eq!(key(name), want);
        }
    }
}
