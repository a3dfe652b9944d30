//! Models: the shared folders, the manifest of what is wanted, and getting it there whole.
//!
//! A manifest ([`manifest`]) names files and where they come from; links of the kind of `static-models.json` may stand in the same
//! file. [`pull::pull`] brings them: it may be called by several processes at once and be killed at any moment. The installer's
//! step is that one call:
//!
//! 1. [`store::Store::of`] the workspace,
//! 2. [`manifest::Manifest::load`] for each manifest file ([`store::Store::default_manifests`] finds the usual ones), joined with
//!    [`manifest::Manifest::join`],
//! 3. [`pull::pull`] with [`pull::PullOptions`] and a listener for progress; the report says by file what became of it.
//!    [`pull::PullReport::is_whole`] tells whether the step has succeeded.
//!
//! It blocks for as long as the download takes, so no daemon thread may call it. [`status::look`] reads sizes and notes only and
//! takes milliseconds: health views may call it from a thread that may block.

mod download;
pub mod error;
pub mod event;
pub mod folders;
pub mod gc;
mod groups;
mod hash;
mod http;
pub mod index;
pub mod links;
pub mod manifest;
mod part;
pub mod place;
pub mod pull;
pub mod schema;
pub mod source;
pub mod status;
pub mod store;
pub mod told;
