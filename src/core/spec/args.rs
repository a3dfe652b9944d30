//! Splitting a line of arguments as PM2 does: at white space, outside quotes (pm2-behaviour 5.5).

/// Splits `line` into arguments. A word quoted as a whole loses its quotes (`'b c'` is `b c`); quotes that open
/// directly after a `key=` stay in the word and keep its spaces (`k="a b"` is one word, quotes and all). An unbalanced
/// quote is an ordinary character. There are no escapes. `""` gives no words.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = next_word(rest);
        words.push(word.to_string());
        rest = after.trim_start();
    }
    words
}

/// The first word of `text`, which does not begin with white space, and what follows it.
fn next_word(text: &str) -> (&str, &str) {
    if let Some(end) = quoted_end(text)
        && ends_word(&text[end..])
    {
        return (&text[1..end - 1], &text[end..]);
    }
    let bare = text.find(char::is_whitespace).unwrap_or(text.len());
    if let Some(equals) = text[..bare].find('=')
        && let Some(end) = quoted_end(&text[equals + 1..]).map(|end| equals + 1 + end)
        && ends_word(&text[end..])
    {
        return text.split_at(end);
    }
    text.split_at(bare)
}

/// Where the quoted part that begins `text` ends, past its closing quote; `None` if it does not begin with a quote or
/// is never closed.
fn quoted_end(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text[1..].find(quote).map(|at| at + 2)
}

fn ends_word(rest: &str) -> bool {
    rest.chars().next().is_none_or(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_split_as_pm2_splits_them() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("  ", &[]),
            ("a  b\tc", &["a", "b", "c"]),
            (
                r#"a 'b c' --x=1 --y="q w" "z z" k='v v'"#,
                &["a", "b c", "--x=1", r#"--y="q w""#, "z z", "k='v v'"],
            ),
            (
                r#"'un bal  x"y z"w a\ b"#,
                &["'un", "bal", r#"x"y"#, r#"z"w"#, r"a\", "b"],
            ),
            (r#"--a=1 "b c""#, &["--a=1", "b c"]),
            ("'' x", &["", "x"]),
        ];
        for (line, want) in cases {
            assert_eq!(split(line), want, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_plain_words_survive(line in "\\PC{0,40}", words in prop::collection::vec("[a-z-]{1,6}", 0..6)) {
            split(&line);
            prop_assert_eq!(split(&words.join(" ")), words);
        }
    }
}
