//! What the commands print, as pure functions from records to text: no I/O, no clock, colour only when asked for.
//!
//! The layout, the words and the units are PM2's, taken by observing pm2 7.0.4, since scripts parse them.

pub mod describe;
pub mod env;
pub mod grid;
pub mod host;
pub mod inspect;
pub mod js;
pub mod logs;
pub mod message;
pub mod mini;
pub mod row;
pub mod sort;
pub mod style;
pub mod table;
pub mod units;

mod blocks;
mod scalar;

pub use row::ProcRow;
pub use sort::Sort;
pub use table::{Layout, TableOptions};
