//! `deploy` of the real program: real git repositories, this machine, and a fake `ssh` that runs what it is given here.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use support::{Home, Ran};

fn git(folder: &Path, words: &[&str]) -> String {
    let ran = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(ran.status.success(), "git {words:?}: {ran:?}");
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

/// A repository, a working copy in which commands are given, and a place to deploy to.
struct Site {
    home: Home,
    path: String,
}

impl Site {
    fn new() -> Self {
        let home = Home::new();
        let apps = home.apps();
        std::fs::create_dir_all(apps.join("bin")).unwrap();
        git(&apps, &["init", "-q", "--bare", "origin.git"]);
        git(&apps, &["clone", "-q", "origin.git", "work"]);
        // What ssh(1) does with its words, less the network: everything behind the host is one line for a shell.
        home.app(
            "bin/ssh",
            "#!/bin/bash\necho \"$@\" >> \"$(dirname \"$0\")/ssh.log\"\nwhile [ \"$1\" != -- ]; do shift; done\nshift\n[ \"$1\" = me@gone ] && { echo 'no route to host' >&2; exit 255; }\nshift\nexec sh -c \"$*\"\n",
        );
        let path = format!(
            "{}:{}",
            apps.join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let site = Self { home, path };
        site.commit("one");
        site
    }

    fn work(&self) -> std::path::PathBuf {
        self.home.apps().join("work")
    }

    /// Commits and pushes a file of this text; the commit.
    fn commit(&self, text: &str) -> String {
        std::fs::write(self.work().join("text"), text).unwrap();
        git(&self.work(), &["add", "-A"]);
        git(&self.work(), &["commit", "-qm", text]);
        git(&self.work(), &["push", "-q", "origin", "HEAD:main"]);
        git(
            &self.work(),
            &["branch", "-q", "--set-upstream-to=origin/main"],
        );
        git(&self.work(), &["rev-parse", "HEAD"])
    }

    fn run(&self, words: &[&str]) -> Ran {
        let mut command = self.home.command(self.home.program(), words);
        let ran = command
            .current_dir(self.work())
            .env("PATH", &self.path)
            .output()
            .unwrap();
        Ran {
            code: ran.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&ran.stdout).into_owned(),
            err: String::from_utf8_lossy(&ran.stderr).into_owned(),
        }
    }

    /// An ecosystem file beside the working copy, with these keys over the usual ones.
    fn file(&self, keys: serde_json::Value) -> String {
        let mut block = serde_json::json!({
            "host": "localhost",
            "repo": self.home.apps().join("origin.git"),
            "ref": "origin/main",
            "path": self.home.apps().join("it's here"),
            "post-deploy": "cat text > ../deployed; echo \"$WORD\" > ../word",
            "env": {"WORD": "a 'b' $(c)"},
        });
        for (key, value) in keys.as_object().unwrap() {
            block[key] = value.clone();
        }
        let eco = serde_json::json!({"apps": [], "deploy": {"production": block}});
        self.home.app("eco.json", &eco.to_string())
    }

    fn there(&self, name: &str) -> String {
        let path = self.home.apps().join("it's here").join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

#[test]
fn a_repository_is_set_up_deployed_and_taken_back_on_this_machine() {
    let site = Site::new();
    let file = site.file(serde_json::json!({
        "pre-setup": "echo before > \"$path.pre\"", "post-setup": "ls > ../after-setup; cat",
        "pre-deploy": "echo \"$SHARED\" > ../pre-deploy", "pre-deploy-local": "echo $WORD > ../local",
    }));
    let deploy = |words: &[&str]| site.run(&[&["deploy", &file, "production"], words].concat());
    deploy(&[]).fails("is not set up");
    let told = deploy(&["setup"]).ok();
    for words in [
        "--> Deploying to production environment",
        "--> on host localhost",
        "--> Success",
    ] {
        assert!(told.out.contains(words), "{told:?}");
    }
    assert!(site.there("after-setup").contains("text"));
    assert!(site.home.apps().join("it's here.pre").exists());
    deploy(&["setup"]).fails("set up already");
    let first = git(&site.work(), &["rev-parse", "HEAD"]);
    deploy(&[]).ok().says("successfully deployed origin/main");
    assert_eq!(site.there("deployed"), "one");
    // The value is the variable's, whatever it holds.
    assert_eq!(site.there("word"), "a 'b' $(c)\n");
    assert!(site.there("pre-deploy").ends_with("it's here/shared\n"));
    assert_eq!(
        std::fs::read_to_string(site.home.apps().join("local")).unwrap(),
        "a 'b' $(c)\n"
    );

    let second = site.commit("two");
    deploy(&["update"]).ok();
    assert_eq!(site.there("deployed"), "two");
    assert_eq!(deploy(&["current"]).ok().out.trim(), second);
    assert_eq!(deploy(&["prev"]).ok().out.trim(), first);
    assert_eq!(deploy(&["list"]).ok().out.lines().count(), 2);
    assert_eq!(deploy(&["exec", "cat", "text"]).ok().out, "two");
    deploy(&["revert"]).ok();
    assert_eq!(site.there("deployed"), "one");
    assert_eq!(deploy(&["curr"]).ok().out.trim(), first);
    deploy(&["revert", "9"]).fails("nothing was deployed that long ago");
    deploy(&["ref", &second]).ok();
    assert_eq!(site.there("deployed"), "two");

    // What is only here would be missed.
    std::fs::write(site.work().join("text"), "three").unwrap();
    deploy(&[]).fails("commit or stash your changes before deploying");
    git(&site.work(), &["commit", "-qam", "three"]);
    deploy(&[]).fails("push your changes before deploying");
    deploy(&["--force"]).ok();
    assert_eq!(site.there("deployed"), "two");
    assert!(
        site.home.processes().is_empty(),
        "no daemon is wanted for this"
    );
}

#[test]
fn a_failed_step_fails_the_deployment_and_what_is_wrong_is_named() {
    let site = Site::new();
    let file = site.file(serde_json::json!({"post-deploy": "exit 7"}));
    site.run(&["deploy", &file, "production", "setup"]).ok();
    let failed = site
        .run(&["deploy", &file, "production"])
        .fails("Deploy failed");
    assert!(
        failed.err.contains("exit status: 7") && !failed.out.contains("Success"),
        "{failed:?}"
    );
    site.run(&["deploy", &file, "staging"])
        .fails("staging environment is not defined in");
    site.run(&["deploy"]).fails("missing required argument");
    site.run(&["deploy", &file]).fails("Usage: pm2 deploy");
    site.run(&["deploy", &file, "production", "dance"])
        .fails("dance");
    let file = site.file(serde_json::json!({"host": "-oProxyCommand=touch x"}));
    site.run(&["deploy", &file, "production"]).fails("`host`");
    let file = site.file(serde_json::json!({"pre-deploy-local": "exit 3"}));
    site.run(&["deploy", &file, "production"])
        .fails("pre-deploy-local");
}

#[test]
fn hooks_may_be_written_for_bash() {
    let site = Site::new();
    site.home.app("profile", "greeting=hello\n");
    let hook = format!(
        "source {} && [[ $greeting == h* ]] && echo \"$greeting\" > ../word",
        site.home.apps().join("profile").display()
    );
    for hosts in [serde_json::json!("localhost"), serde_json::json!(["one"])] {
        let keys = serde_json::json!({
            "host": hosts, "user": "me", "post-deploy": hook, "pre-deploy-local": "[[ a == a ]]",
        });
        let file = site.file(keys);
        let _ = std::fs::remove_dir_all(site.home.apps().join("it's here"));
        site.run(&["deploy", &file, "production", "setup"]).ok();
        site.run(&["deploy", &file, "production"]).ok();
        assert_eq!(site.there("word"), "hello\n");
    }
}

#[test]
fn other_machines_are_reached_by_ssh_with_words_and_secrets_are_in_none_of_them() {
    let site = Site::new();
    let hosts = serde_json::json!({
        "host": ["one", "two"], "user": "me", "port": 2222, "key": "/k ey",
        "ssh_options": "StrictHostKeyChecking=no", "env": {"SECRET": "s3cret"},
        "post-deploy": "echo \"$SECRET\" > ../word",
    });
    let file = site.file(hosts.clone());
    // Both hosts are this machine, so the second finds what the first has made.
    site.run(&["deploy", &file, "production", "setup"])
        .fails("set up already");
    site.run(&["deploy", &file, "production"])
        .ok()
        .says("--> on host two");
    assert_eq!(site.there("word"), "s3cret\n");
    let log = site.home.apps().join("bin/ssh.log");
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(
        said.lines().last().unwrap(),
        "-o StrictHostKeyChecking=no -i /k ey -p 2222 -- me@two exec $(command -v bash || command -v sh) -s"
    );
    assert!(!said.contains("s3cret"), "{said}");
    let mut unreachable = hosts;
    unreachable["host"] = "gone".into();
    let file = site.file(unreachable);
    let failed = site
        .run(&["deploy", &file, "production"])
        .fails("Deploy failed");
    assert!(failed.err.contains("no route to host"), "{failed:?}");
}
