//! JavaScript's ways of writing numbers and strings, which PM2's output inherits.

use serde_json::Value;

/// A number as JavaScript's `String(n)` writes it: `0.95`, `100`, `1e+21`, `NaN`.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let shortest = format!("{:e}", value.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = mantissa.replace('.', "");
    // The position of the decimal point counted from the first digit, as ECMA-262 (Number::toString) has it.
    let point = exponent.parse::<i32>().unwrap_or(0) + 1;
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let body = if count <= point && point <= 21 {
        format!("{digits}{}", zeros(point - count))
    } else if 0 < point && point <= 21 {
        let (whole, part) = digits.split_at(usize::try_from(point).unwrap_or(0));
        format!("{whole}.{part}")
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{first}{dot}{rest}e{:+}", point - 1)
    };
    format!("{sign}{body}")
}

/// A JSON value as JavaScript's `String(v)` writes it; `null` is empty and arrays are joined by commas, as in a
/// template of PM2. `None` for an object.
pub fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => String::new(),
        Value::Bool(bool) => bool.to_string(),
        Value::Number(n) => number(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| text(item).unwrap_or_else(|| "[object Object]".to_owned()))
                .collect();
            items.join(",")
        }
        Value::Object(_) => return None,
    })
}

/// A string in the quotes that Node's inspector would choose: single, else double, else backticks, else single with
/// escapes; control characters, backslashes and the chosen single quote are escaped.
pub fn quote(text: &str) -> String {
    let quote = if !text.contains('\'') {
        '\''
    } else if !text.contains('"') {
        '"'
    } else if !text.contains('`') && !text.contains("${") {
        '`'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\'' if quote == '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\x0c' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\x1f' | '\x7f'..='\u{9f}' => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        for (value, want) in [
            (0.0, "0"),
            (-0.0, "0"),
            (100.0, "100"),
            (0.95, "0.95"),
            (33.333, "33.333"),
            (-1.5, "-1.5"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (1.5e-7, "1.5e-7"),
            (0.000001, "0.000001"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (9007199254740993.0, "9007199254740992"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), want);
        }
    }

    #[test]
    fn quotes_are_chosen_to_need_the_fewest_escapes() {
        for (text, want) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("it's \"q\"", "`it's \"q\"`"),
            ("' \" `", "'\\' \" `'"),
            ("' \" ${x}", "'\\' \" ${x}'"),
            ("a\nb\\\u{1b}\u{9f}", "'a\\nb\\\\\\x1B\\x9F'"),
        ] {
            assert_eq!(quote(text), want);
        }
    }
}
