//! PM2's commands, one a file, and the table that lists them.

pub mod act;
pub mod carry;
pub mod cloud;
pub mod completion;
pub mod daemon;
pub mod dump;
pub mod git;
pub mod list;
pub mod logs;
mod read;
pub mod report;
mod restart_env;
pub mod scale;
pub mod serve;
pub mod show;
pub mod signal;
pub mod start;
pub mod store;
pub mod table;
pub mod talk;
pub mod template;
pub mod update;
