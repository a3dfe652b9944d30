//! What an app should be: PM2's keys, and the `fornax` block for what PM2 has no words for.

pub mod app;
pub mod conf;
pub mod fornax;
pub mod home;
pub mod instances;
