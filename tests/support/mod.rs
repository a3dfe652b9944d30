//! Helpers of the tests. Each test takes what it needs.

#![allow(dead_code, unused_imports)]

pub mod disk;
pub mod home;
pub mod http_load;
pub mod install;
pub mod jobs;
pub mod model_server;
pub mod pm2_client;
pub mod raw_rpc;
pub mod redis;
pub mod successor;
pub mod tls;

pub use home::{Home, Ran, eventually};
