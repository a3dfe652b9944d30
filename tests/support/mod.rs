//! Helpers of the tests.

pub mod pm2_client;
