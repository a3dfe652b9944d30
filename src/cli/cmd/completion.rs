//! `completion`: what can follow the words typed so far, and the lines that make a shell ask (pm2 7.0.4, spec 6.17).

use super::table;
use crate::cli::options::{GLOBAL, Opt};
use crate::cli::session::{Session, Told, print};
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// PM2's own marks, so that either program takes away what the other has added.
const BEGIN: &str = "###-begin-pm2-completion-###";
const END: &str = "###-end-pm2-completion-###";

/// For bash and zsh. What only zsh can read stands in quotes.
const SCRIPT: &str = r#"if [ -n "$ZSH_VERSION" ]; then
  eval '_pm2_complete() {
    local -a found
    found=("${(@f)$(COMP_CWORD=$((CURRENT - 1)) COMP_LINE="$BUFFER" COMP_POINT=$CURSOR pm2 completion -- "${words[@]}" 2>/dev/null)}")
    compadd -a found
  }
  whence compdef >/dev/null || { autoload -Uz compinit && compinit; }
  compdef _pm2_complete pm2'
elif [ -n "$BASH_VERSION" ]; then
  _pm2_complete() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_CWORD="$COMP_CWORD" COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" pm2 completion -- "${COMP_WORDS[@]}" 2>/dev/null))
  }
  complete -o default -F _pm2_complete pm2
fi
"#;

/// For fish.
const FISH: &str = r#"function __pm2_complete
    set -l words (commandline -opc) (commandline -ct)
    COMP_CWORD=(math (count $words) - 1) COMP_LINE="$words" COMP_POINT=0 pm2 completion -- $words 2>/dev/null
end
complete -c pm2 -f -a '(__pm2_complete)'
"#;

/// Commands whose next words are apps.
const OF_APPS: [&str; 18] = [
    "stop", "restart", "scale", "reload", "delete", "del", "reset", "pull", "forward", "backward",
    "logs", "describe", "desc", "show", "info", "trigger", "id", "pid",
];

/// `pm2 completion [install|uninstall|fish]`; with COMP_CWORD set, the candidates for the words behind `--`.
pub fn run(session: &mut Session, what: Option<&str>, rest: &[String]) -> anyhow::Result<()> {
    if let Ok(at) = std::env::var("COMP_CWORD") {
        let at = at.parse().unwrap_or(rest.len().saturating_sub(1));
        let found = candidates(session, rest, at);
        print(
            &found
                .iter()
                .map(|word| format!("{word}\n"))
                .collect::<String>(),
        );
        return Ok(());
    }
    match what {
        None => print(&block()),
        Some("fish") => print(FISH),
        Some("install") => install(session)?,
        Some("uninstall") => uninstall(session)?,
        Some(other) => {
            session.output.error(&format!(
                "`{other}` is nothing that completion does; use install, uninstall or fish"
            ));
            bail!(Told);
        }
    }
    Ok(())
}

fn block() -> String {
    format!("{BEGIN}\n{SCRIPT}{END}\n")
}

/// What begins like the word at `at`. No daemon is started for it.
fn candidates(session: &mut Session, words: &[String], at: usize) -> BTreeSet<String> {
    let word = words.get(at).map_or("", String::as_str);
    let command = words.get(1).filter(|_| at > 1).map(String::as_str);
    let mut all: Vec<String> = Vec::new();
    if word.starts_with('-') {
        let own = command
            .and_then(table::find)
            .map_or(&[][..], |entry| entry.options);
        all.extend(
            GLOBAL
                .iter()
                .chain(own)
                .map(|option: &Opt| format!("--{}", option.long)),
        );
    } else if let Some(command) = command {
        if OF_APPS.contains(&command) {
            all.push("all".to_owned());
            if let Ok(Some(_)) = session.running_daemon()
                && let Ok(rows) = session.rows()
            {
                all.extend(rows.into_iter().map(|row| row.name));
            }
        }
    } else {
        let names = table::commands().flat_map(|entry| entry.aliases.iter().chain([&entry.name]));
        all.extend(names.map(|name| (*name).to_owned()));
    }
    all.into_iter()
        .filter(|candidate| candidate.starts_with(word))
        .collect()
}

/// The file of the person's shell, and whether it is fish, which has a file for each program.
fn shell_file(session: &Session) -> anyhow::Result<(PathBuf, bool)> {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .context("HOME is not set")?;
    let shell = std::env::var("SHELL").unwrap_or_default();
    match shell.rsplit('/').next().unwrap_or_default() {
        "bash" => Ok((home.join(".bashrc"), false)),
        "zsh" => Ok((home.join(".zshrc"), false)),
        "fish" => Ok((home.join(".config/fish/completions/pm2.fish"), true)),
        other => {
            session.output.error(&format!(
                "`{other}` of SHELL is neither bash, zsh nor fish; add what `pm2 completion` prints to your shell's file"
            ));
            bail!(Told)
        }
    }
}

fn install(session: &Session) -> anyhow::Result<()> {
    let (path, fish) = shell_file(session)?;
    if fish {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        write(&path, FISH)?;
    } else {
        let before = fs::read_to_string(&path).unwrap_or_default();
        write(&path, &(without(&before) + &block()))?;
    }
    session.output.done(&format!(
        "pm2 tab-completion installed in {}; open a new shell, or source it",
        path.display()
    ));
    Ok(())
}

fn uninstall(session: &Session) -> anyhow::Result<()> {
    let (path, fish) = shell_file(session)?;
    if fish {
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    } else if let Ok(before) = fs::read_to_string(&path) {
        write(&path, &without(&before))?;
    }
    session.output.done(&format!(
        "pm2 tab-completion uninstalled from {}",
        path.display()
    ));
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The text without what either program has added. A block without an end is left, since nobody knows where it ends.
fn without(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(begin) = text.find(BEGIN)
        && let Some(length) = text[begin..].find(END)
    {
        let end = begin + length + END.len();
        let end = end + usize::from(text[end..].starts_with('\n'));
        text.replace_range(begin..end, "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_taken_out_and_nothing_else() {
        let text = format!("one\n{}two\n{BEGIN} cut", block());
        assert_eq!(without(&text), format!("one\ntwo\n{BEGIN} cut"));
        assert_eq!(without("plain\n"), "plain\n");
    }
}
