//! The flags that a ComfyUI knows, read off what its own `main.py --help` prints (Python's argparse).

use std::collections::BTreeSet;

/// Every long flag of the usage, and of the lines that describe one; a flag that a description only mentions is none.
pub fn flags(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut usage = false;
    for line in text.lines() {
        let body = line.trim();
        if line.starts_with("usage:") {
            usage = true;
        } else if body.is_empty() {
            usage = false;
        }
        let told = match (usage, body.starts_with('-')) {
            (true, _) => body,
            // Two blanks stand between the flags and their description.
            (false, true) => body.split("  ").next().unwrap_or(body),
            (false, false) => continue,
        };
        found.extend(
            told.split([' ', ',', '[', ']', '(', ')', '|', '='])
                .filter(|word| is_flag(word))
                .map(str::to_owned),
        );
    }
    found
}

fn is_flag(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usage_and_the_list_are_read_and_descriptions_are_not() {
        let text = "usage: main.py [-h] [--listen [IP]] [--port PORT]\n               [--cuda-malloc | --disable-cuda-malloc]\n\noptions:\n  -h, --help            show this help message and exit\n  --listen [IP]         Specify the IP, see --not-a-flag\n  --fast [FAST ...]     Enable optimizations:\n                        --neither-is-this\n  --a-very-long-flag-of-its-own VALUE\n                        Its text.\n";
        let want = [
            "--a-very-long-flag-of-its-own",
            "--cuda-malloc",
            "--disable-cuda-malloc",
            "--fast",
            "--help",
            "--listen",
            "--port",
        ];
        let found = flags(text);
        // A continued description that begins with a flag is taken for one: too many are known rather than too few.
        assert!(want.iter().all(|flag| found.contains(*flag)), "{found:?}");
        assert!(!found.contains("--not-a-flag"));
        assert!(flags("").is_empty() && flags("Traceback --x").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(.|\n){0,300}") {
            for flag in flags(&text) {
                prop_assert!(flag.starts_with("--"));
            }
        }
    }
}
