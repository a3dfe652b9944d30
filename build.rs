//! How the program is linked: for a short start, since every command is a process of its own.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return;
    }
    // At a fixed address there are no 14,000 relocations to apply, and no pages of tables that they make each process's own.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    // The unwinder from the archive, where the linker's driver has it: one shared library less to find and map.
    let archive = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
        .arg("-print-file-name=libgcc_eh.a")
        .output();
    let found = archive.is_ok_and(|output| {
        // Without a path it is an archive that the driver does not know.
        Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute()
    });
    let native = std::env::var_os("HOST") == std::env::var_os("TARGET");
    if found && native {
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}
