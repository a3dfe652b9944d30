//! `/jobs`: work for this machine's ComfyUIs, over HTTP.

mod events;
mod intake;
mod outputs;
mod routes;
mod spool;

pub(super) use events::{of_job, of_machine};
pub(super) use outputs::output;
pub(super) use routes::{cancel, drain, list, one, submit, undrain};
