//! Thin, safe faces over system calls: the only place with `unsafe` code.
#![allow(unsafe_code)]

pub mod lockfile;
