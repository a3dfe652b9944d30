//! The flags that a tree knows, asked of the tree itself: flags come and go between versions, and one that it does not know ends
//! the start with a usage error (comfyui-facts 4.11).

use super::install::{Layout, Record};
use super::tree;
use super::workspace::Workspace;
use crate::core::comfyui::help;
use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long `--help` may take. It takes 50 ms.
const LIMIT: Duration = Duration::from_secs(30);
/// The most that is read of it, in bytes. ComfyUI's has 20 KB.
const MOST: u64 = 1 << 20;

/// The flags that this workspace's `main.py` knows: noted when its build was proven, else told by its own `--help`; where that
/// cannot be run, those that stand in its source. `None`: it is not installed.
pub fn known(workspace: &Workspace) -> Option<BTreeSet<String>> {
    let layout = Layout::new(workspace);
    let build = layout.current().filter(|_| layout.is_ours());
    let noted = build
        .as_ref()
        .and_then(Record::of)
        .map(|record| record.flags);
    let noted = noted.filter(|flags| !flags.is_empty());
    noted
        .or_else(|| asked(workspace))
        .or_else(|| tree::flags(workspace))
}

/// What `main.py --help` says.
fn asked(workspace: &Workspace) -> Option<BTreeSet<String>> {
    let tree = workspace.tree();
    if !tree.join("main.py").is_file() {
        return None;
    }
    let mut child = Command::new(workspace.python())
        .args(["main.py", "--help"])
        .current_dir(&tree)
        // A terminal's width wraps the text; a wide one keeps each flag on one line.
        .env("COLUMNS", "400")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut pipe = child.stdout.take()?;
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = pipe.by_ref().take(MOST).read_to_end(&mut text);
        // Nobody waits any more once the time is over.
        let _ = sender.send(read.map(|_| text));
    });
    let text = receiver.recv_timeout(LIMIT).ok().and_then(Result::ok);
    // It may have ended by itself; one that has not is not waited for.
    let _ = child.kill();
    let _ = child.wait();
    let flags = help::flags(&String::from_utf8_lossy(&text?));
    (!flags.is_empty()).then_some(flags)
}
