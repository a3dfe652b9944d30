//! The prefixes of PM2's messages: `[PM2] `, `[PM2][ERROR] ` and their kin.

use super::style::{Style, paint};

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something was done.
    Done,
    /// Something is worth knowing.
    Info,
    /// Something looks wrong but was not refused.
    Warn,
    /// Something failed.
    Error,
    /// Something was done to a module.
    Module,
    /// Something about a module failed.
    ModuleError,
}

impl Kind {
    /// The prefix, with its trailing space, when colour is on or off.
    pub fn prefix(self, colour: bool) -> String {
        let (text, styles): (_, &[Style]) = match self {
            Kind::Done => ("[PM2] ", &[Style::Green]),
            Kind::Info => ("[PM2][INFO] ", &[Style::Green]),
            Kind::Warn => ("[PM2][WARN] ", &[Style::Yellow]),
            Kind::Error => ("[PM2][ERROR] ", &[Style::Red]),
            Kind::Module => ("[PM2][Module] ", &[Style::Bold, Style::Green]),
            Kind::ModuleError => ("[PM2][Module][ERROR] ", &[Style::Red]),
        };
        paint(text, styles, colour)
    }

    /// One message, without a line break at its end.
    pub fn line(self, text: &str, colour: bool) -> String {
        self.prefix(colour) + text
    }
}

/// `[PM2] text`.
pub fn done(text: &str, colour: bool) -> String {
    Kind::Done.line(text, colour)
}

/// `[PM2][WARN] text`.
pub fn warn(text: &str, colour: bool) -> String {
    Kind::Warn.line(text, colour)
}

/// `[PM2][ERROR] text`; it belongs on standard error.
pub fn error(text: &str, colour: bool) -> String {
    Kind::Error.line(text, colour)
}

/// `[PM2] [name](id) ✓`: one instance of an action is done.
pub fn ticked(name: &str, id: u32, colour: bool) -> String {
    done(&format!("[{name}]({id}) ✓"), colour)
}

/// What a stop says of an app that its cron pattern will start again.
pub fn cron_still_up(name: &str, pattern: &str, colour: bool) -> String {
    let name = super::style::paint(name, &[super::style::Style::Bold], colour);
    format!("App {name} stopped but CRON RESTART is still UP {pattern}")
}

/// `[PM2] Applying action M on app [name](ids: [ 0, 1 ])`: an action begins. The ids are printed as Node would,
/// so a long list takes several lines.
pub fn applying(method: &str, target: &str, ids: &[u32], colour: bool) -> String {
    done(
        &format!(
            "Applying action {method} on app [{target}](ids: {})",
            super::inspect::ids(ids)
        ),
        colour,
    )
}

/// The same for one that was named by its id, which PM2 prints as the text it was typed as.
pub fn applying_by_id(method: &str, id: &str, colour: bool) -> String {
    let ids = super::inspect::inspect(&serde_json::json!([id]));
    done(
        &format!("Applying action {method} on app [{id}](ids: {ids})"),
        colour,
    )
}

/// `line` cut to a terminal of `width` columns, the last of them an ellipsis; `None` (no terminal) leaves it whole.
/// Colour codes take no room, and what they switched on is switched off. PM2 does this to progress lines on
/// standard output, not to errors.
pub fn crop(line: &str, width: Option<u16>) -> String {
    let Some(width) = width.map(usize::from) else {
        return line.to_owned();
    };
    let visible = visible_chars(line).count();
    if visible <= width {
        return line.to_owned();
    }
    let end = visible_chars(line)
        .nth(width.saturating_sub(1))
        .map_or(line.len(), |(at, _)| at);
    let reset = if line[..end].contains('\x1b') {
        "\x1b[0m"
    } else {
        ""
    };
    format!("{}…{reset}", &line[..end])
}

/// The characters of `line` with their byte offsets, without colour codes.
fn visible_chars(line: &str) -> impl Iterator<Item = (usize, char)> {
    let mut in_code = false;
    line.char_indices().filter(move |(_, c)| {
        let was_in_code = in_code;
        in_code = *c == '\x1b' || (in_code && *c != 'm');
        !was_in_code && !in_code
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_pm2s() {
        assert_eq!(done("Done.", false), "[PM2] Done.");
        assert_eq!(done("Done.", true), "\x1b[32m[PM2] \x1b[39mDone.");
        assert_eq!(error("no", true), "\x1b[31m[PM2][ERROR] \x1b[39mno");
        assert_eq!(warn("hm", true), "\x1b[33m[PM2][WARN] \x1b[39mhm");
        assert_eq!(
            Kind::ModuleError.line("Unknown module", false),
            "[PM2][Module][ERROR] Unknown module"
        );
    }

    #[test]
    fn progress_lines_print_ids_as_node_does() {
        assert_eq!(ticked("web", 3, false), "[PM2] [web](3) ✓");
        let line = applying("restartProcessId", "a", &[0, 7], false);
        assert_eq!(
            line,
            "[PM2] Applying action restartProcessId on app [a](ids: [ 0, 7 ])"
        );
    }

    #[test]
    fn a_long_line_is_cropped_with_colours_closed() {
        let line = applying("stopProcessId", "all", &[0, 1], true);
        assert_eq!(
            crop(&line, Some(40)),
            "\x1b[32m[PM2] \x1b[39mApplying action stopProcessId on …\x1b[0m"
        );
        assert_eq!(crop(&line, None), line);
        assert_eq!(crop("short", Some(5)), "short");
        assert_eq!(crop("short", Some(4)), "sho…");
        assert_eq!(crop("short", Some(0)), "…");
    }
}
