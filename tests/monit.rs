//! `monit` of the real program in a real terminal, that of tmux.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use support::{Home, eventually};

/// A session of tmux, with a server of its own.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(home: &Home, width: u16, height: u16, program: &str) -> Self {
        let socket = home.apps().join("tmux").to_str().unwrap().to_owned();
        let terminal = Self { socket };
        let (width, height) = (width.to_string(), height.to_string());
        let home_variable = format!("PM2_HOME={}", home.root().display());
        terminal.tmux(&[
            "-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, "-e", &home_variable, "-e", "FORNAX_HTTP=off",
            &format!("{program} monit; echo left with $?; stty -a | tr ' ' '\\n' | grep -x icanon; sleep 600"),
        ]);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let ran = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(words)
            .output()
            .unwrap();
        assert!(ran.status.success(), "tmux {words:?}: {ran:?}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn until(&self, words: &str) -> String {
        eventually(&format!("the screen shows `{words}`"), || {
            Some(self.screen()).filter(|screen| screen.contains(words))
        })
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its session ends with it.
        let _ = Command::new("tmux")
            .args(["-S", &self.socket, "kill-server"])
            .output();
    }
}

#[test]
fn it_shows_follows_keys_resizes_and_gives_the_terminal_back() {
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("NOT TESTED: tmux is not installed");
        return;
    }
    let home = Home::new();
    for (name, words) in [("first", "one"), ("second", "two")] {
        let app = home.app(
            &format!("{name}.sh"),
            &format!("#!/bin/bash\nwhile true; do echo says {words}; sleep 0.3; done\n"),
        );
        home.run(&["start", &app]).ok();
    }
    let program = home.program().to_str().unwrap().to_owned();
    let terminal = Terminal::open(&home, 120, 40, &program);
    let screen = terminal.until("says one");
    for words in [
        "Process List",
        "[ 1] second",
        "Logs of first (0)",
        "Metadata",
        "online",
    ] {
        assert!(screen.contains(words), "{words}:\n{screen}");
    }
    terminal.key("Down");
    assert!(!terminal.until("Logs of second (1)").contains("says one"));
    terminal.until("says two");
    terminal.tmux(&["resize-window", "-x", "40", "-y", "12"]);
    eventually("it fits into a small window", || {
        let screen = terminal.screen();
        (screen.contains("Process List")
            && screen.contains("says two")
            && !screen.contains("Metadata"))
        .then_some(())
    });
    terminal.key("BTab");
    terminal.until("Metadata");
    home.run(&["kill"]).ok();
    terminal.until("no daemon listens");
    terminal.key("q");
    // Canonical mode is back, and so is the screen before.
    let screen = terminal.until("icanon");
    assert!(
        screen.contains("left with 0") && !screen.contains("Process List"),
        "{screen}"
    );
}

#[test]
fn a_signal_gives_the_terminal_back_and_a_pipe_is_refused() {
    let home = Home::new();
    home.run(&["monit"]).fails("wants a terminal");
    home.run(&["dash"]).fails("wants a terminal");
    if Command::new("tmux").arg("-V").output().is_err() {
        println!("NOT TESTED: tmux is not installed");
        return;
    }
    home.run(&["ping"]).ok();
    let script = home.app(
        "monit.sh",
        &format!(
            "#!/bin/sh\necho $$ > \"$(dirname \"$0\")/pid\"\nexec {} \"$@\"\n",
            home.program().display()
        ),
    );
    let terminal = Terminal::open(&home, 60, 20, &script);
    terminal.until("no app is there");
    let pid = std::fs::read_to_string(home.apps().join("pid")).unwrap();
    support::home::kill(pid.trim().parse().unwrap(), 15);
    assert!(terminal.until("icanon").contains("left with 0"));
}
