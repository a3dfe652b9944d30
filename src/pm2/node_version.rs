//! Which Node runs an app: `node_version` of its record. PM2 hears it from its wrapper; here the interpreter is asked, once.

use crate::daemon::command::Command;
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers by program. A lock, not a message: looked up by blocking threads, for a map access each.
static KNOWN: Mutex<Option<HashMap<PathBuf, String>>> = Mutex::new(None);

/// Asks in the background, and tells the loop.
pub(super) fn find_out(views: &[Arc<InstanceView>], handle: &Handle) {
    for view in views {
        let interpreter = view.spec.interpreter.as_deref().unwrap_or_default();
        if Path::new(interpreter)
            .file_name()
            .is_none_or(|name| name != "node")
        {
            continue;
        }
        let (id, handle, asker, view) = (view.id, handle.clone(), handle.clone(), Arc::clone(view));
        tokio::spawn(async move {
            let asked = tokio::task::spawn_blocking(move || {
                program(&view).and_then(|program| version(&program, &asker))
            });
            if let Ok(Some(version)) = asked.await {
                // It may have been deleted meanwhile.
                let _ = handle.call(Command::NodeVersion { id, version }).await;
            }
        });
    }
}

/// The program, looked up in the app's own PATH.
fn program(view: &InstanceView) -> Option<PathBuf> {
    let interpreter = view.spec.interpreter.as_deref()?;
    if interpreter.contains('/') {
        return Some(PathBuf::from(interpreter));
    }
    let env = view.conf.env_map();
    let path = env.get("PATH")?.as_str()?;
    path.split(':')
        .map(|folder| Path::new(folder).join(interpreter))
        .find(|candidate| candidate.is_file())
}

fn version(program: &Path, handle: &Handle) -> Option<String> {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = known().as_ref().and_then(|known| known.get(program)) {
        return Some(version.clone());
    }
    let mut question = std::process::Command::new(program);
    question
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let output = handle.run_helper(&mut question, LIMIT).ok()??;
    let version = String::from_utf8_lossy(&output.stdout)
        .trim()
        .trim_start_matches('v')
        .to_owned();
    let plausible = !version.is_empty() && version.len() < 32;
    if plausible {
        known()
            .get_or_insert_default()
            .insert(program.to_owned(), version.clone());
    }
    plausible.then_some(version)
}
