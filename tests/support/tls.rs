//! A certificate authority of the test's own, by openssl.

#![allow(clippy::unwrap_used, dead_code)]

use std::path::Path;
use std::process::{Command, Stdio};

/// Whether a program is there; if not, it is said what is not run.
pub fn has(program: &str) -> bool {
    let ran = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if ran.is_err() {
        println!("NOT RUN: no {program} in PATH (Debian: apt-get install {program})");
    }
    ran.is_ok()
}

/// Makes `ca.pem`, and a certificate of its for localhost with its key: `cert.pem`, `key.pem`.
pub fn certify(folder: &Path) {
    let openssl = |words: &str| {
        let ran = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test");
    openssl("req -newkey rsa:2048 -nodes -keyout key.pem -out request -subj /CN=localhost");
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl("x509 -req -in request -CA ca.pem -CAkey ca.key -out cert.pem -days 2 -extfile names");
}
