//! Terminal colours: wraps text in SGR codes when colour is on.

/// A colour or a weight, by its ANSI SGR code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bright or heavy.
    Bold,
    /// Faint.
    Dim,
    /// Slanted.
    Italic,
    /// Foreground and background swapped.
    Inverse,
    /// Something is wrong.
    Red,
    /// All is well.
    Green,
    /// Something deserves a look.
    Yellow,
    /// On its way.
    Blue,
    /// Headings and ids.
    Cyan,
    /// Hints.
    White,
    /// Borders and notes.
    Gray,
    /// Marked text (a grey background).
    OnGray,
}

impl Style {
    /// The SGR codes that switch it on and off.
    fn codes(self) -> (u8, u8) {
        match self {
            Style::Bold => (1, 22),
            Style::Dim => (2, 22),
            Style::Italic => (3, 23),
            Style::Inverse => (7, 27),
            Style::Red => (31, 39),
            Style::Green => (32, 39),
            Style::Yellow => (33, 39),
            Style::Blue => (34, 39),
            Style::Cyan => (36, 39),
            Style::White => (37, 39),
            Style::Gray => (90, 39),
            Style::OnGray => (100, 49),
        }
    }
}

/// `text` in `styles` when `colour` is on, else `text` as it is. Empty text stays empty, and no style reaches over a
/// line break, so that a pager or `grep` cuts clean lines.
pub fn paint(text: &str, styles: &[Style], colour: bool) -> String {
    if !colour || text.is_empty() || styles.is_empty() {
        return text.to_owned();
    }
    let open: String = styles
        .iter()
        .map(|style| format!("\x1b[{}m", style.codes().0))
        .collect();
    let close: String = styles
        .iter()
        .rev()
        .map(|style| format!("\x1b[{}m", style.codes().1))
        .collect();
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| format!("{open}{line}{close}"))
        .collect();
    lines.join("\n")
}

/// `text` without control characters, so that a name or a log line cannot move the cursor or change colours.
/// A tab becomes a space; line breaks go too unless `keep_lines`.
pub fn plain(text: &str, keep_lines: bool) -> String {
    if text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return text.to_owned();
    }
    text.chars()
        .filter_map(|c| match c {
            '\n' if keep_lines => Some(c),
            '\t' => Some(' '),
            c if c.is_control() => None,
            c => Some(c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_nested_closed_in_reverse_and_never_spans_lines() {
        assert_eq!(
            paint("on", &[Style::Green, Style::Bold], true),
            "\x1b[32m\x1b[1mon\x1b[22m\x1b[39m"
        );
        assert_eq!(
            paint("a\nb", &[Style::Red], true),
            "\x1b[31ma\x1b[39m\n\x1b[31mb\x1b[39m"
        );
        assert_eq!(paint("", &[Style::Red], true), "");
        assert_eq!(paint("on", &[Style::Red], false), "on");
    }

    #[test]
    fn control_characters_are_taken_out() {
        assert_eq!(plain("a\x1b[31mb\tc\nd\u{7f}", false), "a[31mb cd");
        assert_eq!(plain("a\nb\r", true), "a\nb");
    }
}
