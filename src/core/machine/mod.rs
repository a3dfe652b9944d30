//! The machine section of `<workspace>/fornax.json`: what is to be installed and run, each setting in one place.

mod fallbacks;
mod instances;
mod settings;

pub use fallbacks::{FALLBACKS, Fallback, with_fallbacks};
pub use instances::Instance;
pub(crate) use settings::is_commit;
pub use settings::{Arguments, FornaxFile, Gpus, Installer, MAX_CLONES, Machine, schema};
