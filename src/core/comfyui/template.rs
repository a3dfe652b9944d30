//! `${VAR}` and `${VAR:-default}` in the values of a node's `env`: nothing else is expanded, and nothing is run.

/// Expands `text`. `look` gives a variable; the names of those that are unset and have no default are added to `unset`, and
/// stand for nothing. What is no template stays as it is. A default may not hold a template itself.
pub fn expand(
    text: &str,
    look: &dyn Fn(&str) -> Option<String>,
    unset: &mut Vec<String>,
) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let found = inner.find('}').and_then(|end| {
            let (name, default) = match inner[..end].split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (&inner[..end], None),
            };
            is_name(name).then_some((name, default, end))
        });
        let Some((name, default, end)) = found else {
            out.push_str("${");
            rest = inner;
            continue;
        };
        // As a shell does: with `:-` an empty variable counts as unset.
        let value = look(name).filter(|value| default.is_none() || !value.is_empty());
        match (value, default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                if !unset.iter().any(|known| known == name) {
                    unset.push(name.to_owned());
                }
            }
        }
        rest = &inner[end + 1..];
    }
    out + rest
}

/// A variable's name as POSIX has it.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> (String, Vec<String>) {
        let look = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${A} $(id)".to_owned()),
            _ => None,
        };
        let mut unset = Vec::new();
        (expand(text, &look, &mut unset), unset)
    }

    #[test]
    fn templates_are_filled_and_other_text_stays() {
        for (text, want) in [
            ("plain", "plain"),
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-two}", "two"),
            ("${A:-two}", "1"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("${TRICK}", "${A} $(id)"),
            ("$A $(id) `id` ${", "$A $(id) `id` ${"),
            ("${A B} ${1} ${}", "${A B} ${1} ${}"),
        ] {
            assert_eq!(of(text), (want.to_owned(), vec![]), "{text}");
        }
        let (text, unset) = of("${B}-${C}-${B}");
        assert_eq!((text.as_str(), unset), ("--", vec!["B".into(), "C".into()]));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[${}:\\-A-C é]{0,40}") {
            of(&text);
        }
    }
}
