//! Helpers of the tests.

pub mod home;
pub mod pm2_client;

pub use home::{Home, Ran, eventually};
