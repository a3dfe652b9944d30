//! A build that single instances try while all others still start the old one; and how a switch is taken back.

use super::layout::{Build, Layout};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

impl Layout {
    /// The folder of links, one for each app that tries a build: the launcher looks here first.
    fn trials_dir(&self) -> PathBuf {
        self.builds_dir().join("trial")
    }

    /// From its next start on this app runs `build`, whichever is the current one.
    ///
    /// # Errors
    /// A name that is no file's, or a link that cannot be made.
    pub fn try_on(&self, build: &Build, app: &str) -> io::Result<()> {
        if app.is_empty() || app.starts_with('.') || app.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an app called {app:?} cannot try a build"),
            ));
        }
        // A launcher of before knows nothing of trials.
        self.entrances()?;
        super::layout::place_link(
            &Path::new("..").join(&build.id),
            &self.trials_dir().join(app),
        )
    }

    /// Every start is of the current build again.
    ///
    /// # Errors
    /// A link cannot be removed.
    pub fn end_trials(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.trials_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Builds that somebody tries.
    pub(super) fn tried(&self) -> Vec<Build> {
        let entries = fs::read_dir(self.trials_dir()).into_iter().flatten();
        let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
        entries
            .flatten()
            .filter_map(target)
            .filter_map(|to| Some(self.build(to.file_name()?.to_str()?)))
            .collect()
    }

    /// Takes a switch back: `current` runs again, and `previous` is what was the last good one before it.
    ///
    /// # Errors
    /// A link cannot be made.
    pub fn switch_back(&self, current: &Build, previous: Option<&Build>) -> io::Result<()> {
        self.switch(current)?;
        match previous {
            Some(previous) => self.link("previous", &previous.id),
            None => match fs::remove_file(self.builds_dir().join("previous")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfyui::workspace::Workspace;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn build(layout: &Layout) -> Build {
        let build = layout.next();
        fs::create_dir_all(build.tree()).unwrap();
        fs::create_dir_all(build.venv().join("bin")).unwrap();
        fs::write(build.python(), "#!/bin/sh\npwd -P\necho \"$0 $1\"\n").unwrap();
        fs::set_permissions(build.python(), fs::Permissions::from_mode(0o755)).unwrap();
        build
    }

    #[test]
    fn one_app_tries_a_build_and_all_others_start_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let layout = Layout::new(&Workspace::resolve(Some(&root), &|_| None).unwrap());
        let (one, two) = (build(&layout), build(&layout));
        layout.switch(&one).unwrap();
        layout.try_on(&two, "comfyui-gpu0").unwrap();
        let run = |name: &str| {
            let mut command = Command::new(root.join("venv/bin/python"));
            command.env("name", name).current_dir(root.join("ComfyUI"));
            let done = command.arg("main.py").output().unwrap();
            String::from_utf8(done.stdout).unwrap()
        };
        let of = |build: &Build| {
            format!(
                "{}\n{} main.py\n",
                build.tree().display(),
                build.python().display()
            )
        };
        assert_eq!(run("comfyui-gpu0"), of(&two));
        for other in ["comfyui-gpu1", "", "../trial/comfyui-gpu0", "."] {
            assert_eq!(run(other), of(&one), "{other}");
        }
        assert_eq!(layout.tried(), std::slice::from_ref(&two));
        layout.end_trials().unwrap();
        layout.end_trials().unwrap();
        assert_eq!(run("comfyui-gpu0"), of(&one));
        for wrong in ["", ".", "..", "a/b"] {
            assert!(layout.try_on(&two, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_switch_that_is_taken_back_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&Workspace::resolve(Some(dir.path()), &|_| None).unwrap());
        let (zero, one, two) = (build(&layout), build(&layout), build(&layout));
        layout.switch(&one).unwrap();
        layout.switch(&two).unwrap();
        layout.switch_back(&one, None).unwrap();
        assert_eq!(
            (layout.current(), layout.previous()),
            (Some(one.clone()), None)
        );
        layout.switch(&two).unwrap();
        layout.switch_back(&one, Some(&zero)).unwrap();
        assert_eq!(
            (layout.current(), layout.previous()),
            (Some(one), Some(zero))
        );
    }
}
