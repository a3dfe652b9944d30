//! What an app should be: PM2's keys, and the `fornax` block for what PM2 has no words for.

pub mod fornax;
