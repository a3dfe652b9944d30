//! Jobs: accepted onto disk, placed on healthy ComfyUIs, followed to their outputs (docs/jobs.md).
//!
//! One task, the *engine*, owns every job that is not settled. It starts when the first job comes, or when there is a store
//! already; a daemon without jobs runs nothing of this.

mod engine;
mod feed;
mod fetch;
mod handle;
mod link;
mod machine;
mod report;
mod serve;
mod settings;
mod store;
mod syncs;
mod tls;
mod told;
mod webhook;

pub use engine::state_news;
pub use feed::{JobNews, Progress, Since, StateNews, What};
pub use handle::{
    Accepted, Cancelled, EngineStatus, Inbox, InstanceStatus, Jobs, NewJob, Refused, WantsPreviews,
    Watched,
};
pub use serve::serve;
pub use settings::JobSettings;
pub use store::{Attempt, Folders, Input, Output, Record, StoreError, Webhook, safe};
pub use told::job as told;
pub use webhook::{WebhookError, check as check_webhook};
